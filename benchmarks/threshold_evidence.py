"""Thresholds with evidence: F1 on simulated labels under each rule, and the time that resampling takes.

A label's scores are those of a model with an AUC of 0.92, trained with the square root of `pos_weight`;
shifted ones lie two logits lower. F1 is the expected one on new photos, from the distributions themselves.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from benchmarks.harness import BOTH, Work, in_fresh_process, markdown, measured
from src.decisions.calibration import apply, fit
from src.decisions.thresholds import TRUST, evidence, prior_thresholds, tune_thresholds

PREVALENCES = np.array([0.007, 0.02, 0.054, 0.15, 0.36])
POSITIVES = (326, 253, 221, 214, 211, 162, 151, 139, 101, 66, 49, 23, 21, 19, 17, 17, 11, 10, 6, 6)  # of 911
APART = np.sqrt(2) * ndtri(0.92)  # the distance of two normal distributions with that AUC
SMALL, POOLED, LARGE, DRAWS, RESAMPLES = 220, 1480, 100_000, 200, 200
SHIFTS = {"calibrated": 0.0, "shifted": -2.0}
Table = tuple[np.ndarray, np.ndarray]  # scores and targets, [photos, labels]


def drawn(photos: int, prevalences: np.ndarray, shift: float, seed: int) -> Table:
    """Return random scores and targets."""
    rng = np.random.default_rng(seed)
    targets = rng.random((photos, len(prevalences))) < prevalences
    places = rng.normal(size=targets.shape) + APART * targets
    logits = APART * places - APART**2 / 2 + logit(prevalences) / 2 + shift
    return expit(logits).astype(np.float32), targets


def expected_f1(thresholds: np.ndarray, shift: float) -> np.ndarray:
    """Return the F1 of each label on new photos."""
    cut = logit(np.clip(np.asarray(thresholds, np.float64), 1e-7, 1 - 1e-7))
    places = (cut - shift - logit(PREVALENCES) / 2 + APART**2 / 2) / APART
    right, wrong = PREVALENCES * ndtr(APART - places), (1 - PREVALENCES) * ndtr(-places)
    return 2 * right / (right + wrong + PREVALENCES)


def resampled(scores: np.ndarray, targets: np.ndarray, resamples: int) -> Iterator[list[float]]:
    """Yield the best thresholds of resamples that are written out photo by photo; NaN without positives."""
    rng = np.random.default_rng(0)
    columns = list(zip(scores.T, targets.T, strict=True))
    for _ in range(resamples):
        rows = rng.integers(0, len(scores), len(scores))
        yield [_best(np.unique(own[hot]), own[rows], own[rows][hot[rows]]) for own, hot in columns]


def _best(tried: np.ndarray, scores: np.ndarray, hits: np.ndarray) -> float:
    """Return the threshold with the best F1, of equal ones the nearest to 0.5."""
    if not len(hits):
        return np.nan
    right, predicted = (len(s) - np.searchsorted(np.sort(s), tried) for s in (hits, scores))
    f1 = 2 * right / (predicted + len(hits))
    best = tried[f1 == f1.max()].astype(np.float64)
    return best[np.lexsort((-best, np.abs(best - 0.5)))[0]]


def medians(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the median threshold of resamples; 0.5 for a label without positives."""
    found = np.array(list(resampled(scores, targets, RESAMPLES)))
    return np.nan_to_num(np.nanmedian(np.where(targets.any(0), found, 0.5), axis=0), nan=0.5)


def rules(shift: float, seed: int) -> dict[str, np.ndarray]:
    """Return the expected F1 of each label under each rule, for one draw of photos."""
    scores, targets = drawn(POOLED, PREVALENCES, shift, seed)
    small = scores[:SMALL], targets[:SMALL]
    thresholds = {
        "fixed 0.5": np.full(len(PREVALENCES), 0.5),
        "one small val": tune_thresholds(*small),
        "+ clamp > 0.8": tune_thresholds(*small, clamp_above=0.8),
        "pooled": tune_thresholds(scores, targets),
        "+ bootstrap median": medians(scores, targets),
    }
    found = {rule: expected_f1(found, shift) for rule, found in thresholds.items()}
    # as a training does: calibrated scores, and the thresholds that the model was trained for
    fitted = fit(scores, targets, pos_weight=np.sqrt((1 - PREVALENCES) / PREVALENCES))
    now = apply(np.full(len(PREVALENCES), 0.5), fitted.parameters)
    calibrated = evidence(apply(scores, fitted.parameters), targets, resamples=RESAMPLES, now=now)
    return found | {"ours": expected_f1(uncalibrated(calibrated.threshold, fitted.parameters), shift)}


