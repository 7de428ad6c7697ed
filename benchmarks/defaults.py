"""The evidence for the defaults of heads on a frozen backbone: validation figures of one change at a time.

`python -m benchmarks.defaults sdnet2018 $SDNET2018`; results use other seeds, and no test photo is looked at.
"""

import argparse
import sys
from collections.abc import Sequence

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.harness import BENCH, command, composed, figures_of, markdown
from src import config
from src.datamodules.dataset import TrainTransform, encoded_targets
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.split_figures import Weighting
from src.inference.features import MIRRORED, View, store_features
from src.inference.torch_backend import threads
from src.models.classifiers import PhotoClassifier
from src.models.learning import schedule_factor
from src.overrides import override
from src.parallel import mixed_seed

Seen = dict[str, list[Tensor]]  # features [N, F] of each view, by split
SEEDS, SIZES = range(10, 16), (224, 256, 288)
# random views have a seed of their own, so that all splits share them
RANDOM: tuple[View, ...] = tuple((TrainTransform(), 1, number) for number in range(4))
VIEWS: tuple[View, ...] = (None, MIRRORED, *RANDOM[:2])
DEFAULT, ROTATED = "the defaults", "four random views"  # the rows that are no override
ROWS = (
    DEFAULT, "model.lr=5e-3", "model.lr=2e-2", "model.weight_decay=0", "model.weight_decay=1",
    "trainer.max_epochs=10", "trainer.max_epochs=40", "data.batch_size=16", "data.batch_size=64",
    "data.views=1", "data.views=4", ROTATED, "data.class_weights=null", "data.class_weights.sqrt=false",
    "model.label_smoothing=0.05",
)  # fmt: skip


def main() -> None:
    """Print a Markdown table with a row for each change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="an experiment of conf/experiment")
    parser.add_argument("root", help="its photos")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of splits and heads")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of images, in pixels")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    given = parser.parse_args()
    rows = (*ROWS, *(f"preprocess.image_size={size}" for size in given.sizes))
    recipes = {row: recipe(given.name, given.root, given.backbone, row) for row in rows}
    found: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
    for seed in given.seeds:
        for cfg in recipes.values():
            cfg.seed = seed
        data = config.build(recipes[DEFAULT].data)
        data.setup()
        for row, cfg in recipes.items():
            found[row].append(validated(cfg, data, RANDOM if row == ROTATED else VIEWS[: cfg.data.views]))
        print(f"seed {seed}: {found[DEFAULT][-1]}", file=sys.stderr)
    size = recipes[DEFAULT].preprocess.image_size
    print(f"Validation, {given.name}, {given.backbone} at {size} px, mean over seeds", *given.seeds, "\n")
    print(table(found), "\nLosses under other class weights do not compare with the rest.", sep="\n")


def recipe(name: str, root: str, backbone: str, row: str) -> DictConfig:
    """Return the configuration of a training run with the change that a row names."""
    given = {"experiment": name, "data.root": root, "model.backbone": backbone, "output_dir": "."}
    words = [override(key, value) for key, value in {**given, "data.cache_dir": BENCH / "defaults"}.items()]
    return composed(*words, *[row] * ("=" in row))


def validated(cfg: DictConfig, data: PhotoDataModule, views: Sequence[View]) -> dict[str, float]:
    """Train heads; return the validation figures of the epoch with the lowest validation loss."""
    targets = {s: encoded_targets(data.splits[s], data.labels, data.multilabel) for s in ("train", "val")}
    data.weighting = cfg.data.class_weights and Weighting(**cfg.data.class_weights)
    torch.manual_seed(data.seed)
    model = config.build(cfg.model, labels=data.labels.as_dict(), class_weights=data.class_weights())
    seen = features(model, data, views)
    with threads(1):
        loss, logits = fit(cfg, model, seen, targets)
    scored = model.evaluate(model.probabilities(logits), targets["val"])
    keys = {"mAP": "map", "macro-F1 at 0.5": "f1_macro_at_0.5"}
    return {"loss": loss, **figures_of(scored, keys, ("accuracy", "f1_macro"))}


def features(model: PhotoClassifier, data: PhotoDataModule, views: Sequence[View]) -> Seen:
    """Return features `[N, F]`: of the training photos in each view, of the validation photos as they are."""
    asked = [("train", view) for view in views] + [("val", None)]
    records = {view: [r for s, v in asked if v == view for r in data.splits[s]] for _, view in asked}
    stores = store_features(model, data.root, records, data.cache_dir, num_workers=data.num_workers)
    seen: Seen = {"train": [], "val": []}
    for split, view in asked:
        digests = [record.digest for record in data.splits[split]]
        seen[split].append(torch.from_numpy(stores[view].rows(digests).take(range(len(digests)))))
    return seen


def fit(
    cfg: DictConfig, model: PhotoClassifier, seen: Seen, targets: dict[str, Tensor]
) -> tuple[float, dict]:
    """Train a model's heads, one view per epoch in turn; return the best epoch's loss and logits by kind."""
    learned = (parameter for parameter in model.parameters() if parameter.requires_grad)
    optimizer = torch.optim.AdamW(learned, cfg.model.lr, weight_decay=cfg.model.weight_decay)
    count, size, epochs = len(targets["train"]), cfg.data.batch_size, cfg.trainer.max_epochs
    steps = max(2, -(-count // size) * epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule_factor("cosine", step, steps)
    )
    best, kept = float("inf"), {}
    for epoch in range(epochs):
        view = seen["train"][epoch % len(seen["train"])]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(cfg.seed, epoch)))
        model.train()
        for batch in order.split(size):
            optimizer.zero_grad()
            model.loss(model.classify(view[batch]), targets["train"][batch]).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            logits = model.classify(seen["val"][0])
            loss = float(model.loss(logits, targets["val"]))
        if loss < best:
            best, kept = loss, logits
    return best, kept


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return the means of the figures, a row for each change."""
    names = {change: change if change in (DEFAULT, ROTATED) else f"`{change}`" for change in found}
    return markdown([{"change": names[row], **pd.DataFrame(found[row]).mean()} for row in found])


if __name__ == "__main__":
    command(main)
