"""The output folder of an exploration: page, figures, lists, pictures."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.drawing import save
from src.analysis.explore import photo_figures as fig
from src.analysis.explore.exploration import MEASURED, Exploration
from src.analysis.explore.problems import LISTS, Problem, find_problems, identical_sets
from src.analysis.explore.summary import EVALUABLE, MADE_BY, RARE, SHOWN, summarise
from src.analysis.pages import TASKS, Thumbnail, render, thumbnail
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
TABLES = (*LISTS, "labels", "pairs", "photos")
FILES = (FIGURES, PAGE, *PNGS, *TEXTS, *(f"{name}.csv" for name in TABLES), ARCHIVE)
COLUMN_NAMES = {
    "other_labels": "labels",
    "other_group": "group",
    "bright_end": "95% of pixels at or below",
    "white": "share blown out",
    "glare": "largest blown-out spot",
    "distance": "bits apart",
}
Thumbnails = Mapping[str, Thumbnail]


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
        data: the photos and their measurements.
        folder: where to write; see `check_folder`.

    Returns:
        the figures, as in `explore.json`.
    """
    problems = find_problems(data)
    summary = summarise(data, problems)
    # first, for it marks the folder as ours, should the rest be interrupted
    write_whole(folder / FIGURES, json.dumps(summary, indent=1, ensure_ascii=False).encode() + b"\n")
    samples = _samples(data)
    thumbnails = _thumbnails(data.source.root, [*_shown_paths(problems), *samples])
    _write_tables(data, problems, summary, folder)
    _write_texts(data, problems, folder)
    _write_pictures(data, problems, samples, thumbnails, folder)
    write_whole(folder / PAGE, _page(summary, thumbnails, folder))
    _write_archive(folder)
    return summary


def _shown_paths(problems: Sequence[Problem]) -> list[str]:
    """Return the photos that the lists on the page show."""
    rows = [row for problem in problems for row in problem.rows[:SHOWN]]
    return [row[name] for row in rows for name in ("path", "other", "file") if name in row]


def _thumbnails(root: Path, paths: Iterable[str]) -> dict[str, Thumbnail]:
    """Return `{path: thumbnail}`, each photo once."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(lambda path: thumbnail(root, path), paths), strict=True))


def _samples(data: Exploration, count: int = 10) -> list[str]:
    """Return the paths of photos spread over the labels: one of each combination in turn."""
    photos = data.readable
    combination = photos.groupby("all_labels")["path"]
    order = photos.assign(turn=combination.cumcount(), size=-combination.transform("size"))
    return order.sort_values(["turn", "size", "all_labels"])["path"][:count].tolist()


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    """Write a table."""
    table = pd.DataFrame(list(rows), columns=list(columns), dtype=object)
    write_whole(path, table.to_csv(index=False, lineterminator="\n").encode("utf-8"))


def _write_tables(data: Exploration, problems: Sequence[Problem], summary: dict, folder: Path) -> None:
    """Write a CSV per list, one of labels, one of pairs, and one of all photos with their measurements."""
    for problem in problems:
        _write_csv(folder / f"{problem.name}.csv", problem.columns, problem.rows)
    rows = [{"kind": kind, **row} for kind, labels in summary["labels"].items() for row in labels]
    _write_csv(folder / "labels.csv", ("kind", "label", "photos", "share", "groups", "verdict"), rows)
    columns = ("kind", "label", "other_kind", "other_label", "photos")
    rows = [
        dict(zip(columns, (pair["down"], name, pair["across"], other, count), strict=True))
        for pair in summary["pairs"]
        for name, counts in zip(pair["rows"], pair["photos"], strict=True)
        for other, count in zip(pair["columns"], counts, strict=True)
    ]
    _write_csv(folder / "pairs.csv", columns, rows)
    columns = ("path", "ID", "group", *data.kinds, *MEASURED)
    _write_csv(folder / "photos.csv", columns, map(_measured, data.photos.to_dict("records")))


def _measured(row: dict) -> dict:
    """Return a photo's row with rounded measurements; an unreadable photo has none."""
    if row["reason"]:
        return {name: value for name, value in row.items() if name not in MEASURED or name == "reason"}
    row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    return row | {"phash": "" if row["phash"] is None else f"{row['phash']:016x}"}


def _write_texts(data: Exploration, problems: Sequence[Problem], folder: Path) -> None:
    """Write the plain lists: a set of duplicates, an unreadable photo, a missing ID per line."""
    rows = {problem.name: problem.rows for problem in problems}
    unreadable = sorted(rows["corrupt"] + rows["truncated"], key=lambda row: row["path"])
    lines = {
        "duplicate_images.txt": ["\t".join(record.path for record in same) for same in identical_sets(data)],
        "corrupted_images.txt": [f"{row['path']}\t{row['reason']}" for row in unreadable],
        "missing_images.txt": [row["id"] for row in rows["missing"]],
    }
    for name, content in lines.items():
        write_whole(folder / name, "".join(f"{line}\n" for line in content).encode("utf-8"))


def _write_pictures(
    data: Exploration,
    problems: Sequence[Problem],
    samples: Sequence[str],
    thumbnails: Thumbnails,
    folder: Path,
) -> None:
    """Write the PNGs."""
    labels = {path: text.replace(";", ", ") for path, text in data.photos[["path", "all_labels"]].to_numpy()}
    outliers = next(problem.rows for problem in problems if problem.name == "brightness_outliers")
    sizes = data.readable[["width", "height"]].to_numpy(int)

    def grid(words: Mapping[str, str], empty: str) -> fig.Figure:
        shown = [(thumbnails[path][0], said) for path, said in words.items()]
        photos = [(np.asarray(open_image(content)), said) for content, said in shown if content]
        return fig.photo_grid_figure(photos, 5, empty)

    odd = {row["file"]: f"{row['brightness']:.0f}: {labels[row['file']]}" for row in outliers[:20]}
    figures = {
        "class_distribution.png": fig.counts_figure(data.kinds, RARE),
        "image_dimensions.png": fig.dimensions_figure(sizes),
        "aspect_ratios.png": fig.aspect_ratios_figure(sizes),
        "brightness_boxplot.png": fig.brightness_figure(data.brightness),
        "brightness_outlier_images_grid.png": grid(odd, "no photo whose brightness is unlike its label's"),
        "sample_grid.png": grid({path: labels[path] for path in samples}, "no photo can be read"),
    }
    for name, figure in figures.items():
        save(figure, folder / name)


def _page(summary: dict, thumbnails: Thumbnails, folder: Path) -> bytes:
    """Return the page; every figure on it stands in the summary."""
    counts = [row["photos"] for rows in summary["labels"].values() for row in rows]
    numbers = {n for per_photo in summary["labels_per_photo"].values() for n in per_photo}
    return render(
        "explore.html",
        title=f"{summary['data']}: a look at the data",
        eyebrow=["Corbel", "a look at the data"],
        name=summary["data"],
        about=f"{summary['task']}: {TASKS[summary['task']]}",
        details="",
        scores=list(summary["totals"].items()),
        digits=0,
        notes=summary["notices"],
        summary=summary,
        thumbnails=thumbnails,
        pictures={name: (folder / name).read_bytes() for name in PNGS},
        words=COLUMN_NAMES,
        most=max(counts, default=1),
        label_numbers=sorted(numbers, key=int),
        rare=RARE,
        evaluable=EVALUABLE,
    )


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
