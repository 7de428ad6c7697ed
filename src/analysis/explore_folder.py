"""The folder of an exploration: who may write there, and the files that it holds."""

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from src.analysis import explore_figures as fig
from src.analysis.drawing import save
from src.analysis.exploration import Exploration, label_text
from src.analysis.explore_page import explore_page
from src.analysis.explore_summary import MADE_BY, RARE, SHOWN, summarise
from src.analysis.problems import Problem, find_problems, identical_sets
from src.analysis.worst_errors import thumbnail
from src.errors import InputError, listed
from src.files import make_folder, write_whole
from src.images import open_image

PAGE, FIGURES, ARCHIVE = "explore.html", "explore.json", "dataset_exploration.zip"
PNGS = (
    "class_distribution.png",
    "image_dimensions.png",
    "aspect_ratios.png",
    "brightness_boxplot.png",
    "brightness_outlier_images_grid.png",
    "sample_grid.png",
)
TEXTS = ("duplicate_images.txt", "corrupted_images.txt", "missing_images.txt")
LISTS = (
    "corrupt", "truncated", "missing", "ambiguous", "repeated_ids", "unlabelled", "several_labels",
    "identical", "near_duplicates", "conflicting_labels", "blurred", "dark", "overexposed",
    "low_information", "odd_size", "brightness_outliers", "labels", "pairs", "photos",
)  # fmt: skip
FILES = (FIGURES, PAGE, *PNGS, *TEXTS, *(f"{name}.csv" for name in LISTS), ARCHIVE)
LOOK_COLUMNS = (
    "reason", "format", "width", "height", "brightness", "bright_end", "contrast", "sharpness", "white",
    "glare", "orientation", "camera", "taken", "located", "digest", "phash",
)  # fmt: skip


def check_folder(folder: Path, photos: Iterable[Path]) -> None:
    """Refuse a folder that an exploration must not be written to.

    Args:
        folder: it need not exist.
        photos: folders that photos are read from: pictures written there would be photos the next time.

    Raises:
        InputError: for a folder that cannot be written, that photos are read from or that lies in one, and
            for one that holds a file of a name that would be written, unless an exploration wrote it.
    """
    whole = folder.resolve()
    for root in photos:
        if whole.is_relative_to(root.resolve()):
            raise InputError(
                f"output={folder}: lies in the photos' folder {root}, where its pictures would count as "
                "photos; name another folder"
            )
    make_folder(folder)
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and not _is_ours(folder / FIGURES):
        raise InputError(
            f"output={folder}: holds {listed(taken, 3)}, which no exploration wrote; name another folder"
        )


def _is_ours(path: Path) -> bool:
    """Whether a file holds the figures of an exploration."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == MADE_BY


def write_exploration(data: Exploration, folder: Path) -> dict:
    """Write the page, its figures as JSON, a CSV per list, the pictures, and a ZIP of them all.

    The same data give the same bytes. Files of other names in the folder are left alone.

    Args:
        data: the photos and what was seen of them.
        folder: where to write; see `check_folder`.

    Returns:
        the figures, as in `explore.json`.
    """
    problems = find_problems(data)
    summary = summarise(data, problems)
    # first, for it marks the folder as ours, should the rest be interrupted
    write_whole(folder / FIGURES, json.dumps(summary, indent=1, ensure_ascii=False).encode() + b"\n")
    samples = _samples(data)
    thumbnails = _thumbnails(data.root, [*_shown_paths(problems), *samples])
    _write_tables(data, problems, summary, folder)
    _write_texts(data, problems, folder)
    _write_pictures(data, problems, samples, thumbnails, folder)
    pictures = {name: (folder / name).read_bytes() for name in PNGS}
    page = explore_page(summary, thumbnails, pictures)
    write_whole(folder / PAGE, page.encode("utf-8"))
    _write_archive(folder)
    return summary


def _shown_paths(problems: Sequence[Problem]) -> list[str]:
    """Return the photos that the lists on the page show."""
    rows = [row for problem in problems for row in problem.rows[:SHOWN]]
    return [row[name] for row in rows for name in ("path", "other", "file") if name in row]


def _thumbnails(root: Path, paths: Iterable[str]) -> dict[str, tuple[bytes | None, str]]:
    """Return `{path: (JPEG or None, reason)}`, each photo once."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(lambda path: thumbnail(root, path), paths), strict=True))


