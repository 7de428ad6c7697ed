"""The report of a run: one HTML page for people, complete in itself."""

from collections.abc import Mapping
from pathlib import Path, PurePath

import pandas as pd

from src.analysis import markup
from src.analysis.markup import NONE, Html, element, facts, image, integer, join, number, plain, section
from src.analysis.report_certificate import certificate_section
from src.analysis.report_tables import (
    FEW,
    SPLIT_NAMES,
    kind_scores,
    labels_section,
    scores_section,
    splits_section,
)
from src.analysis.worst_errors import Mistake, compared, thumbnail
from src.errors import listed
from src.files import write_whole
from src.overrides import typed
from src.runs import RunFolder, crossing_groups, label_counts, read_run, run_date

REPOSITORY = Path(__file__).resolve().parents[2]
WORST = 24
TASKS = {
    "multilabel": "any combination of labels per photo",
    "dual_head": "one label of each kind per photo",
    "multiclass": "one label per photo",
}
FIGURES = {
    "loss_curve.png": (
        "Loss, F1 and accuracy per epoch",
        "The best epoch is the one whose weights were kept.",
    ),
    "confusion_matrix.png": (
        "What was taken for what",
        "Counts of test photos; the shade is the share within a row.",
    ),
    "class_distribution.png": ("Labels per split", "How many photos carry each label."),
}


def write_report(run: Path, images_root: Path | None = None) -> Path:
    """Write `report.html` into a run's folder: self-contained, without scripts, readable offline.

    Args:
        run: the folder of a run.
        images_root: where the photos are, for the thumbnails; by default where the run's configuration says,
            if that folder exists. Without photos the worst errors are told in words.

    Returns:
        the path of the page. The same folder gives the same bytes.

    Raises:
        InputError: if `metrics.json` or `predictions.csv` is missing, or a file of the folder cannot be read.
    """
    folder = read_run(run)
    root = Path(images_root) if images_root is not None else _configured_root(folder)
    body = [_header(folder), _notice(folder), _trained(folder), splits_section(folder)]
    body += [certificate_section(folder, root)]
    body += [part(folder) for part in (scores_section, labels_section, _figures)]
    body += [_worst(folder, root), _unreadable(folder), _predict(folder), _configuration(folder)]
    title = f"{folder.task} {_data_name(folder)} {run_date(folder)}".strip()
    path = folder.path / "report.html"
    write_whole(path, markup.page(title, *(part for part in body if part)).encode("utf-8"))
    return path


def _header(run: RunFolder) -> Html:
    """What, when, and the score in large figures."""
    split, scores = _headline_split(run)
    date = run_date(run)
    kinds = ", ".join(f"{len(labels)} of kind {kind}" for kind, labels in run.classes.items())
    about = f"{TASKS.get(run.task, run.task)}; labels: {kinds}" if kinds else TASKS.get(run.task, run.task)
    named = ((f"{SPLIT_NAMES[split]} {name}", number(value)) for name, value in scores)
    large = [element("div", element("b", value), element("span", name), css="score") for name, value in named]
    above = join([part for part in ("Corbel", run.task, date) if part], Html(" &middot; "))
    return element(
        "header",
        element("p", above, css="eyebrow"),
        element("h1", _data_name(run) or run.path.name),
        element("p", about, css="muted"),
        element("div", *large, css="scores") if large else "",
    )


def _headline_split(run: RunFolder) -> tuple[str, list[tuple[str, object]]]:
    """Return the split that the headline speaks of, and its scores."""
    split = "test" if run.metrics.get("test") else "val"
    scores = run.metrics.get(split) or {}
    named = [("macro F1", scores.get("f1_macro"))]
    if run.task == "multilabel":
        named += [("mean average precision", scores.get("map")), ("exact match", scores.get("exact_match"))]
    else:
        parts, several = kind_scores(scores), len(run.kinds) > 1
        named += [(f"accuracy, {k}" if several else "accuracy", v.get("accuracy")) for k, v in parts.items()]
        named += [("exact match, all kinds", scores.get("exact_match"))] if several else []
    return split, [(name, value) for name, value in named if value is not None]


