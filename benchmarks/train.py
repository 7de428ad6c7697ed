"""Training heads on a frozen backbone: from a cold feature cache, and again from a warm one."""

import csv
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from benchmarks import plain
from benchmarks.harness import BENCH, BOTH, ONE, Work, close, composed, threads
from benchmarks.photos import tree
from src import config
from src.inference.features import split_features
from src.inference.torch_backend import threads as torch_threads
from src.training.distributed import inference_device
from src.training.setup import make_trainer, quiet_lightning

TRAIN, VAL, EPOCHS = 192, 64, 10
alike = partial(close, tolerance=1e-5)  # losses, accuracies and heads of the same decoder
CACHE, RUN = BENCH / "cache_features", BENCH / "run"
PLAINLY = (
    "callbacks.early_stopping=null", "callbacks.lr_monitor=null", "callbacks.figures=null",
    "callbacks.progress=null", "~logger", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false",
    "model.backbone=resnet18", "model.lr=5e-4", "model.backbone_lr_factor=1", "model.weight_decay=0",
    "model.schedule=constant", "data.batch_size=8", "data.augment=null", "data.class_weights=null",
    "data.splits={train: 0.75, val: 0.25, test: 0}",
)  # fmt: skip


def given(warm: bool = False) -> DictConfig:
    """Return a training on photos of 1600 x 1200; with all features in the cache if `warm`."""
    cfg = plainly(tree(1600, 1200, TRAIN, VAL), f"trainer.max_epochs={EPOCHS}")
    shutil.rmtree(CACHE, ignore_errors=True)
    if warm:
        other = cfg.copy()
        other.seed, other.model.lr, other.trainer.max_epochs = 100, 1e-3, 1
        ours(other)
    return cfg


def plainly(root: Path, *overrides: str) -> DictConfig:
    """Return the configuration of a plain training run of a random ResNet18 on folders."""
    places = {"data.root": root, "model.weights": resnet18(), "output_dir": RUN, "data.cache_dir": CACHE}
    cfg = composed(*PLAINLY, *(f"{key}='{value}'" for key, value in places.items()), *overrides)
    cfg.data.num_workers = 0 if threads() == 1 else None
    return cfg


def resnet18() -> Path:
    """Return a file with a random ResNet18, the same in every run."""
    path = BENCH / "resnet18_random.pt"
    if not path.is_file():
        torch.manual_seed(0)
        net = plain.resnet18()
        net.fc = torch.nn.Identity()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), path)
    return path


def naive(cfg: DictConfig, read: plain.Read = plain.decoded_in_full) -> dict[str, np.ndarray]:
    """Train as a typical script does."""
    root, weights = Path(cfg.data.root), Path(cfg.model.weights)
    return plain.train(root, weights, cfg.trainer.max_epochs, cfg.model.lr, cfg.seed, read)


def ours(cfg: DictConfig) -> dict[str, np.ndarray]:
    """Train with Corbel from the first heads of the plain loop; return what it does."""
    quiet_lightning()
    shutil.rmtree(RUN, ignore_errors=True)
    (RUN / "checkpoints").mkdir(parents=True)
    data = config.build(cfg.data)
    data.setup()
    model = config.build(cfg.model, labels=data.labels.as_dict(), class_weights=data.class_weights())
    heads = plain.first_heads(Path(cfg.data.root), cfg.seed)
    for kind, head in heads.items():
        model.get_submodule(f"head_{kind}").load_state_dict(head.state_dict())
    data.features = split_features(model, data, cfg.trainer.max_epochs, inference_device(cfg))
    trainer = make_trainer(cfg, model, None)
    with torch_threads(1):
        trainer.fit(model, data)
    with open(RUN / "history.csv", newline="", encoding="utf-8") as file:
        names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
        history = [[float(row[name]) for name in names] for row in csv.DictReader(file)]
    last = [model.get_submodule(f"head_{kind}") for kind in heads]
    return {"_history": np.array(history), "_heads": plain.flat(last)}


WORKS = [
    Work(
        f"{EPOCHS} epochs of heads on a frozen ResNet18, {TRAIN} + {VAL} photos 1600 x 1200, {cache} cache",
        partial(given, cache == "warm"),
        {"reference": partial(naive, read=plain.our_decoder), "naive": naive, "ours": ours},
        alike, threads=BOTH if cache == "cold" else ONE,
    )
    for cache in ("cold", "warm")
]  # fmt: skip
