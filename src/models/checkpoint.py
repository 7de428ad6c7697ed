"""Checkpoints: load, rebuild, and start a model from another one's rows."""

import logging
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.errors import InputError, did_you_mean, listed
from src.labels import TASKS
from src.models.backbones import read_pickled
from src.models.base import SCHEMA, Classifier
from src.models.classifiers import DualHeadClassifier, MultiLabelClassifier, PhotoClassifier
from src.models.photo_and_note import FusedHeads, FusedLabels, PhotoAndNote
from src.models.text_classifier import TfidfHeads, TfidfLabels
from src.models.transformer import TransformerHeads, TransformerLabels
from src.runs import find_checkpoint

log = logging.getLogger(__name__)
REGISTRY: dict[str, tuple[type[Classifier], type[Classifier]]] = {  # of heads, of multilabel
    "photo": (DualHeadClassifier, MultiLabelClassifier),
    "text_tfidf": (TfidfHeads, TfidfLabels),
    "text_transformer": (TransformerHeads, TransformerLabels),
    "photo_and_note": (FusedHeads, FusedLabels),
}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of ours, read without running any code in it.

    Raises:
        InputError: for a file that is no checkpoint or a damaged one, holds pickled code, or comes from a
            newer version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    content = read_pickled(path, str(path), "a checkpoint of Corbel")
    if zipfile.is_zipfile(path):  # torch leaves the checksums in it unread
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except Exception as error:  # on damaged headers it raises nearly every type there is
            raise InputError(f"{path}: damaged ({error})") from error
        if broken:
            raise InputError(f"{path}: damaged ({broken} in it is not what was written)")
    if not isinstance(content, dict) or not {"task", "hyper_parameters", "state_dict"} <= content.keys():
        raise InputError(
            f"{path}: not a checkpoint of Corbel (no task, hyper_parameters and state_dict in it)"
        )
    if not isinstance(content["task"], str) or not isinstance(content.get("schema", 0), int):
        raise InputError(f"{path}: not a checkpoint of Corbel (its task or schema is no name or number)")
    if content.get("schema", 0) > SCHEMA:
        raise InputError(
            f"{path}: written by a newer Corbel (schema {content['schema']}, here {SCHEMA}): upgrade"
        )
    for name, known in (("task", TASKS), ("model", REGISTRY)):
        if (found := content.get(name, "photo")) not in known:
            raise InputError(f"{path}: {name} '{found}' is not known here: {did_you_mean(str(found), known)}")
    return _upgraded(content)


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of an earlier schema with today's names."""
    given = content["hyper_parameters"]
    if content.get("schema", 0) < 2 and "optimizer" in given:  # adamw had a decay of 0.01
        rest = {name: value for name, value in given.items() if name != "optimizer"}
        decay = 0.01 if given["optimizer"] == "adamw" else 0.0
        content = {**content, "hyper_parameters": {**rest, "weight_decay": decay}}
    return content


