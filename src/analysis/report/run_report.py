"""The report of a run, one HTML page that is complete in itself, and its model card from the same numbers."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path, PurePath

from src.analysis.evaluation.evaluation_folder import FOLDER, HISTOGRAM
from src.analysis.evaluation.mistakes import Mistake, compared
from src.analysis.evaluation.telling import ERRORS, marked, read_telling
from src.analysis.pages import ABOUT_TASK, LISTED, Thumbnail, folder_name, is_number, render, thumbnail
from src.analysis.report.run_evidence import changes, evidence_of, run_before
from src.errors import listed
from src.files import write_whole
from src.overrides import shown, typed
from src.runs import RunFolder, crossing_groups, label_counts, mean_of, read_run, run_date

FEW = 5  # below this many photos a score of a label says little
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
SCORES = {
    "loss": "loss", "exact_match": "exact match (every label right)", "accuracy": "accuracy",
    "hamming_loss": "Hamming loss (share of wrong decisions)", "f1_macro": "macro F1",
    "f1_macro_at_0.5": "macro F1 with every threshold at 0.5", "f1_micro": "micro F1",
    "f1_weighted": "weighted F1", "map": "mean average precision",
}  # fmt: skip
FACTS = {"num_params": "parameters", "best_score": "best score (validation F1)",
         "unreadable": "left out, unreadable", "durations": "took", "git": "code",
         "checkpoint_mb": "size of best.ckpt, MB",
         "ms_per_photo": "one by itself, from reading to labels, ms"}  # fmt: skip
GIVEN = {"photo": "images=DIR_OR_FILE_OR_CSV", "text": "texts=NOTES.csv"}
FIGURES = ("loss_curve.png", "confusion_matrix.png", "class_distribution.png", f"{FOLDER}/{HISTOGRAM}",
           f"{FOLDER}/reliability.png", f"{FOLDER}/workload.png")  # fmt: skip


def write_report(run: Path, images_root: Path | None = None) -> Path:
    """Write `report.html`, self-contained and readable offline, and `model_card.md` into a run's folder.

    Thumbnails come from `images_root`, by default the data root of the run's configuration. Without photos
    the worst errors are described in words.

    Raises:
        InputError: if `metrics.json` or `predictions.csv` is missing, or a file of the folder cannot be read.
    """
    folder = read_run(run)
    root = Path(images_root) if images_root is not None else folder.data_root
    root = root if root is not None and root.is_dir() else None
    config = folder.path / ".hydra" / "config.yaml"
    ckpt = typed("ckpt", shown(folder.path.resolve()).as_posix())
    noun, csv = folder.noun, folder.setting("data.csv")
    data = folder.setting("data.root", "data.images") or (noun == "photo" and folder.data_root) or csv
    name, date = folder_name(PurePath(str(data or "")), ("images", "photos")), run_date(folder)
    closest = folder.certificate.get("closest") or {}
    mistakes, count = compared(folder)
    show = partial(thumbnail, sample_bits=folder.setting("preprocess.sample_bits"))
    figures = [folder.path / name for name in FIGURES if (folder.path / name).is_file()]
    evidence, before, headline = evidence_of(folder, mistakes), run_before(folder), _headline(folder)
    labels = ", ".join(f"{len(names)} of kind {kind}" for kind, names in folder.classes.items())
    about = ABOUT_TASK.get(folder.task, folder.task).replace("photo", noun)
    content = dict(
        title=f"{folder.task} {name} {date}".strip(),
        eyebrow=[part for part in ("Corbel", folder.task, date) if part],
        name=name or folder.path.name,
        about=f"{about}; labels: {labels}" if labels else about,
        scores=headline,
        digits=3,
        notes=_notes(folder),
        settings=_settings(folder),
        multilabel=folder.task == "multilabel",
        min_positives=folder.setting("callbacks.thresholds.min_positives"),
        kinds=list(folder.classes),
        classes=folder.classes,
        split_names=SPLIT_NAMES,
        facts=folder.facts,
        **_splits(folder),
        certificate=folder.certificate,
        closest=[(photo, show(root, photo["path"])) for photo in closest.get("photos", ())],
        **_scores(folder),
        **evidence,
        **_labels(folder, evidence["measured"]),
        before=before and changes(before, folder),
        before_name=before and (run_date(before) or before.path.name),
        before_scores=dict(_headline(before)) if before else {},
        score_names=SCORES,
        figures={file.name: file.read_bytes() for file in figures},
        compared=count,
        wrong=len(mistakes),
        mistakes=_worst(folder, mistakes[:ERRORS], partial(show, root)),
        noun=noun,
        unreadable=_unreadable(folder),
        command=f"python scripts/predict.py {ckpt} {GIVEN[noun]} output=predictions.csv",
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
    )
    for name in ("model_card.md", "report.html"):
        write_whole(folder.path / name, render(name, **content))
    return folder.path / name


def _worst(run: RunFolder, mistakes: Sequence[Mistake], show: Callable[[str], Thumbnail]) -> list[tuple]:
    """Return `(mistake, words of each wrong label, thumbnail)`, of a text its marked words."""
    if run.noun == "text":
        told = read_telling(run.path / FOLDER)
        return [(m, told.get(m.photo, []), marked(m.path, told.get(m.photo))) for m in mistakes]
    return [(m, [], show(m.path)) for m in mistakes]


def _headline(run: RunFolder) -> list[tuple[str, object]]:
    """Return the scores for the top of the page: of the test split if there is one."""
    split = _judged_split(run)
    scores = run.metrics.get(split) or {}
    named = [(f"macro F1 {mean_of(scores)}".rstrip(), scores.get("f1_macro"))]
    if run.task == "multilabel":
        named += [("mean average precision", scores.get("map")), ("exact match", scores.get("exact_match"))]
    else:
        parts, several = kind_scores(scores), len(run.classes) > 1
        named += [(f"accuracy, {k}" if several else "accuracy", v.get("accuracy")) for k, v in parts.items()]
        named += [("exact match, all kinds", scores.get("exact_match"))] if several else []
    return [(f"{SPLIT_NAMES[split]} {name}", value) for name, value in named if value is not None]


def _judged_split(run: RunFolder) -> str:
    return "test" if run.metrics.get("test") else "val"


def _notes(run: RunFolder) -> list[str]:
    counts = label_counts(run)
    notes = [f"{found['text']}; {found['cure']}".strip("; ") for found in run.certificate.get("findings", ())]
    for split in ("val", "test"):
        if split in counts and (none := list(counts.index[counts[split] == 0])):
            notes.append(f"Cannot be evaluated, no {SPLIT_NAMES[split]} {run.noun}: {listed(none, LISTED)}.")
    if "test" in counts:
        few = [f"{label} ({count})" for label, count in counts["test"].items() if 0 < count < FEW]
        if few:
            notes.append(
                f"Fewer than {FEW} test {run.noun}s, so the scores say little: {listed(few, LISTED)}."
            )
    if crossing := crossing_groups(run):
        notes.append(f"Groups in several splits, so the scores are too good: {listed(crossing, 5)}.")
    if broken := len(_unreadable(run)):
        notes.append(f"Test {run.noun}s that could not be read: {broken}; they are listed below.")
    return notes


def _settings(run: RunFolder) -> list[tuple[str, str]]:
    setting = run.setting
    photos = run.noun == "photo"
    weights = setting("model.weights") or ("none (random start)" if setting("model.backbone") else None)
    size = setting("preprocess.image_size")
    sides = size if isinstance(size, list) else [size, size]
    rows = [
        ("photos", (setting("data.root", "data.images") or run.data_root) if photos else None),
        ("label table" if photos else "table of texts", setting("data.csv")),
        ("encoder", setting("model.encoder")),
        ("tokens read of a text", setting("model.length")),
        ("weights to start from", weights),
        ("started from", setting("model.init_from")),
        ("backbone frozen", setting("model.freeze_backbone")),
        ("image size", size and " x ".join(map(_plain, sides)) + " pixels"),
        ("resize", setting("preprocess.resize")),
        ("batch size", setting("data.batch_size")),
        ("learning rate", setting("model.lr")),
        ("weight decay", setting("model.weight_decay") or None),
        ("schedule", setting("model.schedule")),
    ]
    facts = {"task": run.task, **run.facts}
    durations = (facts.get("durations") or {}).items()
    facts["durations"] = {name: str(timedelta(seconds=round(seconds))) for name, seconds in durations}
    if is_number(facts.get("num_params")):
        facts["num_params"] = f"{facts['num_params']:,}"
    rows += [(FACTS.get(key, key.replace("_", " ")), value) for key, value in facts.items()]
    return [(name, _plain(value)) for name, value in rows if value not in (None, "", {})]


def _plain(value: object) -> str:
    """Return a value of a configuration in words."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _splits(run: RunFolder) -> dict:
    total = max(1, sum(map(len, run.splits.values())))
    known = all("group" in photos for photos in run.splits.values())
    rows = [
        (SPLIT_NAMES[split], len(photos), len(photos) / total, photos["group"].nunique() if known else None)
        for split, photos in run.splits.items()
    ]
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
    present = dict.fromkeys(name for scores in splits for name, value in scores.items() if is_number(value))
    present = {name: None for name in present if name not in ("labels_evaluated", "labels_total")}
    ordered = [name for name in SCORES if name in present] + [name for name in present if name not in SCORES]
    return {SCORES.get(name, name): [scores.get(name) for scores in splits] for name in ordered}


