"""Choices of docs/training.md for heads on cached features: test figures of each, five seeds.

`INFRA_MULTILABEL=FOLDER python scripts/benchmark.py recipes`; without the folder the demo set alone.
"""

import logging
import os
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pandas as pd
from omegaconf import DictConfig

from benchmarks.harness import BENCH, composed, figures_of, markdown
from src import config
from src.inference.features import split_features
from src.inference.torch_backend import threads
from src.overrides import override
from src.runs import BEST
from src.training.evaluate import evaluated
from src.training.setup import make_trainer, quiet_lightning

SEEDS = 5
PLAIN = "none of them"
MIXUP, MISSING = "model.mixup=0.2", 0.3
MULTILABEL = ("model.loss=asymmetric", "model.loss=partial_bce")  # choices for several labels alone
CHOICES = (
    PLAIN, "model.loss=focal", *MULTILABEL, "model.label_smoothing=0.1", MIXUP,
    "data.balanced=true data.class_weights=null", "data.class_weights=null", "model.head=mlp",
    "data.views=4 data.augment.preset=color", "model.mixup=0.2 data.views=4 data.augment.preset=color",
    "callbacks=[default,ema]",
)  # fmt: skip
SETS = {
    "demo, multilabel": ("experiment=demo", "model=multilabel", "model.mixup=0"),
    "demo, dual_head": ("experiment=demo", "model=dual_head"),
}
FIGURES = {"macro-F1": "f1_macro", "macro-F1 at 0.5": "f1_macro_at_0.5", "mAP": "map"}
ALONE = ("~logger", "callbacks.lr_monitor=null", "callbacks.figures=null", "callbacks.progress=null",
         "+trainer.enable_progress_bar=false")  # fmt: skip


def main(rounds: int | None = None) -> bool:
    """Print a Markdown table for each set."""
    quiet_lightning()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    sets, seeds = dict(SETS), range(1, 1 + (rounds or SEEDS))
    if root := os.environ.get("INFRA_MULTILABEL"):
        sets["infra_multilabel"] = (
            "experiment=infra_multilabel",
            override("data.root", root),
            "model.mixup=0",
        )
    for name, overrides in sets.items():
        several = "multilabel" in name
        choices = [choice for choice in CHOICES if several or choice not in MULTILABEL]
        report(name, seeds, {choice: [tested(overrides, choice, s) for s in seeds] for choice in choices})
        if several:
            few = {
                choice: [tested(overrides, choice, s, MISSING) for s in seeds] for choice in (PLAIN, MIXUP)
            }
            report(f"{name}, {MISSING:.0%} of the labels of train and val left out", seeds, few)
    return True


def report(name: str, seeds: Sequence[int], found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Print the table of a set."""
    print(f"\n**{name}**: test, mean and standard deviation over seeds", *seeds)
    print(f"(in brackets: of the differences from the first row)\n\n{table(found)}", flush=True)


def tested(overrides: Sequence[str], choice: str, seed: int, missing: float = 0.0) -> dict[str, float]:
    """Return the test figures of one training, without a share of the labels that it could learn from."""
    given = choice.split() if choice != PLAIN else ()
    with tempfile.TemporaryDirectory() as run:
        own = (override("output_dir", run), override("data.cache_dir", BENCH / "recipes"))
        scored, _ = trained(composed(*overrides, *given, f"seed={seed}", *own, *ALONE), missing)
    figures = figures_of(scored, FIGURES, ("accuracy", "f1_macro"))
    print(f"{' '.join(overrides)} {choice}, seed {seed}: {figures}", file=sys.stderr)
    return figures


def trained(cfg: DictConfig, missing: float = 0.0) -> tuple[Mapping, Counter]:
    """Train as `scripts/train.py` does; return the best checkpoint's figures on test, and photos by label."""
    config.demo_root(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = config.build(cfg.data)
    data.setup()
    photos = Counter(
        name
        for split in data.splits.values()
        for record in split
        for names in record.labels.values()
        for name in names
    )
    rng = random.Random(0)
    for record in data.splits["train"] + data.splits["val"] if missing else ():
        for kind, names in record.labels.items():
            record.labels[kind] = type(names)(name for name in names if rng.random() >= missing)
    model = config.build(cfg.model, labels=data.labels.as_dict(), class_weights=data.class_weights())
    trainer = make_trainer(cfg, model, None)
    data.partial = model.partial
    if data.cache == "features":
        data.features = split_features(model, data, cfg.trainer.max_epochs, "cpu")
    with threads(1) if data.features else nullcontext():
        trainer.fit(model, data)
    best = Path(cfg.output_dir) / "checkpoints" / BEST
    return evaluated(trainer, model, data, best)["test"], photos


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return means and deviations, a row for each choice, with those of the differences by seed."""
    frames = {choice: pd.DataFrame(rows) for choice, rows in found.items()}
    lines = []
    for choice, frame in frames.items():
        line = {"choice": choice if choice == PLAIN else f"`{choice}`"}
        for name in frame:
            line[name] = f"{frame[name].mean():.3f} ± {frame[name].std():.3f}"
            if choice != PLAIN:
                apart = frame[name] - frames[PLAIN][name]
                line[name] += f" ({apart.mean():+.3f} ± {apart.std():.3f})"
        lines.append(line)
    return markdown(lines)
