"""Photos whose note says something else than the picture, by models that have not seen either."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.special import logit

from src.analysis.audit.evidence import CLIP
from src.analysis.audit.suspects import Suspect
from src.datamodules.records import Record
from src.datamodules.text_columns import notes_by_path, read_notes
from src.errors import InputError
from src.labels import LabelSpace
from src.models.text_classifier import text_tfidf

NAME = "note_disagrees"
SURE = 1.0  # nats by which the photo and the note prefer their own label; the note also by its words alone


def notes_of(path: Path, records: Sequence[Record], root: Path) -> dict[str, str]:
    """Return `{path: note}` of the photos that the IDs in a table of notes mean."""
    notes = read_notes(path, "notes")
    note_of = notes_by_path(notes, {record.path: record.id for record in records}, root)
    if not note_of:
        raise InputError(f"notes={path}: none of its {len(notes)} IDs names a labelled photo below {root}")
    return {photo: notes[id_] for photo, id_ in note_of.items()}


def find_conflicts(
    records: Sequence[Record],
    notes: Mapping[str, str],
    labels: LabelSpace,
    task: str,
    probabilities: np.ndarray,
    targets: np.ndarray,
    folds: np.ndarray,
) -> list[Suspect]:
    """Return the photos whose picture and note are both sure of different labels, the surest first.

    The note's probabilities come from the baseline for texts, fitted to the notes of the other folds.

    Args:
        records: the labelled photos.
        notes: `{path: note}` of some of them.
        labels: the label space.
        task: `dual_head`, `multiclass` or `multilabel`.
        probabilities: of the photos, out of fold, `[records, labels]`.
        targets: as for `linear.out_of_fold`.
        folds: int `[records]`.
    """
    own = np.array([i for i, record in enumerate(records) if record.path in notes])
    noted = _note_probabilities([notes[records[i].path] for i in own], labels, task, targets[own], folds[own])
    photo, note = (np.clip(part, CLIP, 1 - CLIP) for part in (probabilities[own], noted))
    hot = np.array([labels.encode(records[i].labels) for i in own])
    prior, differing = (hot.sum(0) + 0.5) / (len(hot) + 1), _differing_heads
    if task == "multilabel":
        differing = _differing_labels
    found = []
    for i, by_photo, by_note in zip(own.tolist(), photo, note, strict=True):
        given = {name for names in records[i].labels.values() for name in names}
        found += differing(i, labels, given, by_photo, by_note, prior)
    return sorted(found, key=lambda suspect: (-suspect.score, records[suspect.position].path))


def _note_probabilities(
    texts: Sequence[str], labels: LabelSpace, task: str, targets: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Return probabilities `[texts, labels]` of the baseline, each by the texts of the other folds."""
    model = text_tfidf(task, labels.as_dict())
    model.learn_vocabulary(texts)
    matrix, found = model.matrix(texts), np.zeros((len(texts), len(labels)), np.float32)
    for fold in np.unique(folds):
        held = folds == fold
        if held.all():
            raise InputError(f"all {len(texts)} notes are in one fold: too few to judge photos by")
        model.fit_heads(matrix[~held], targets[~held])
        with torch.inference_mode():
            logits = model.classify(torch.from_numpy(matrix[held].toarray()))
            found[held] = model.probabilities(logits).numpy()
    return found


def _differing_heads(
    i: int, labels: LabelSpace, given: set[str], photo: np.ndarray, note: np.ndarray, prior: np.ndarray
) -> list[Suspect]:
    """Return a suspect for each kind in which photo and note are sure of different labels.

    A vague note prefers what is frequent: its words alone, without the labels' shares, have to say the same.
    """
    found = []
    for kind, part in labels.slices.items():
        shown, said = photo[part].argmax(), note[part].argmax()
        by_photo, by_note, by_share = (np.log(p[part][shown] / p[part][said]) for p in (photo, note, prior))
        score = min(by_photo, -by_note, by_share - by_note)
        if shown == said or score < SURE:
            continue
        names = labels.kinds[kind]
        seen = names[said] in given  # then the note agrees with the label, and the photo with neither
        add = names[shown] if seen else names[said]
        remove = tuple(name for name in names if name in given)
        found.append(Suspect(i, (add,), remove, float((photo if seen else note)[part].max()), float(score)))
    return found


def _differing_labels(
    i: int, labels: LabelSpace, given: set[str], photo: np.ndarray, note: np.ndarray, prior: np.ndarray
) -> list[Suspect]:
    """Return a suspect for the label that photo and note are surest to disagree on."""
    way = np.where(photo > 0.5, -1, 1)  # in which the note disagrees
    margins = np.minimum(-way * logit(photo), way * logit(note))
    margins = np.minimum(margins, way * (logit(note) - logit(prior)))
    label = int(margins.argmax())
    if margins[label] < SURE:
        return []
    name, sure = labels.names[label], max(note[label], 1 - note[label])
    change = ((), (name,)) if name in given else ((name,), ())
    return [Suspect(i, *change, float(sure), float(margins[label]))]