def _labels(run: RunFolder, measured: Mapping[str, dict]) -> dict:
    """Return the scores of each label, `{kind: {label: scores}}`, and its F1 in validation.

    `measured` are the rows of the run's own evaluation: AP and AUC of heads, too, and intervals.
    """
    split = _judged_split(run)
    validation = _per_class(run, "val") if split == "test" else {}
    empty = dict.fromkeys(("support", "precision", "recall", "f1", "ap", "auc"))
    table = {
        kind: {
            n: {**empty, **measured.get(n, {}), "threshold": run.thresholds.get(n), **s}
            for n, s in own.items()
        }
        for kind, own in _per_class(run, split).items()
    }
    f1 = {
        label: scores.get("f1") if scores.get("support") != 0 else None
        for labels in validation.values()
        for label, scores in labels.items()
    }
    return {"labels": table, "labels_split": SPLIT_NAMES[split], "in_validation": f1}


def _per_class(run: RunFolder, split: str) -> dict[str, dict[str, Mapping]]:
    """Return the scores of one split as `{kind: {label: scores}}`."""
    scores = run.metrics.get(split) or {}
    parts = {kind: kind_scores(scores).get(kind, scores).get("per_class") or {} for kind in run.classes}
    return {kind: {n: own[n] for n in run.classes[kind] if n in own} for kind, own in parts.items() if own}


def _unreadable(run: RunFolder) -> list[dict]:
    rows = run.predictions.reindex(columns=["ID", "path", "status", "error"], fill_value="")
    return rows[rows["status"] == "error"].to_dict("records")
