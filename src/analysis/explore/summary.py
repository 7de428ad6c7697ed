"""The figures of an exploration as plain data: the content of `explore.json` and of the page."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, combinations, product

import numpy as np
import pandas as pd

from src.analysis.explore.exploration import Exploration
from src.analysis.explore.problems import LISTS, Row, near_pairs_of, rule_of
from src.analysis.pages import LISTED, folder_name
from src.errors import listed

RARE = 25  # photos; below, a threshold or a score of the label says little
EVALUABLE = 3  # groups; below, a label cannot stand in train, val and test
SHOWN = 60  # rows of a list that the page shows; its CSV has all
PAIRS = 60, 40  # rows and columns of a table of pairs
SIZES = 12  # of the commonest sizes, formats, cameras
GROUP_SIZES = {"1": 1, "2": 2, "3 to 5": 5, "6 to 10": 10, "11 to 20": 20, "21 to 50": 50, "51 to 200": 200,
               "201 or more": np.inf}  # fmt: skip


def summarise(data: Exploration, problems: Mapping[str, Sequence[Row]]) -> dict:
    """Return all figures, ready for JSON; the page needs nothing else but pictures."""
    labels, groups, photos = _labels(data), _groups(data), data.readable
    return {
        "made_by": "scripts/explore.py",
        "data": folder_name(data.source.root.resolve(), ("images", "photos", "train")),
        "task": data.task,
        "totals": {
            "labelled photos": len(data.records),
            "labels": sum(map(len, labels.values())),
            "groups": groups["joined"],
            "kinds of problems": sum(map(bool, problems.values())) + len(data.source.findings),
        },
        "photos": {
            "labelled": len(data.records),
            "readable": len(photos),
            "unlabelled": len(data.source.unlabelled),
        },
        "notices": _notices(data, labels, groups),
        "findings": [{**asdict(found), "paths": list(found.paths)} for found in data.source.findings],
        "problems": [
            {
                "name": name,
                "title": LISTS[name][0],
                "rule": rule_of(name, data.near_duplicates),
                "count": len(rows),
                "columns": list(LISTS[name][1]),
                "shown": rows[:SHOWN],
            }
            for name, rows in problems.items()
        ],
        "labels": labels,
        "labels_per_photo": {
            kind: {str(n): count for n, count in sorted(Counter(map(len, names)).items())}
            for kind in data.kinds
            for names in [[record.labels.get(kind, ()) for record in data.records]]
        },
        "pairs": _pairs(data),
        "groups": groups,
        "sizes": _most(f"{w} x {h}" for w, h in zip(photos["width"], photos["height"], strict=True)),
        "aspect_ratios": _most(f"{ratio:.2f}" for ratio in photos["width"] / photos["height"]),
        "formats": _most(photos["format"]),
        "exif": _exif(data),
    }


def _labels(data: Exploration) -> dict[str, list[dict]]:
    groups = data.carried.groupby(["kind", "label"])["joined"].nunique()
    found: dict[str, list[dict]] = {}
    for kind, counts in data.kinds.items():
        for name, photos in counts.items():
            count = int(groups[kind, name])
            row = {"label": name, "photos": photos, "share": round(photos / len(data.records), 4)}
            verdict = "cannot be evaluated" if count < EVALUABLE else "rare" if photos < RARE else ""
            found.setdefault(kind, []).append({**row, "groups": count, "verdict": verdict})
    return found


def pair_counts(data: Exploration) -> Iterator[tuple[str, str, Counter]]:
    """Yield, for each two kinds, how many photos carry each pair of labels; the longer kind first."""
    for kinds in combinations(data.kinds, 2):
        down, across = sorted(kinds, key=lambda kind: -len(data.kinds[kind]))
        pairs = (product(r.labels.get(down, ()), r.labels.get(across, ())) for r in data.records)
        yield down, across, Counter(chain.from_iterable(pairs))


def _pairs(data: Exploration) -> list[dict]:
    found = []
    for down, across, counts in pair_counts(data):
        names, others = list(data.kinds[down])[: PAIRS[0]], list(data.kinds[across])[: PAIRS[1]]
        table = [[counts[name, other] for other in others] for name in names]
        found.append({"down": down, "across": across, "rows": names, "columns": others, "photos": table})
    return found


def _groups(data: Exploration) -> dict:
    joined = data.linked.groups
    sizes = np.bincount(joined)
    largest = int(sizes.argmax())
    names = list(data.photos["group"][joined == largest].unique())
    counts = pd.cut(sizes, [0, *GROUP_SIZES.values()], labels=list(GROUP_SIZES)).value_counts()
    return {
        "by": data.group,
        "named": data.photos["group"].nunique(),
        "joined": len(sizes),
        "photos_per_group": {name: int(count) for name, count in counts.items() if count},
        "largest": {
            "name": " + ".join(names[:3]) + (f" + {len(names) - 3} more" if len(names) > 3 else ""),
            "photos": int(sizes[largest]),
            "share": round(float(sizes[largest] / len(joined)), 4),
        },
        "near_duplicates_across": sum(a.group != b.group for a, b, _ in near_pairs_of(data)),
    }


def _notices(data: Exploration, labels: dict, groups: dict) -> list[str]:
    notices, photos = [], len(data.records)
    if groups["largest"]["photos"] * 2 > photos and groups["joined"] > 1:
        notices.append(
            f"One group holds {groups['largest']['photos']:,} of {photos:,} photos "
            f"({groups['largest']['name']}) and stays in one split: see data.group and data.near_duplicates."
        )
    if groups["joined"] == 1 and photos > 1:
        notices.append("All photos are one group, so they cannot be split: see data.group.")
    kinds = dict.fromkeys(kind for record in data.records for kind in record.labels)
    notices += [f"No photo carries a {kind}." for kind in kinds if kind not in labels]
    for kind, rows in labels.items():
        if len(rows) == 1:
            notices.append(f"Only one {kind}, {rows[0]['label']}: a classifier needs two or more.")
    for verdict, why in (
        ("cannot be evaluated", f"Cannot be evaluated, fewer than {EVALUABLE} groups"),
        ("rare", f"Rare, fewer than {RARE} photos"),
    ):
        if few := [row["label"] for rows in labels.values() for row in rows if row["verdict"] == verdict]:
            notices.append(f"{why}: {listed(map(repr, few), LISTED)}.")
    return notices if len(data.readable) else [*notices, "No photo can be read."]


def _most(values: Iterable[str]) -> dict[str, int]:
    """Return the commonest values with their counts; the sum of the others as `others`."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in counts[SIZES:])
    return dict(counts[:SIZES]) | ({"others": rest} if rest else {})


def _exif(data: Exploration) -> dict:
    """Return orientation, camera and time as the files have them; of places only how many files have one."""
    photos = data.readable
    taken = sorted(time for time in photos["taken"] if time[:4].isdigit() and time[:4] != "0000")
    return {
        "orientation": _most(str(orientation or "none") for orientation in photos["orientation"]),
        "turned": sum((orientation or 1) > 1 for orientation in photos["orientation"]),
        "cameras": _most(camera or "none" for camera in photos["camera"]),
        "with_time": len(taken),
        "first": taken[0] if taken else "",
        "last": taken[-1] if taken else "",
        "with_place": int(photos["located"].sum()),
    }