def _notice(run: RunFolder) -> Html:
    """What a reader has to know before trusting the figures."""
    counts, notes = label_counts(run), []
    for split in ("val", "test"):
        if split in counts:
            none = [label for label, count in counts[split].items() if count == 0]
            if none:
                notes.append(f"Cannot be evaluated, no {SPLIT_NAMES[split]} photo: {', '.join(none)}.")
    if "test" in counts:
        few = [f"{label} ({count})" for label, count in counts["test"].items() if 0 < count < FEW]
        if few:
            notes.append(f"Fewer than {FEW} test photos, so the scores say little: {', '.join(few)}.")
    crossing = crossing_groups(run)
    if crossing:
        notes.append(f"Groups in several splits, so the scores are too good: {listed(crossing, 5)}.")
    broken = len(_errors(run))
    if broken:
        notes.append(f"Test photos that could not be read: {broken}; they are listed below.")
    if not notes:
        return Html("")
    notes = element("ul", *(element("li", note) for note in notes))
    return element("div", element("p", "Know before you trust the figures"), notes, css="notice")


def _trained(run: RunFolder) -> Html:
    """What was trained on what."""
    facts_of, setting = dict(run.facts), run.setting
    weights = setting("model.weights")
    if weights is None and run.has_setting("model.weights"):
        weights = "none (random start)"
    epochs, best = facts_of.pop("epochs", None), facts_of.pop("best_epoch", None)
    rows = [
        ("task", facts_of.pop("task", run.task)),
        ("photos", setting("data.root", "data.images") or run.data_root),
        ("label table", setting("data.csv")),
        ("photos left out, unreadable", facts_of.pop("unreadable", None)),
        ("backbone", facts_of.pop("backbone", None)),
        ("weights to start from", weights),
        ("started from", setting("model.init_from")),
        ("backbone frozen", setting("model.freeze_backbone")),
        ("parameters", integer(facts_of.pop("num_params", None))),
        ("image size", _pixels(setting("preprocess.image_size"))),
        ("resize", setting("preprocess.resize")),
        ("epochs", f"{plain(epochs)}; the best was epoch {plain(best)}" if best is not None else epochs),
        ("best score (validation F1)", number(facts_of.pop("best_score", None))),
        ("batch size", setting("data.batch_size")),
        ("learning rate", setting("model.lr")),
        ("weight decay", setting("model.weight_decay") or None),
        ("schedule", setting("model.schedule")),
        ("seed", facts_of.pop("seed", None)),
        ("took", _took(facts_of.pop("durations", None))),
        ("versions", facts_of.pop("versions", None)),
        ("code", facts_of.pop("git", None)),
    ]
    rows += [(key.replace("_", " "), value) for key, value in facts_of.items()]
    rows = [
        (name, value if isinstance(value, Html) else plain(value))
        for name, value in rows
        if value is not None
    ]
    rows = [row for row in rows if row[1] not in ("", NONE)]
    return section("What was trained on what", facts(rows)) if rows else Html("")


def _pixels(size: object) -> object:
    """Return an image size as words."""
    if isinstance(size, list | tuple):
        return " x ".join(plain(side) for side in size) + " pixels"
    return f"{size} x {size} pixels" if isinstance(size, int) else size


def _took(durations: object) -> object:
    """Return durations, given in seconds, as words."""
    if isinstance(durations, Mapping):
        return ", ".join(f"{name} {markup.duration(seconds)}" for name, seconds in durations.items())
    return None if durations is None else markup.duration(durations)


def _figures(run: RunFolder) -> Html:
    """The run's figures."""
    shown = []
    for name, (title, caption) in FIGURES.items():
        if (run.path / name).is_file():
            if name == "confusion_matrix.png" and run.task == "multilabel":
                title, caption = (
                    "What became of each label",
                    "Counts of test photos: hit, missed, falsely said.",
                )
            picture = image((run.path / name).read_bytes(), "image/png", title)
            shown += [element("h3", title), element("figure", picture, element("figcaption", caption))]
    return section("Figures", *shown) if shown else Html("")


