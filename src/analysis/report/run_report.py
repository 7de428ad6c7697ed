"""The report of a run: one HTML page for people, complete in itself."""

from collections.abc import Mapping
from pathlib import Path, PurePath

from src.analysis.pages import TASKS, folder_name, is_number, render, thumbnail
from src.analysis.report.worst_errors import compared
from src.errors import listed
from src.files import write_whole
from src.overrides import typed
from src.runs import RunFolder, crossing_groups, label_counts, read_run, run_date

REPOSITORY = Path(__file__).resolve().parents[3]
WORST = 24
FEW = 5  # below this many photos a score of a label says little
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
SCORES = {
    "loss": "loss",
    "exact_match": "exact match (every label of the photo right)",
    "accuracy": "accuracy",
    "hamming_loss": "Hamming loss (share of wrong decisions)",
    "f1_macro": "macro F1",
    "f1_macro_at_0.5": "macro F1 with every threshold at 0.5",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "map": "mean average precision",
}
FIGURES = ("loss_curve.png", "confusion_matrix.png", "class_distribution.png")


def write_report(run: Path, images_root: Path | None = None) -> Path:
    """Write `report.html` into a run's folder: self-contained, without scripts, readable offline.

    Args:
        run: the folder of a run.
        images_root: data root for the thumbnails; by default the one of the run's configuration, if that
            folder exists. Without photos the worst errors are described in words.

    Raises:
        InputError: if `metrics.json` or `predictions.csv` is missing, or a file of the folder cannot be read.
    """
    folder = read_run(run)
    root = Path(images_root) if images_root is not None else folder.data_root
    root = root if root is not None and root.is_dir() else None
    config = folder.path / ".hydra" / "config.yaml"
    name, date = _data_name(folder), run_date(folder)
    closest = folder.certificate.get("closest") or {}
    mistakes, count = compared(folder)
    figures = {name: folder.path / name for name in FIGURES if (folder.path / name).is_file()}
    labels = ", ".join(f"{len(names)} of kind {kind}" for kind, names in folder.classes.items())
    about = TASKS.get(folder.task, folder.task)
    page = render(
        "report.html",
        title=f"{folder.task} {name} {date}".strip(),
        eyebrow=[part for part in ("Corbel", folder.task, date) if part],
        name=name or folder.path.name,
        about=f"{about}; labels: {labels}" if labels else about,
        details="",
        scores=_headline(folder),
        digits=3,
        notes=_notes(folder),
        settings=_settings(folder),
        multilabel=folder.task == "multilabel",
        kinds=folder.kinds,
        split_names=SPLIT_NAMES,
        **_splits(folder),
        certificate=folder.certificate,
        closest=[(photo, thumbnail(root, photo["path"])) for photo in closest.get("photos", ())],
        **_scores(folder),
        **_labels(folder),
        figures={name: file.read_bytes() for name, file in figures.items()},
        compared=count,
        wrong=len(mistakes),
        mistakes=[(mistake, thumbnail(root, mistake.path)) for mistake in mistakes[:WORST]],
        unreadable=_unreadable(folder),
        command=_command(folder),
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
    )
    path = folder.path / "report.html"
    write_whole(path, page)
    return path


def _data_name(run: RunFolder) -> str:
    """Return the name of the data root."""
    path = run.setting("data.root", "data.images") or run.data_root or run.setting("data.csv")
    return folder_name(PurePath(str(path)), ("images", "photos")) if path else ""


def _headline(run: RunFolder) -> list[tuple[str, object]]:
    """Return the scores for the top of the page: of the test split if there is one."""
    split = _judged_split(run)
    scores = run.metrics.get(split) or {}
    named = [("macro F1", scores.get("f1_macro"))]
    if run.task == "multilabel":
        named += [("mean average precision", scores.get("map")), ("exact match", scores.get("exact_match"))]
    else:
        parts, several = kind_scores(scores), len(run.kinds) > 1
        named += [(f"accuracy, {k}" if several else "accuracy", v.get("accuracy")) for k, v in parts.items()]
        named += [("exact match, all kinds", scores.get("exact_match"))] if several else []
    return [(f"{SPLIT_NAMES[split]} {name}", value) for name, value in named if value is not None]


def _judged_split(run: RunFolder) -> str:
    """Return the split that the scores are reported of."""
    return "test" if run.metrics.get("test") else "val"


def _notes(run: RunFolder) -> list[str]:
    """Return the cautions for readers of the figures."""
    counts, notes = label_counts(run), []
    for split in ("val", "test"):
        if split in counts and (none := list(counts.index[counts[split] == 0])):
            notes.append(f"Cannot be evaluated, no {SPLIT_NAMES[split]} photo: {', '.join(none)}.")
    if "test" in counts:
        few = [f"{label} ({count})" for label, count in counts["test"].items() if 0 < count < FEW]
        if few:
            notes.append(f"Fewer than {FEW} test photos, so the scores say little: {', '.join(few)}.")
    if crossing := crossing_groups(run):
        notes.append(f"Groups in several splits, so the scores are too good: {listed(crossing, 5)}.")
    if broken := len(_unreadable(run)):
        notes.append(f"Test photos that could not be read: {broken}; they are listed below.")
    return notes


