"""Labelled photos to evaluate a model on: a run's own test split, or any source that training reads."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from src.analysis.evaluation.scored import Scored
from src.config import build
from src.config_check import check_targets
from src.errors import InputError, listed, nearest
from src.inference.batches import Photo, find_images, find_texts, run_batches
from src.inference.predictor import Predictor
from src.labels import TASKS, LabelSpace
from src.overrides import shown
from src.parallel import ProgressBar
from src.runs import TEXTS, read_table, run_of

log = logging.getLogger(__name__)
TABLE_KEYS = {"csv", "images", "id", "columns", "delimiter", "encoding"}
# settings of a run that say how labels and groups are read; others are of its training and its photos' places
READING = ("group", "healthy", "missing", "rename", "components", "defects", "multiple", "separator",
           "label_folder", "id", "columns", "text")  # fmt: skip
Labels = Mapping[str, Sequence[str]]  # {kind: names} of a photo


@dataclass(frozen=True)
class Labelled:
    """Photos sorted by path, with the labels and the group of each; `source` names them."""

    source: str
    photos: Sequence[Photo]
    labels: Sequence[Labels]
    groups: Sequence[str]

    @property
    def root(self) -> Path | None:
        """The folder of the photos; None for texts."""
        return self.photos[0].root if self.photos[0].path else None


def newest_for(data: DictConfig) -> tuple[str, ...]:
    """Return the folders of `outputs` with the runs that can be evaluated on what `data` names."""
    return (TEXTS,) if "text" in str(data.get("_target_")) or "text" in data else TASKS


def labelled_photos(cfg: DictConfig, predictor: Predictor, checkpoint: Path) -> Labelled:
    """Return the photos that `data.*` names, without these keys the test split of the checkpoint's run.

    Raises:
        InputError: no photo, labels that the model lacks, or photos that it was trained on.
    """
    if (cfg.data or cfg.explain) and predictor.backend.reads == "both":
        raise InputError("photos with notes are evaluated on their run's own split: no data.*, no explain=")
    texts = predictor.backend.reads == "text"
    of_texts = newest_for(cfg.data) == (TEXTS,)
    if texts and (cfg.root or {"root", "images"} & {*cfg.data} or ("_target_" in cfg.data and not of_texts)):
        raise InputError("this is a model of texts: name labelled texts, data=text data.csv=notes.csv")
    if of_texts and not texts:
        raise InputError("this is a model of photos: name labelled photos, data.root= or data.csv=")
    if not cfg.data:
        return _of_run(predictor, checkpoint, cfg.root)
    if cfg.root and not cfg.explain:
        raise InputError("root= is the folder of the run's own photos: with data.* leave it out")
    return _of_source(cfg, predictor, checkpoint)


def scored_photos(predictor: Predictor, found: Labelled) -> Scored:
    """Score the photos; refuse unreadable ones."""
    photos, labels, results = found.photos, predictor.labels, []
    given = predictor.backend, photos, predictor.batch_size, predictor.num_workers, frozenset()
    with ProgressBar("Scoring", len(photos), f"{predictor.backend.noun}s") as bar:
        for batch in run_batches(*given):
            results += batch
            bar.update(len(batch))
    predictor.backend.report()
    if broken := [f"{photos[result.index].path} ({result.error})" for result in results if result.error]:
        noun = predictor.backend.noun
        raise InputError(f"{len(broken)} {noun}s cannot be read: {listed(broken, 5)}; mend them first")
    scores = np.stack([result.values[: len(labels)] for result in results])
    targets = targets_of(found.labels, labels, predictor.task)
    ids, paths = [photo.id for photo in photos], [photo.path or photo.text for photo in photos]
    return Scored(predictor.task, labels, ids, paths, found.groups, scores, targets, predictor.thresholds)


def targets_of(found: Sequence[Labels], labels: LabelSpace, task: str) -> np.ndarray:
    """Return the targets of photos, as `Scored` has them, from their labels."""
    encode, width = labels.encode_classes, len(labels.kinds)
    if task == "multilabel":
        encode, width = labels.encode, len(labels)
    return np.array([encode(names) for names in found]).reshape(-1, width)


def _of_run(predictor: Predictor, checkpoint: Path, root: str | None) -> Labelled:
    """Return the test split of a run; the validation split where the run has no other."""
    if (run := run_of(checkpoint)) is None:
        raise InputError(f"{checkpoint}: no run is around it: name labelled ones, data.root= or data.csv=")
    split, table = "test", read_table(run / "test_metadata.csv")
    if table is None or not len(table):
        split = "val"
        log.warning("%s has no test split: on its validation split, which flatters", run)
    return photos_of_split(run, split, predictor, root)


def photos_of_split(run: Path, split: str, predictor: Predictor, root: str | None) -> Labelled:
    """Return the photos of a run's split; `root` is where they are now, None where the run noted it down.

    Raises:
        InputError: if their table or folder is gone, or IDs have no photo.
    """
    file = run / f"{split}_metadata.csv"
    texts = predictor.backend.reads == "text"
    listed_there = find_texts(str(file)) if texts else find_images(str(file), root)
    rows = {row["ID"]: row for row in read_table(file, ("ID", "path")).to_dict("records")}
    photos = [photo for photo in listed_there if photo.id in rows]
    if predictor.backend.reads == "both":
        photos = [replace(photo, text=rows[photo.id].get("text") or None) for photo in photos]
    if len(photos) < len(rows):
        raise InputError(f"{run}: {len(rows) - len(photos)} IDs of its {file.name} cannot be read")
    labels = [labels_of(rows[photo.id], predictor.labels, predictor.task) for photo in photos]
    groups = [rows[photo.id].get("group") or photo.id for photo in photos]
    return Labelled(f"{split} split of {shown(run.absolute())}", photos, labels, groups)


def labels_of(row: Mapping[str, str], labels: LabelSpace, task: str) -> Labels:
    """Return the labels in a row of a run's table."""
    cells = {kind: row.get(kind, "") for kind in labels.kinds}
    several = task == "multilabel"
    return {kind: [n for n in (cell.split(";") if several else [cell]) if n] for kind, cell in cells.items()}