def _worst(run: RunFolder, root: Path | None) -> Html:
    """The photos that the model got most wrong."""
    mistakes, count = compared(run)
    if not count:
        return Html("")
    if not mistakes:
        return section("Worst errors", element("p", f"None: all {count:,} test photos are right."))
    order = "most wrong labels first" if run.task == "multilabel" else "the surest first"
    shown = min(len(mistakes), WORST)
    said = f"{len(mistakes):,} of {count:,} test photos have a wrong label. The worst {shown}, {order}."
    hint = "Look whether the photo, the model or the label in the table is wrong."
    cards = element("div", *(_card(run, root, mistake) for mistake in mistakes[:WORST]), css="photos")
    return section("Worst errors", element("p", f"{said} {hint}", css="muted small"), cards)


def _card(run: RunFolder, root: Path | None, mistake: Mistake) -> Html:
    """Show one photo: what was said, what is true."""
    content, reason = thumbnail(root, mistake.path)
    picture = element("span", reason) if content is None else image(content, "image/jpeg", mistake.photo)
    lines = []
    for kind in run.kinds:
        said, true = mistake.said.get(kind, {}), mistake.true.get(kind)
        if true is None:
            continue  # nobody labelled this kind, so nothing can be compared
        wrong = set(said) ^ set(true)
        prefix = f"{kind}: " if len(run.kinds) > 1 else ""
        shown = [_verdict(label, sure, label in wrong) for label, sure in said.items()] or [NONE]
        lines.append(element("p", element("span", f"{prefix}said ", css="said"), join(shown, ", ")))
        if wrong:
            missed = "\u00a0(missed)" if run.task == "multilabel" else ""
            truth = [
                element("span", label + missed * (label in wrong), css="wrong" if label in wrong else "right")
                for label in true
            ]
            lines.append(
                element("p", element("span", f"{prefix}true ", css="said"), join(truth or [NONE], ", "))
            )
    name = element("p", mistake.photo, css="name")
    return element("div", element("div", picture, css="frame"), name, *lines, css="photo")


def _verdict(label: str, sure: float | None, wrong: bool) -> Html:
    """Show one predicted label, marked where it is wrong."""
    score = "" if sure is None else f"\u00a0{sure:.2f}"
    mark = "\u00a0✗" if wrong else ""
    return element("span", f"{label}{score}{mark}", css="wrong" if wrong else "right")


def _unreadable(run: RunFolder) -> Html:
    """The photos that could not be read."""
    broken = _errors(run)
    if not len(broken):
        return Html("")
    rows = [(row["ID"], row.get("path", ""), row.get("error", "")) for row in broken.to_dict("records")]
    return section("Photos that could not be read", markup.table(("ID", "path", "reason"), rows, words=3))


def _errors(run: RunFolder) -> pd.DataFrame:
    """Return the predictions that are errors."""
    rows = run.predictions
    return rows[rows["status"] == "error"] if "status" in rows else rows.iloc[:0]


def _predict(run: RunFolder) -> Html:
    """How to use this run on other photos."""
    folder = run.path.resolve()
    folder = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    chosen = typed("ckpt", folder.as_posix())
    command = f"python scripts/predict.py {chosen} images=DIR_OR_FILE_OR_CSV output=predictions.csv"
    said = "From the repository's folder; photos go through the same resizing and decisions as in this run."
    return section("Predict with this run", element("p", said, css="muted small"), element("pre", command))


def _configuration(run: RunFolder) -> Html:
    """The exact configuration, folded away."""
    path = run.path / ".hydra" / "config.yaml"
    if not path.is_file():
        return Html("")
    content = element("pre", path.read_text(encoding="utf-8", errors="replace"))
    return element("details", element("summary", "The exact configuration"), content)


def _configured_root(run: RunFolder) -> Path | None:
    """Return where the run says that its photos are, if they still are."""
    return run.data_root if run.data_root is not None and run.data_root.is_dir() else None


def _data_name(run: RunFolder) -> str:
    """Return the name of the data root; a name that says nothing comes with its parent's."""
    said = run.setting("data.root", "data.images") or run.data_root or run.setting("data.csv")
    parts = PurePath(str(said)).parts[-2:] if said else ()
    return "/".join(parts if parts[-1:] in (("images",), ("photos",)) else parts[-1:])