def _settings(run: RunFolder) -> list[tuple[str, str]]:
    """Return the facts and settings of the run, in words."""
    facts, setting = dict(run.facts), run.setting
    weights = setting("model.weights")
    if weights is None and run.has_setting("model.weights"):
        weights = "none (random start)"
    epochs, best = facts.pop("epochs", None), facts.pop("best_epoch", None)
    parameters, score = facts.pop("num_params", None), facts.pop("best_score", None)
    size = setting("preprocess.image_size")
    sides = size if isinstance(size, list) else [size, size]
    durations = facts.pop("durations", None) or {}
    rows = [
        ("task", facts.pop("task", run.task)),
        ("photos", setting("data.root", "data.images") or run.data_root),
        ("label table", setting("data.csv")),
        ("photos left out, unreadable", facts.pop("unreadable", None)),
        ("backbone", facts.pop("backbone", None)),
        ("weights to start from", weights),
        ("started from", setting("model.init_from")),
        ("backbone frozen", setting("model.freeze_backbone")),
        ("parameters", f"{parameters:,}" if is_number(parameters) else None),
        ("image size", size and " x ".join(map(_plain, sides)) + " pixels"),
        ("resize", setting("preprocess.resize")),
        ("epochs", f"{epochs}; the best was epoch {best}" if best is not None else epochs),
        ("best score (validation F1)", f"{score:.3f}" if is_number(score) else None),
        ("batch size", setting("data.batch_size")),
        ("learning rate", setting("model.lr")),
        ("weight decay", setting("model.weight_decay") or None),
        ("schedule", setting("model.schedule")),
        ("seed", facts.pop("seed", None)),
        ("took", ", ".join(f"{name} {_duration(seconds)}" for name, seconds in durations.items())),
        ("versions", facts.pop("versions", None)),
        ("code", facts.pop("git", None)),
    ]
    rows += [(key.replace("_", " "), value) for key, value in facts.items()]
    return [(name, _plain(value)) for name, value in rows if value is not None and value != ""]


def _plain(value: object) -> str:
    """Return a value of a configuration in words."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    """Return seconds as hours, minutes and seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _splits(run: RunFolder) -> dict:
    """Return the size of each split, and the number of groups that cross."""
    total = sum(len(photos) for photos in run.splits.values())
    rows = [
        {
            "name": SPLIT_NAMES[split],
            "photos": len(photos),
            "share": len(photos) / max(total, 1),
            "groups": photos["group"].nunique() if "group" in photos else None,
        }
        for split, photos in run.splits.items()
    ]
    known = all("group" in photos for photos in run.splits.values())
    return {"splits": rows, "crossing": len(crossing_groups(run)) if known else None}


def kind_scores(scores: Mapping) -> dict[str, Mapping]:
    """Return the scores of each kind, in a task with heads."""
    return {name: part for name, part in scores.items() if isinstance(part, Mapping) and name != "per_class"}


def _scores(run: RunFolder) -> dict:
    """Return the scores of the splits, `{kind: {score: one value per split}}`; kind "" is overall."""
    splits = {SPLIT_NAMES[split]: run.metrics[split] for split in ("val", "test") if run.metrics.get(split)}
    kinds = dict.fromkeys(kind for scores in splits.values() for kind in kind_scores(scores))
    table = {"": _score_rows(list(splits.values()))} if splits else {}
    for kind in kinds:
        table[kind] = _score_rows([kind_scores(scores).get(kind, {}) for scores in splits.values()])
    return {"score_splits": list(splits), "score_table": table}


def _score_rows(splits: list[Mapping]) -> dict[str, list[object]]:
    """Return each score that a split has, in the usual order."""
    present = dict.fromkeys(name for scores in splits for name, value in scores.items() if is_number(value))
    ordered = [name for name in SCORES if name in present] + [name for name in present if name not in SCORES]
    return {SCORES.get(name, name): [scores.get(name) for scores in splits] for name in ordered}


def _labels(run: RunFolder) -> dict:
    """Return the scores of each label, `{kind: {label: scores}}`, and its F1 in validation."""
    split = _judged_split(run)
    least = run.setting("callbacks.thresholds.min_positives")
    few = ""
    if run.task == "multilabel" and isinstance(least, int) and least > 1:
        few = f" Labels with fewer than {least} validation photos keep the threshold 0.5."
    validation = _per_class(run, "val") if split == "test" else {}
    empty = dict.fromkeys(("support", "precision", "recall", "f1", "ap"))
    table = {
        kind: {label: {**empty, "threshold": run.thresholds.get(label), **s} for label, s in labels.items()}
        for kind, labels in _per_class(run, split).items()
    }
    before = {
        label: scores.get("f1") if scores.get("support") != 0 else None
        for labels in validation.values()
        for label, scores in labels.items()
    }
    return {"labels": table, "labels_split": SPLIT_NAMES[split], "few_positives": few, "before": before}


def _per_class(run: RunFolder, split: str) -> dict[str, dict[str, Mapping]]:
    """Return the scores of one split as `{kind: {label: scores}}`."""
    scores = run.metrics.get(split) or {}
    kinds = {kind: dict(part.get("per_class") or {}) for kind, part in kind_scores(scores).items()}
    rest = dict(scores.get("per_class") or {})
    for kind, labels in run.classes.items():
        kinds.setdefault(kind, {}).update({label: rest.pop(label) for label in labels if label in rest})
    return {kind: labels for kind, labels in {**kinds, "labels": rest}.items() if labels}


def _unreadable(run: RunFolder) -> list[dict]:
    """Return the predictions that are errors."""
    rows = run.predictions.reindex(columns=["ID", "path", "status", "error"], fill_value="")
    return rows[rows["status"] == "error"].to_dict("records")


def _command(run: RunFolder) -> str:
    """Return the command that predicts with this run."""
    folder = run.path.resolve()
    folder = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    return (
        f"python scripts/predict.py {typed('ckpt', folder.as_posix())} images=DIR_OR_FILE_OR_CSV "
        "output=predictions.csv"
    )
