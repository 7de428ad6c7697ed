"""Thresholds, calibration and promises on the test photos of many splits, heads on cached features.

`INFRA_MULTILABEL=FOLDER python scripts/benchmark.py decisions`; without the folder the demo set alone.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness import BENCH, composed, markdown
from benchmarks.recipes import ALONE
from src.analysis.evaluation.scored import Scored
from src.callbacks.history import scored_split
from src.decisions import routing
from src.decisions.calibration import brier, calibration_error
from src.decisions.thresholds import tune_thresholds, with_room
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
TRAININGS = ("", "data.class_weights=null", "model.loss=focal")
RULES = ("0.5", "best of val", "+ clamp > 0.8", "ours")


def main(rounds: int | None = None) -> bool:
    """Print the tables; return whether no set is clearly worse than 0.5, and misses keep the promise."""
    quiet_lightning()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    sets = {"demo": ("experiment=demo", "model=multilabel")}
    if root := os.environ.get("INFRA_MULTILABEL"):
        sets["infra_multilabel"] = ("experiment=infra_multilabel", override("data.root", root))
    splits, rows, well = range(1, 1 + (rounds or SPLITS)), [], True
    for name, overrides in sets.items():
        for training in TRAININGS:
            found = pd.DataFrame([figures(*split((*overrides, *training.split()), seed)) for seed in splits])
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
