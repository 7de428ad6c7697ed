"""The output folder of an exploration: page, figures, lists, pictures."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from src.analysis.drawing import save
from src.analysis.explore import photo_figures as fig
from src.analysis.explore.exploration import MEASURED, Exploration
from src.analysis.explore.problems import LISTS, UNUSUAL, Row, find_problems
from src.analysis.explore.summary import EVALUABLE, RARE, pair_counts, summarise
from src.analysis.pages import ABOUT_TASK, Thumbnail, make_output, render, thumbnail
from src.datamodules.groups import identical_sets
from src.files import write_csv, write_whole

PAGE, FIGURES, ARCHIVE = "explore.html", "explore.json", "dataset_exploration.zip"
PNGS = ("class_distribution.png", "image_dimensions.png", "aspect_ratios.png", "brightness_boxplot.png",
        "brightness_outlier_images_grid.png", "sample_grid.png")  # fmt: skip
TEXTS = ("duplicate_images.txt", "corrupted_images.txt", "missing_images.txt")
TABLES = (*LISTS, "labels", "pairs", "photos")
CONTENT = (FIGURES, PAGE, *PNGS, *TEXTS, *(f"{name}.csv" for name in TABLES))  # of the archive
FILES = (*CONTENT, ARCHIVE)
ALL_PAIRS = 10_000  # past it pairs that no photo carries are left out of pairs.csv
Thumbnails = Mapping[str, Thumbnail]
Problems = Mapping[str, Sequence[Row]]


def check_folder(folder: Path, photos: Iterable[Path]) -> None:
    """Make the output folder; files of an earlier exploration are written over, no others."""
    make_output(folder, photos, () if (folder / FIGURES).is_file() else FILES)


def write_exploration(data: Exploration, folder: Path) -> dict:
    """Write the page, its figures as JSON, a CSV per list, the pictures, and a ZIP of them all.

    The same data give the same bytes. Files of other names in the folder, see `check_folder`, are left alone.
    Returns the figures, as in `explore.json`.
    """
    problems = find_problems(data)
    summary = summarise(data, problems)
    # first, for it marks the folder as ours, should the rest be interrupted
    write_whole(folder / FIGURES, json.dumps(summary, indent=1, ensure_ascii=False).encode() + b"\n")
    rows = [row for problem in summary["problems"] for row in problem["shown"]]
    shown = [row[name] for row in rows for name in ("path", "other", "file") if name in row]
    shown += [path for finding in summary["findings"] for path in finding["paths"]]
    samples = _samples(data)
    paths = list(dict.fromkeys([*shown, *samples]))
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda path: thumbnail(data.source.root, path, sample_bits=data.sample_bits), paths)
        thumbnails = dict(zip(paths, found, strict=True))
    _write_tables(data, problems, summary, folder)
    _write_texts(data, problems, folder)
    _write_pictures(data, problems, samples, thumbnails, folder)
    write_whole(folder / PAGE, _page(summary, thumbnails, folder))
    _write_archive(folder)
    return summary


def _samples(data: Exploration, count: int = 10) -> list[str]:
    """Return the paths of photos spread over the labels: one of each combination in turn."""
    photos = data.readable
    combination = photos.groupby("all_labels")["path"]
    order = photos.assign(turn=combination.cumcount(), size=-combination.transform("size"))
    return order.sort_values(["turn", "size", "all_labels"])["path"][:count].tolist()


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping]) -> None:
    write_csv(path, pd.DataFrame(list(rows), columns=list(columns), dtype=object), None)


def _write_tables(data: Exploration, problems: Problems, summary: dict, folder: Path) -> None:
    for name, rows in problems.items():
        _write_csv(folder / f"{name}.csv", LISTS[name][1], rows)
    rows = [{"kind": kind, **row} for kind, labels in summary["labels"].items() for row in labels]
    _write_csv(folder / "labels.csv", ("kind", "label", "photos", "share", "groups", "verdict"), rows)
    columns = ("kind", "label", "other_kind", "other_label", "photos")
    rows = [
        dict(zip(columns, (down, name, across, other, counts[name, other]), strict=True))
        for down, across, counts in pair_counts(data)
        for name in data.kinds[down]
        for other in data.kinds[across]
        if (name, other) in counts or len(data.kinds[down]) * len(data.kinds[across]) <= ALL_PAIRS
    ]
    _write_csv(folder / "pairs.csv", columns, rows)
    columns = ("path", "ID", "group", *data.kinds, *MEASURED)
    _write_csv(folder / "photos.csv", columns, map(_measured, data.photos.to_dict("records")))


def _measured(row: dict) -> dict:
    if row["reason"]:
        return {name: value for name, value in row.items() if name not in MEASURED or name == "reason"}
    row = {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
    return row | {"phash": "" if row["phash"] is None else f"{row['phash']:016x}"}


def _write_texts(data: Exploration, problems: Problems, folder: Path) -> None:
    unreadable = sorted(problems["corrupt"] + problems["truncated"], key=lambda row: row["path"])
    lines = (
        ["\t".join(record.path for record in same) for same in identical_sets(data.records)],
        [f"{row['path']}\t{row['reason']}" for row in unreadable],
        [row["id"] for row in problems["missing"]],
    )
    for name, content in zip(TEXTS, lines, strict=True):
        write_whole(folder / name, "".join(f"{line}\n" for line in content).encode("utf-8"))


def _write_pictures(
    data: Exploration, problems: Problems, samples: Sequence[str], thumbnails: Thumbnails, folder: Path
) -> None:
    labels = {path: text.replace(";", ", ") for path, text in data.photos[["path", "all_labels"]].to_numpy()}
    sizes = data.readable[["width", "height"]].to_numpy(int)

    outliers = [(row["file"], row["brightness"]) for row in problems["brightness_outliers"][:20]]
    odd = [(thumbnails[path], f"{level:.0f}: {labels[path]}") for path, level in outliers]
    figures = (
        fig.counts_figure(data.kinds, RARE),
        fig.dimensions_figure(sizes),
        fig.aspect_ratios_figure(sizes),
        fig.brightness_figure(data.brightness),
        fig.thumbnail_grid_figure(odd, "no photo whose brightness is unlike its label's"),
        fig.thumbnail_grid_figure([(thumbnails[p], labels[p]) for p in samples], "no photo can be read"),
    )
    for name, figure in zip(PNGS, figures, strict=True):
        save(figure, folder / name)


def _page(summary: dict, thumbnails: Thumbnails, folder: Path) -> bytes:
    numbers = {n for per_photo in summary["labels_per_photo"].values() for n in per_photo}
    return render(
        "explore.html",
        title=f"{summary['data']}: a look at the data",
        eyebrow=["Corbel", "a look at the data"],
        name=summary["data"],
        about=f"{summary['task']}: {ABOUT_TASK[summary['task']]}",
        scores=list(summary["totals"].items()),
        digits=0,
        notes=summary["notices"],
        summary=summary,
        thumbnails=thumbnails,
        pictures={name: (folder / name).read_bytes() for name in PNGS},
        label_numbers=sorted(numbers, key=int),
        rare=RARE,
        evaluable=EVALUABLE,
        unusual=UNUSUAL,
    )


def _write_archive(folder: Path) -> None:
    """Pack all files; without times, so that the same files give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CONTENT:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())
    write_whole(folder / ARCHIVE, packed.getvalue())