def load_model(path: str | Path) -> Classifier:
    """Rebuild the module of a checkpoint on the CPU, without a download; loaded strictly, in eval mode."""
    path = Path(path)
    content = read_checkpoint(path)
    try:
        kinds = REGISTRY[content.get("model", "photo")]
        model = kinds[content["task"] == "multilabel"](**content["hyper_parameters"])
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"], strict=True)
    except InputError:
        raise
    except (TypeError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: does not fit the model that it describes ({reason})") from error
    model.provenance = content.get("provenance", {})
    return model.eval()


def photo_and_note(
    task: str,
    labels: Mapping[str, list[str]],
    photo: str | None,
    note: str | None,
    class_weights: None = None,
    seed: int = 42,
) -> PhotoAndNote:
    """Return the fusion of two runs or checkpoints.

    Raises:
        InputError: if they are no classifiers of photos and of texts, or not of this task and these labels.
    """
    parts, kinds = {}, {"photo": "photo", "note": "text"}
    for key, path in {"photo": find_checkpoint(photo), "note": find_checkpoint(note)}.items():
        parts[key] = found = load_model(path)
        if found.reads != kinds[key]:
            raise InputError(f"model.{key}={path}: a model of {found.reads}s, not of {kinds[key]}s")
        if found.task != task:
            raise InputError(f"model.{key}={path}: its task is {found.task}: add task={found.task}")
        if not set(found.labels.names) & {name for names in labels.values() for name in names}:
            raise InputError(f"model.{key}={path}: it knows none of the photos' labels")
    if parts["photo"].labels.as_dict() != {kind: list(names) for kind, names in labels.items()}:
        raise InputError(f"model.photo={photo}: its run's tables have other labels than its checkpoint")
    given = {
        key: read_checkpoint(find_checkpoint(path))["hyper_parameters"]
        for key, path in (("photo", photo), ("note", note))
    }
    made = FusedLabels if task == "multilabel" else FusedHeads
    model = made(task=task, labels=labels, **given, note_kind=parts["note"].kind, seed=seed)
    model.photo, model.note = (parts[key].requires_grad_(False) for key in ("photo", "note"))
    origins = [part.provenance for part in parts.values()]
    sizes = [origin.get("train_sizes") for origin in origins]
    model.provenance = {
        "train_digests": sorted(set().union(*(origin.get("train_digests", ()) for origin in origins))),
        "train_sizes": None if None in sizes else sorted(set().union(*sizes)),
        "backbone_trained": any(origin.get("backbone_trained") for origin in origins),
    }
    return model


def init_from(model: PhotoClassifier, path: str | Path, test_digests: Iterable[str]) -> None:
    """Start `model` from a checkpoint: the backbone whole, the heads' rows by label name.

    Args:
        model: changed in place.
        path: a checkpoint file or a run folder.
        test_digests: contents of today's test photos; a warning says how many the checkpoint was trained on.

    Raises:
        InputError: if the checkpoint's backbone is another one.
    """
    content = read_checkpoint(find_checkpoint(str(path)))
    theirs, ours = content["hyper_parameters"], model.hparams
    if (kind := content.get("model", "photo")) != "photo":
        raise InputError(f"model.init_from={path}: a model of another kind, {kind}")
    if theirs["backbone"] != ours["backbone"]:
        raise InputError(
            f"model.init_from={path}: its backbone is {theirs['backbone']}, this model's "
            f"{ours['backbone']}: add model.backbone={theirs['backbone']}"
        )
    if theirs.get("head", "linear") != ours["head"]:
        raise InputError(f"model.init_from={path}: its head is another one: add model.head={theirs['head']}")
    _warn_of_other_pixels(path, theirs["preprocess"], ours["preprocess"])
    state, own = content["state_dict"], model.state_dict()
    own.update({name: state[name] for name in own if name.startswith(("backbone.", "neck."))})
    rows = {label: (kind, i) for kind, names in theirs["labels"].items() for i, label in enumerate(names)}
    threshold_row = {label: i for i, label in enumerate(rows)}
    taken, new = [], []
    for kind, names in model.labels.kinds.items():
        for i, label in enumerate(names):
            if label not in rows:
                new.append(label)
                continue
            their_kind, row = rows[label]
            for part in ("weight", "bias"):
                own[f"head_{kind}.{part}"][i] = state[f"head_{their_kind}.{part}"][row]
            if "thresholds" in own and "thresholds" in state:
                own["thresholds"][model.labels.position(label)] = state["thresholds"][threshold_row[label]]
            taken.append(label)
    model.load_state_dict(own, strict=True)
    model.provenance = content.get("provenance", {})
    dropped = [label for label in rows if label not in model.labels.names]
    log.info(
        "Started from %s: backbone, heads of %d labels (%s); new: %s; not used: %s",
        path,
        len(taken),
        listed(taken, 30),
        listed(new, 30) or "none",
        listed(dropped, 30) or "none",
    )
    leaked = len(set(test_digests) & set(content.get("provenance", {}).get("train_digests", ())))
    if leaked:
        log.warning(
            "LEAK: %d of today's test photos were in the training split of %s: the test figures are too "
            "good; use that run's split with data.split_file=",
            leaked,
            path,
        )


def _warn_of_other_pixels(path: str | Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Warn where a checkpoint learned from photos that were resized or normalised in another way."""
    differing = [
        f"{key} {theirs.get(key)}, here {value}" for key, value in ours.items() if theirs.get(key) != value
    ]
    if differing:
        log.warning("%s learned from photos of other preprocess.%s", path, "; preprocess.".join(differing))
