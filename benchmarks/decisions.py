"""Thresholds, calibration, promises and pairs on the test photos of many splits, heads on cached features.

Joint decoding of components and defects is measured here and is not in the product: it gains nothing.
`INFRA_MULTILABEL=FOLDER python scripts/benchmark.py decisions`; without the folder the demo set alone.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness import BENCH, composed, markdown
from benchmarks.recipes import ALONE
from src.analysis.evaluation.scored import Scored
from src.callbacks.history import scored_split
from src.decisions import routing
from src.decisions.calibration import brier, calibration_error
from src.decisions.thresholds import evidence, tune_thresholds, with_room
from src.inference.features import split_features
from src.inference.torch_backend import threads
from src.labels import apply_thresholds
from src.overrides import override
from src.runs import BEST
from src.training.decide import Decisions
from src.training.evaluate import evaluated
from src.training.setup import make_trainer, model_and_data, quiet_lightning

SPLITS, PROMISED_SPLITS = 10, 100
PROMISES = (0.05, 0.1)
STRENGTHS = (0.0, 0.25, 0.5, 1.0)
TRAININGS = ("", "data.class_weights=null", "model.loss=focal")
RULES = ("0.5", "best of val", "+ clamp > 0.8", "ours")


def main(rounds: int | None = None) -> bool:
    """Print the tables; return whether no set is clearly worse than 0.5, and misses keep the promise."""
    quiet_lightning()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    everything = {}
    sets = {"demo": ("experiment=demo", "model=multilabel")}
    if root := os.environ.get("INFRA_MULTILABEL"):
        sets["infra_multilabel"] = ("experiment=infra_multilabel", override("data.root", root))
    splits, rows, well = range(1, 1 + (rounds or SPLITS)), [], True
    for name, overrides in sets.items():
        for training in TRAININGS:
            decided = [split((*overrides, *training.split()), seed) for seed in splits]
            found = pd.DataFrame([figures(*one) for one in decided])
            everything[name, training] = pd.DataFrame([joint_figures(one) for _, one, _ in decided])
            gain = found["ours"] - found["0.5"]
            well &= bool(gain.mean() > -2 * gain.sem())
            cells = {rule: f"{found[rule].mean():.4f}" for rule in RULES}
            cells["ours - 0.5"] = f"{gain.mean():+.4f} ± {gain.sem():.4f}"
            for figure in ("calibration error", "Brier"):
                before, after = (found[f"{figure}, {stage}"].mean() for stage in ("before", "after"))
                cells[figure] = f"{before:.4f}, {after:.4f}"
            rows.append({"set": name, "trained with": training or "defaults"} | cells)
    print(f"Test macro-F1 at thresholds of each rule, mean of {len(splits)} splits (± standard error);")
    print(f"calibration error and Brier score before and after\n\n{markdown(rows, 4)}")
    print("\nMacro-F1, exact match: log-odds of defects moved by the components' smoothed pair rates\n")
    print(markdown([joint_row(*key, table) for key, table in everything.items()], 4))
    seeds = range(1, 1 + (10 * rounds if rounds else PROMISED_SPLITS))
    kept = [promises(*split(sets["demo"], seed)[1:]) for seed in seeds]
    lines = []
    for miss in PROMISES:
        table = pd.DataFrame([row for rows in kept for row in rows if row["promised"] == miss])
        mean = table["missed"].mean()
        well &= bool(mean <= miss + 2 * table.groupby("split")["missed"].mean().sem()) if len(table) else True
        line = {"promised": f"{miss:.0%}", "labels with a promise": len(table) / len(seeds)}
        line |= {"missed": f"{mean:.2%}", "photos for a person": f"{table['reviewed'].mean():.1%}"}
        lines.append(line)
    print(f"\nDemo set, {len(seeds)} splits: photos with a label that are decided without it and nobody sees")
    print(f"\n{markdown(lines, 1)}")
    return well


def split(overrides: Sequence[str], seed: int) -> tuple[dict[str, np.ndarray], Decisions, int]:
    """Train on the split of a seed; return thresholds of other rules, what was decided, and the seed."""
    with tempfile.TemporaryDirectory() as run:
        own = (override("output_dir", run), override("data.cache_dir", BENCH / "recipes"))
        cfg = composed(*overrides, f"seed={seed}", *own, *ALONE)
        model, data = model_and_data(cfg)
        trainer = make_trainer(cfg, model, None)
        data.features = split_features(model, data, cfg.trainer.max_epochs, "cpu")
        best = Path(run) / "checkpoints" / BEST
        with threads(1):
            trainer.fit(model, data)
            evaluated(trainer, model, data, best)
            val = scored_split(model, data, "val")
            rules = {"0.5": np.full(len(model.labels), 0.5), "best of val": model.thresholds.numpy().copy()}
            clamped = tune_thresholds(val.scores, val.truth, clamp_above=0.8)
            rules["+ clamp > 0.8"] = with_room(clamped, val.scores)
            return rules, Decisions(cfg, trainer, best), seed


def figures(rules: Mapping[str, np.ndarray], found: Decisions, _: int) -> dict[str, float]:
    """Return macro-F1 of each rule, calibration error and Brier score on test."""
    before, after = found.before, scored_split(found.model, found.datamodule, "test")
    values = {rule: macro_f1(before, thresholds) for rule, thresholds in rules.items()}
    values["ours"] = macro_f1(after, after.thresholds)
    for stage, scored in (("before", before), ("after", after)):
        values[f"calibration error, {stage}"] = calibration_error(scored.scores.ravel(), scored.truth.ravel())
        values[f"Brier, {stage}"] = float(brier(scored.scores.ravel(), scored.truth.ravel()))
    return values


def moved(scores: np.ndarray, kinds: Sequence[slice], held: Scored, strength: float) -> np.ndarray:
    """Return scores in which the photo's components move the log-odds of its defects.

    A defect gains `strength` times the logarithm of its mean ratio over the components, each with its
    probability; the ratio of a pair is that of its photos, found + 1, to those of unrelated kinds, expected
    + 1. No component at all has a ratio of 1.
    """
    first, second = kinds
    truth = held.truth.astype(float)
    expected = np.outer(truth[:, first].sum(0), truth[:, second].sum(0)) / len(truth)
    ratios = (truth[:, first].T @ truth[:, second] + 1) / (expected + 1)
    none = np.prod(1 - scores[:, first], 1, keepdims=True)
    weights = np.concatenate([scores[:, first], none], 1)
    mean = weights / weights.sum(1, keepdims=True) @ np.vstack([ratios, np.ones(ratios.shape[1])])
    cut, found = np.clip(scores[:, second].astype(float), 1e-7, 1 - 1e-7), scores.copy()
    found[:, second] = 1 / (1 + np.exp(-(np.log(cut / (1 - cut)) + strength * np.log(mean))))
    return found


def joint_figures(found: Decisions) -> dict[str, float]:
    """Return test macro-F1 and exact match at each strength, thresholds from held-out photos moved alike."""
    held, after = found.held, scored_split(found.model, found.datamodule, "test")
    kinds, values = list(held.labels.slices.values()), {}
    for strength in STRENGTHS:
        scores = moved(held.scores, kinds, held, strength)
        thresholds = evidence(scores, held.truth, np.asarray(held.groups), now=found.model.thresholds.numpy())
        test = replace(after, scores=moved(after.scores, kinds, held, strength))
        values[f"F1 {strength}"] = macro_f1(test, thresholds.threshold)
        decided = apply_thresholds(test.scores, thresholds.threshold)
        values[f"exact {strength}"] = float((decided == test.truth).all(1).mean())
    return values


def joint_row(name: str, training: str, table: pd.DataFrame) -> dict[str, str]:
    """Return the means at strength 0, and the differences from them at the others."""
    cells = {"set": name, "trained with": training or "defaults"}
    for strength in STRENGTHS:
        parts = []
        for figure in ("F1", "exact"):
            own, plain = table[f"{figure} {strength}"], table[f"{figure} 0.0"]
            parts.append(f"{own.mean():.4f}" if not strength else f"{(own - plain).mean():+.4f}")
        cells[f"strength {strength:g}"] = ", ".join(parts)
    return cells


def macro_f1(scored: Scored, thresholds: np.ndarray) -> float:
    """Return macro-F1 over the labels with photos."""
    decided, truth = apply_thresholds(scored.scores, thresholds), scored.truth
    held = truth.any(0)
    hits, said, support = (part[:, held].sum(0) for part in (decided & truth, decided, truth))
    return float((2 * hits / (said + support)).mean())


def promises(found: Decisions, seed: int) -> list[dict[str, float]]:
    """Return promised and measured rates of missed photos, of each label with a promise."""
    after = scored_split(found.model, found.datamodule, "test")
    limits = found.model.limits.numpy()
    rows = routing.workload(limits, after.scores, after.truth, after.labels, after.thresholds)
    kept = [row for row in rows if row["miss"] in PROMISES and row["promise"] and row["label"] != "all"]
    return [{"split": seed, "promised": row["miss"], **row} for row in kept if row["missed"] == row["missed"]]
