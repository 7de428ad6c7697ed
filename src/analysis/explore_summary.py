"""The figures of an exploration as plain data: what `explore.json` holds and the page shows."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import PurePath

import numpy as np

from src.analysis.exploration import Exploration
from src.analysis.problems import Problem, near_pairs_of

MADE_BY = "scripts/explore.py"
RARE = 25  # photos; below, a threshold or a score of the label says little
EVALUABLE = 3  # groups; below, a label cannot stand in train, val and test
SHOWN = 60  # rows of a list that the page shows; its CSV has all
SIZES = 12  # of the commonest sizes, formats, cameras
GROUP_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, 200), (201, None))


def summarise(data: Exploration, problems: Sequence[Problem]) -> dict:
    """Return all figures, ready for JSON; the page is made from nothing else but photos."""
    labels = _labels(data)
    groups = _groups(data)
    return {
        "made_by": MADE_BY,
        "data": _data_name(data),
        "task": data.task,
        "totals": {
            "labelled photos": len(data.records),
            "labels": sum(map(len, labels.values())),
            "groups": groups["joined"],
            "kinds of problems": sum(bool(problem.rows) for problem in problems),
        },
        "photos": {
            "labelled": len(data.records),
            "readable": len(data.readable),
            "unlabelled": len(data.source.unlabelled),
        },
        "notices": _notices(data, labels, groups),
        "problems": [
            {
                "name": problem.name,
                "title": problem.title,
                "rule": problem.rule,
                "count": len(problem.rows),
                "columns": list(problem.columns),
                "shown": [dict(row) for row in problem.rows[:SHOWN]],
            }
            for problem in problems
        ],
        "labels": labels,
        "labels_per_photo": _labels_per_photo(data),
        "pairs": _pairs(data),
        "groups": groups,
        "sizes": _most([f"{look.width} x {look.height}" for _, look in data.readable]),
        "aspect_ratios": _most([f"{look.width / look.height:.2f}" for _, look in data.readable]),
        "brightness": _brightness(data),
        "formats": _most([look.format for _, look in data.readable]),
        "exif": _exif(data),
    }


def _data_name(data: Exploration) -> str:
    """Return the name of the photos' folder; a name that says nothing comes with its parent's."""
    parts = PurePath(data.root.resolve()).parts[-2:]
    return "/".join(parts if parts[-1] in ("images", "photos", "train") else parts[-1:])


def _labels(data: Exploration) -> dict[str, list[dict]]:
    """Return each label's photos and groups, the commonest first, and what is too few."""
    carrying: dict[tuple[str, str], set[int]] = {}
    for record, group in zip(data.records, data.linked.groups.tolist(), strict=True):
        for kind, names in record.labels.items():
            for name in names:
                carrying.setdefault((kind, name), set()).add(group)
    return {
        kind: [
            {
                "label": name,
                "photos": photos,
                "share": round(photos / len(data.records), 4),
                "groups": (groups := len(carrying[kind, name])),
                "verdict": "cannot be evaluated" if groups < EVALUABLE else "rare" if photos < RARE else "",
            }
            for name, photos in counts.items()
        ]
        for kind, counts in data.kinds.items()
    }


def _labels_per_photo(data: Exploration) -> dict[str, dict[str, int]]:
    """Return `{kind: {number of labels: photos}}`."""
    return {
        kind: {
            str(n): count
            for n, count in sorted(Counter(len(r.labels.get(kind, ())) for r in data.records).items())
        }
        for kind in data.kinds
    }


def _pairs(data: Exploration) -> list[dict]:
    """Return, for each two kinds, how many photos carry each pair of labels; the longer kind in rows."""
    found = []
    for kinds in combinations(data.kinds, 2):
        down, across = sorted(kinds, key=lambda kind: -len(data.kinds[kind]))
        counts = Counter(
            pair for r in data.records for pair in product(r.labels.get(down, ()), r.labels.get(across, ()))
        )
        names, others = list(data.kinds[down]), list(data.kinds[across])
        table = [[counts[name, other] for other in others] for name in names]
        found.append({"down": down, "across": across, "rows": names, "columns": others, "photos": table})
    return found