def _of_source(cfg: DictConfig, predictor: Predictor, checkpoint: Path) -> Labelled:
    data = source_config(cfg.data, predictor, run_of(checkpoint))
    check_targets(data, "data")
    datamodule, trained_on = build(data), predictor.backend.trained_on
    noun = predictor.backend.noun
    records = sorted(datamodule.collect().records, key=lambda record: record.path)
    refuse_strangers([record.labels for record in records], predictor.labels, predictor.task, noun)
    if seen := [record.path for record in records if record.digest in trained_on]:
        raise InputError(
            f"{len(seen)} of {len(records)} {noun}s were in the model's training split, and figures on them "
            f"would be too good: {listed(seen, 5)}; name a source without them"
        )
    if not trained_on:
        log.warning("%s does not say what it was trained on: other %ss than these?", checkpoint, noun)
    photos = [Photo(r.id, "" if noun == "text" else r.path, datamodule.root, r.text) for r in records]
    source = f"{len(photos)} labelled {noun}s of {shown(datamodule.root.absolute())}"
    return Labelled(source, photos, [r.labels for r in records], [r.group for r in records])


def source_config(given: DictConfig, predictor: Predictor, run: Path | None) -> DictConfig:
    """Return the configuration of the source: given keys, else the run's reading of labels, else defaults.

    `data=folders`, `data=table` and `data=text` take nothing from the run, nor does a source of another type.
    """
    from hydra import compose

    config = run / ".hydra" / "config.yaml" if run and "_target_" not in given else None
    saved = OmegaConf.load(config).data if config and config.is_file() else OmegaConf.create({})
    target = str(given.get("_target_") or saved.get("_target_") or "")
    choice = ["data=table" if "Table" in target or TABLE_KEYS & {*given} else "data=folders"]
    if texts := predictor.backend.reads == "text":
        target, choice = "text", ["data=text"]
    whole = compose(
        "explore", [f"model={predictor.task}", *(choice if target or TABLE_KEYS & {*given} else [])]
    )
    if saved.get("_target_") == whole.data._target_:
        kept = {key: saved[key] for key in READING if key in saved}
        told = (f"data.{key}={value}" for key, value in kept.items() if value not in (None, []))
        log.info("Labels are read as by %s: %s", shown(run.absolute()), " ".join(told))
        whole = OmegaConf.merge(whole, {"data": kept})
    fixed = {}
    if not texts:
        fixed = {"near_duplicates": None, "cache": None, "preprocess": asdict(predictor.preprocess)}
    return OmegaConf.merge(whole, {"data": OmegaConf.to_container(given, resolve=False) | fixed}).data


def refuse_strangers(found: Sequence[Labels], labels: LabelSpace, task: str, noun: str = "photo") -> None:
    """Refuse labels that the model lacks, and photos that say nothing of its kinds."""
    count = Counter((kind, name) for names in found for kind, own in names.items() for name in own)
    kinds = dict.fromkeys(kind for kind, _ in count)
    if kinds and not kinds.keys() & labels.kinds.keys():
        fit = f"the {noun}s have labels of kind {listed(kinds)}, the model those of {listed(labels.kinds)}"
        raise InputError(f"{fit}: they do not fit its task, {task}")
    words = []
    for (kind, name), photos in sorted(count.items()):
        if name not in (known := labels.kinds.get(kind, ())):
            near = nearest(name, known or labels.names)[0]
            words.append(f"'{name}' ({kind}, {photos} {noun}s; nearest: '{near}')")
    if words:
        cure = "read them as others with data.rename=[OLD=NEW], or as none with data.missing=[OLD]"
        raise InputError(f"labels that the model lacks: {listed(words, 5)}; {cure}")
