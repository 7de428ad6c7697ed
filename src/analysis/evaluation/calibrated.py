"""Tables of how far probabilities hold, of held-out photos, and of their labels that may be wrong."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.audit.suspects import find_suspects
from src.analysis.evaluation.evaluation_folder import FOLDER
from src.analysis.evaluation.labelled import labels_of, targets_of
from src.analysis.evaluation.scored import Scored
from src.datamodules.groups import NO_PAIRS, Linked
from src.datamodules.records import Record
from src.decisions import calibration
from src.labels import LabelSpace
from src.runs import read_table

ALL = "all"  # the row over every label
HELD_OUT = "held_out.csv"
COLUMNS = ["file", "kind", "given_label", "suggested_label", "confidence", "list"]


def calibration_table(before: Scored, after: Scored, unfitted: dict[str, str]) -> pd.DataFrame:
    """Return calibration error and Brier score of each label, or head, before and after.

    Args:
        before: Labelled photos with their scores.
        after: The same with calibrated scores.
        unfitted: Why a label or head was not fitted, by name.
    """
    rows = []
    for (name, scores, hits), (_, calibrated, _) in zip(_parts(before), _parts(after), strict=True):
        errors = (calibration.calibration_error(s, hits) for s in (scores, calibrated))
        distances = (float(calibration.brier(s, hits)) for s in (scores, calibrated))
        rows.append((name, *errors, *distances, len(hits), unfitted.get(name, "")))
    columns = ["label", "ece_before", "ece_after", "brier_before", "brier_after", "photos", "unfitted"]
    return pd.DataFrame(rows, columns=columns)


def reliability_table(before: Scored, after: Scored) -> pd.DataFrame:
    """Return the points of the reliability diagram of each label, or head, before and after."""
    rows = []
    for stage, scored in (("before", before), ("after", after)):
        for name, scores, hits in _parts(scored):
            points = zip(*calibration.reliability(scores, hits), strict=True)
            rows += [(stage, name, int(photos), score, share) for photos, score, share in points]
    return pd.DataFrame(rows, columns=["stage", "label", "photos", "score", "share"])


def _parts(scored: Scored) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, probabilities and whether they were right: of all, then of each label, or head."""
    parts = {}
    if scored.multilabel:
        parts = {
            name: (scored.scores[:, i], scored.truth[:, i]) for i, name in enumerate(scored.labels.names)
        }
    else:
        for kind, own in scored.labels.slices.items():
            known = scored.known[:, own].all(1)
            right = (scored.decided & scored.truth)[known, own].any(1)
            parts[kind] = scored.scores[known, own].max(1), right
    yield (ALL, *(np.concatenate(columns) for columns in zip(*parts.values(), strict=True)))
    yield from ((name, *columns) for name, columns in parts.items())


def held_out_table(held: Scored, source: str) -> pd.DataFrame:
    """Return the photos that thresholds and calibration rest on, with labels and probabilities, by path."""
    labels = [held.labels.decode(row) for row in held.truth]
    kinds = {kind: [";".join(row[kind]) for row in labels] for kind in held.labels.kinds}
    scores = {f"p:{name}": held.scores[:, i] for i, name in enumerate(held.labels.names)}
    about = {"ID": held.ids, "path": held.paths, "group": held.groups, "source": source}
    return pd.DataFrame(about | kinds | scores).sort_values("path", kind="stable")


def noisy_labels_of_run(run: Path | None, task: str, labels: LabelSpace) -> pd.DataFrame | None:
    """Return the labels that may be wrong of a run's held-out photos; None for no run, or one without them.

    Raises:
        InputError: for a table without the columns of this label space, or scores that are not finite.
    """
    columns = [f"p:{name}" for name in labels.names]
    needs = "ID", "path", "group", *labels.kinds, *columns
    if run is None or (table := read_table(run / FOLDER / HELD_OUT, needs)) is None:
        return None
    rows = table.to_dict("records")
    scores = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    targets = targets_of([labels_of(row, labels, task) for row in rows], labels, task)
    groups = [row["group"] or row["ID"] for row in rows]
    held = Scored(task, labels, list(table["ID"]), list(table["path"]), groups, scores, targets)
    held.check_finite()
    return noisy_labels(held)


def noisy_labels(held: Scored) -> pd.DataFrame:
    """Return the labels that may be wrong, a row each, list by list as the audit ranks them.

    The columns are `COLUMNS`: without a given label one is missing, without a suggested one it is too many.
    `confidence` is the probability that the suggestion rests on, `list` the audit's.

    Args:
        held: photos with scores of a model that has not learned from them.
    """
    labels = held.labels
    names = [{kind: tuple(own) for kind, own in labels.decode(row).items()} for row in held.truth]
    photos = map(Record, held.ids, held.paths, names, held.groups)
    groups = pd.factorize(np.asarray(held.groups, object))[0].astype(np.int64)
    linked, rows = Linked([*photos], groups, NO_PAIRS, NO_PAIRS[:, 0]), []
    for name, found in find_suspects(linked, labels, held.multilabel, held.scores).items():
        for s in found:
            kinds = [kind for kind, own in labels.kinds.items() if {*own} & {*s.remove, *s.add}]
            words = ";".join(kinds), ";".join(s.remove), ";".join(s.add)
            rows.append((held.paths[s.position], *words, s.probability, name))
    return pd.DataFrame(rows, columns=COLUMNS)