def _groups(data: Exploration) -> dict:
    """Return how many groups there are, how large they are, and which is the largest."""
    joined = data.linked.groups
    sizes = np.bincount(joined)
    largest = int(sizes.argmax())
    names = dict.fromkeys(r.group for r, g in zip(data.records, joined.tolist(), strict=True) if g == largest)
    within: dict[str, int] = {}
    for low, high in GROUP_SIZES:
        name = str(low) if low == high else f"{low} to {high}" if high else f"{low} or more"
        within[name] = int(((sizes >= low) & (sizes <= (high or sizes.max()))).sum())
    crossing = sum(record.group != other.group for record, other, _ in near_pairs_of(data))
    return {
        "by": data.group,
        "named": len({record.group for record in data.records}),
        "joined": len(sizes),
        "photos_per_group": {name: count for name, count in within.items() if count},
        "largest": {
            "name": " + ".join(list(names)[:3]) + (f" + {len(names) - 3} more" if len(names) > 3 else ""),
            "photos": int(sizes[largest]),
            "share": round(float(sizes[largest] / len(joined)), 4),
        },
        "near_duplicates_across": crossing,
    }


def _notices(data: Exploration, labels: dict, groups: dict) -> list[str]:
    """Return what has to be known before anything else."""
    notices = []
    if groups["largest"]["photos"] * 2 > len(data.records) and groups["joined"] > 1:
        notices.append(
            f"One group holds {groups['largest']['photos']:,} of {len(data.records):,} photos "
            f"({groups['largest']['name']}) and stays in one split: see data.group and data.near_duplicates."
        )
    if groups["joined"] == 1 and len(data.records) > 1:
        notices.append("All photos are one group, so they cannot be split: see data.group.")
    for kind in dict.fromkeys(kind for record in data.records for kind in record.labels):
        if kind not in labels:
            notices.append(f"No photo carries a {kind}.")
    for kind, rows in labels.items():
        if len(rows) == 1:
            notices.append(f"Only one {kind}, {rows[0]['label']}: a classifier needs two or more.")
    few = [
        row["label"] for rows in labels.values() for row in rows if row["verdict"] == "cannot be evaluated"
    ]
    if few:
        notices.append(f"Cannot be evaluated, fewer than {EVALUABLE} groups: {', '.join(few)}.")
    rare = [row["label"] for rows in labels.values() for row in rows if row["verdict"] == "rare"]
    if rare:
        notices.append(f"Rare, fewer than {RARE} photos: {', '.join(rare)}.")
    if not data.readable:
        notices.append("No photo can be read.")
    return notices


def _most(values: Sequence[str]) -> dict[str, int]:
    """Return the commonest values with their counts; what is left over as `others`."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in counts[SIZES:])
    return dict(counts[:SIZES]) | ({"others": rest} if rest else {})


def _brightness(data: Exploration) -> dict[str, list[dict]]:
    """Return the spread of the mean gray level per label, in the order of the labels."""
    values: dict[tuple[str, str], list[float]] = {}
    for record, look in data.readable:
        for kind, names in record.labels.items():
            for name in names:
                values.setdefault((kind, name), []).append(look.brightness)
    found: dict[str, list[dict]] = {}
    for kind, counts in data.kinds.items():
        found[kind] = []
        for name in counts:
            if (kind, name) in values:
                low, first, median, third, high = np.percentile(values[kind, name], (0, 25, 50, 75, 100))
                spread = {
                    "least": low,
                    "quartile": first,
                    "median": median,
                    "quartile_3": third,
                    "most": high,
                }
                found[kind].append({"label": name} | {key: round(float(v), 1) for key, v in spread.items()})
    return found


def _exif(data: Exploration) -> dict:
    """Return what the files say of orientation, camera and time; of places only how many tell one."""
    looks = [look for _, look in data.readable]
    taken = sorted(look.taken for look in looks if look.taken[:4].isdigit() and look.taken[:4] != "0000")
    return {
        "orientation": _most([str(look.orientation or "none") for look in looks]),
        "turned": sum((look.orientation or 1) > 1 for look in looks),
        "cameras": _most([look.camera or "none" for look in looks]),
        "with_time": len(taken),
        "first": taken[0] if taken else "",
        "last": taken[-1] if taken else "",
        "with_place": sum(look.located for look in looks),
    }