def _samples(data: Exploration, count: int = 10) -> list[str]:
    """Return the paths of photos spread over the labels: one of each combination in turn."""
    found: dict[str, list[str]] = {}
    for record, _ in data.readable:
        found.setdefault(label_text(record), []).append(record.path)
    sets = [found[name] for name in sorted(found, key=lambda name: (-len(found[name]), name))]
    rounds = range(max((len(paths) for paths in sets), default=0))
    return [paths[i] for i in rounds[:count] for paths in sets if i < len(paths)][:count]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """Write a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode("utf-8"))


def _write_tables(data: Exploration, problems: Sequence[Problem], summary: dict, folder: Path) -> None:
    """Write a CSV per list, one of labels, one of pairs, and one of all photos with what was measured."""
    for problem in problems:
        _write_csv(folder / f"{problem.name}.csv", problem.columns, problem.rows)
    rows = [{"kind": kind, **row} for kind, labels in summary["labels"].items() for row in labels]
    _write_csv(folder / "labels.csv", ("kind", "label", "photos", "share", "groups", "verdict"), rows)
    rows = [
        {
            "kind": pair["down"],
            "label": name,
            "other_kind": pair["across"],
            "other_label": other,
            "photos": count,
        }
        for pair in summary["pairs"]
        for name, counts in zip(pair["rows"], pair["photos"], strict=True)
        for other, count in zip(pair["columns"], counts, strict=True)
    ]
    _write_csv(folder / "pairs.csv", ("kind", "label", "other_kind", "other_label", "photos"), rows)
    _write_csv(folder / "photos.csv", ("path", "ID", "group", *data.kinds, *LOOK_COLUMNS), _photo_rows(data))


def _photo_rows(data: Exploration) -> Iterable[dict]:
    """Return a row per labelled photo."""
    for record, look in zip(data.records, data.looks, strict=True):
        row = {"path": record.path, "ID": record.id, "group": record.group}
        row |= {kind: ";".join(record.labels.get(kind, ())) for kind in data.kinds}
        if look.reason:
            yield row | {"reason": look.reason}
            continue
        seen = {name: getattr(look, name) for name in LOOK_COLUMNS}
        seen = {name: round(value, 4) if isinstance(value, float) else value for name, value in seen.items()}
        yield row | seen | {"phash": "" if look.phash is None else f"{look.phash:016x}"}


def _write_texts(data: Exploration, problems: Sequence[Problem], folder: Path) -> None:
    """Write the plain lists: a set of duplicates, an unreadable photo, a missing ID per line."""
    rows = {problem.name: problem.rows for problem in problems}
    lines = {
        "duplicate_images.txt": ["\t".join(record.path for record in same) for same in identical_sets(data)],
        "corrupted_images.txt": [
            f"{row['path']}\t{row['reason']}"
            for row in sorted(rows["corrupt"] + rows["truncated"], key=lambda row: row["path"])
        ],
        "missing_images.txt": [row["id"] for row in rows["missing"]],
    }
    for name, content in lines.items():
        write_whole(folder / name, "".join(f"{line}\n" for line in content).encode("utf-8"))


def _write_pictures(
    data: Exploration,
    problems: Sequence[Problem],
    samples: Sequence[str],
    thumbnails: Mapping[str, tuple[bytes | None, str]],
    folder: Path,
) -> None:
    """Write the PNGs."""
    sizes = np.array([(look.width, look.height) for _, look in data.readable], int).reshape(-1, 2)
    labels = {record.path: ", ".join(label_text(record).split(";")) for record in data.records}
    outliers = next(problem.rows for problem in problems if problem.name == "brightness_outliers")
    brightness: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in counts} for kind, counts in data.kinds.items()
    }
    for record, look in data.readable:
        for kind, names in record.labels.items():
            for name in names:
                brightness[kind][name].append(look.brightness)

    def photos(paths: Iterable[str], words: Mapping[str, str]) -> list[tuple[np.ndarray, str]]:
        shown = ((path, thumbnails[path][0]) for path in paths)
        return [(np.asarray(open_image(content)), words[path]) for path, content in shown if content]

    told = {row["file"]: f"{row['brightness']:.0f}: {labels[row['file']]}" for row in outliers[:20]}
    none = "no photo whose brightness is unlike its label's"
    figures = {
        "class_distribution.png": fig.counts_figure(data.kinds, RARE),
        "image_dimensions.png": fig.dimensions_figure(sizes),
        "aspect_ratios.png": fig.aspect_ratios_figure(sizes),
        "brightness_boxplot.png": fig.brightness_figure(brightness),
        "brightness_outlier_images_grid.png": fig.photo_grid_figure(photos(told, told), 4, 5, none),
        "sample_grid.png": fig.photo_grid_figure(photos(samples, labels), 2, 5, "no photo can be read"),
    }
    for name, figure in figures.items():
        save(figure, folder / name)


def _write_archive(folder: Path) -> None:
    """Pack all files; without times, so that the same files give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            if name != ARCHIVE:
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, (folder / name).read_bytes())
    write_whole(folder / ARCHIVE, packed.getvalue())