def uncalibrated(thresholds: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return the scores that calibration turns into thresholds, by bisection."""
    low, high = np.zeros(len(thresholds)), np.ones(len(thresholds))
    for _ in range(40):
        middle = (low + high) / 2
        above = apply(middle, parameters) >= thresholds
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high


def simulated(draws: int) -> tuple[str, bool]:
    """Return a table of mean F1, `calibrated / shifted`, and whether ours is the best learned rule."""
    grid = expit(np.linspace(-9, 9, 4001))
    oracle = np.max([expected_f1(np.full(len(PREVALENCES), t), 0) for t in grid], axis=0)
    found = {name: [rules(shift, seed) for seed in range(draws)] for name, shift in SHIFTS.items()}
    means = {
        n: {rule: np.mean([one[rule] for one in all_], 0) for rule in all_[0]} for n, all_ in found.items()
    }
    rows = []
    for label, prevalence in enumerate(PREVALENCES):
        cells = [{rule: f"{f1[label]:.3f}" for rule, f1 in means[name].items()} for name in SHIFTS]
        row = {"prevalence": f"{prevalence:.1%}", "positives in val": f"{prevalence * SMALL:.1f}"}
        row |= {rule: f"{cells[0][rule]} / {cells[1][rule]}" for rule in cells[0]}
        rows.append(row | {"oracle": float(oracle[label])})
    best = True
    for by_rule in means.values():
        others = [by_rule[rule].mean() for rule in by_rule if rule not in ("ours", "fixed 0.5")]
        best &= by_rule["ours"].mean() > max(others)
        best &= bool((by_rule["ours"] > by_rule["+ bootstrap median"] - 0.005).all())
    return markdown(rows, 3), best


def ours(given: Table) -> dict[str, np.ndarray]:
    """Return thresholds and their intervals by weights of photos."""
    found = evidence(*given, resamples=RESAMPLES)
    return {"_threshold": found.threshold, "_low": found.low, "_high": found.high}


def naive(given: Table) -> dict[str, np.ndarray]:
    """Return thresholds and their intervals by resamples written out."""
    scores, targets = given
    best = np.array(list(resampled(scores, targets, RESAMPLES)))
    below = [np.append(0, np.unique(own)) for own in scores.T]
    best = [
        (b + own[np.searchsorted(own, b.astype(np.float32)) - 1]) / 2
        for b, own in zip(best.T, below, strict=True)
    ]
    low, middle, high = np.quantile(np.stack(best, 1), (0.05, 0.5, 0.95), axis=0)
    trust = targets.sum(0) / (targets.sum(0) + TRUST)
    threshold = expit(trust * logit(middle) + (1 - trust) * logit(prior_thresholds(scores)))
    return {"_threshold": threshold, "_low": np.minimum(low, threshold), "_high": np.maximum(high, threshold)}


def equal(results: dict[str, dict[str, np.ndarray]]) -> bool:
    """Whether thresholds and intervals agree."""
    sides = results["ours"], results["naive"]
    return all(np.allclose(sides[0][key], sides[1][key], rtol=0, atol=1e-6) for key in sides[0])


def large() -> Table:
    """Return photos with the label frequencies of a real team."""
    return drawn(LARGE, np.array(POSITIVES) / 911, 0, 0)


WORKS = [
    Work(
        f"{RESAMPLES} resamples of {len(POSITIVES)} labels x {LARGE:,} photos", large,
        {"naive": naive, "ours": ours}, equal, rounds=1, threads=BOTH[-1:],
    )
]  # fmt: skip


def main(rounds: int | None = None) -> bool:
    """Print the table of simulated labels, of `rounds` draws, and the time of resampling."""
    draws = rounds or DRAWS
    table, best = simulated(draws)
    print(f"Mean F1 on new photos, calibrated / shifted scores, {draws} draws of {POOLED:,} photos\n")
    print(
        table, f"\nours {'is' if best else 'IS NOT'} the best of the rules that learn from photos", sep="\n"
    )
    text, same = measured(WORKS[0], WORKS[0].rounds, partial(in_fresh_process, "threshold_evidence", 0))
    print(text)
    return best and same
