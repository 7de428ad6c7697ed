"""Labels that may be wrong, found by the audit's rules from scores of photos that were held out."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.analysis.audit.suspects import find_suspects
from src.analysis.evaluation.evaluation_folder import FOLDER
from src.analysis.evaluation.labelled import labels_of, targets_of
from src.analysis.evaluation.scored import Scored
from src.datamodules.groups import NO_PAIRS, Linked
from src.datamodules.records import Record
from src.labels import LabelSpace
from src.runs import read_table

HELD_OUT = "held_out.csv"
COLUMNS = ["file", "kind", "given_label", "suggested_label", "confidence", "list"]


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
