"""Tables of how far probabilities hold: before and after calibration, and what a person has to look at."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from src.analysis.evaluation.scored import Scored
from src.decisions import calibration

ALL = "all"  # the row over every label


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
