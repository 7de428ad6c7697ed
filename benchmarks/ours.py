"""Corbel's side of the benchmarks: its commands' own configuration, without their reports."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.harness import BENCH, threads
from src import config
from src.callbacks import quiet_lightning
from src.callbacks.distributed import inference_device
from src.callbacks.prepare import make_trainer
from src.config import CONF
from src.datamodules import PhotoDataModule
from src.inference.features import split_features
from src.inference.torch_backend import TorchBackend
from src.inference.torch_backend import threads as torch_threads
from src.models import PhotoClassifier
from src.models.defaults import fill_defaults
from src.parallel import bounded_map

QUIET = ("callbacks.early_stopping=null", "callbacks.lr_monitor=null", "callbacks.figures=null",
         "callbacks.progress=null", "~logger", "trainer.accelerator=cpu", 
         "+trainer.enable_progress_bar=false")  # fmt: skip


def composed(root: Path, weights: Path, *overrides: str) -> DictConfig:
    """Return the configuration of a plain training run of a ResNet18 on folders."""
    given = (
        "model.backbone=resnet18",
        "model.lr=5e-4",
        "model.backbone_lr_factor=1",
        "model.weight_decay=0",
        "model.schedule=constant",
        "data.batch_size=8",
        f"data.root='{root}'",
        f"model.weights='{weights}'",
        "data.augment=null",
        "data.splits={train: 0.75, val: 0.25, test: 0}",
        "data.class_weights=null",
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*QUIET, *given, f"output_dir='{BENCH / 'run'}'", *overrides])
    fill_defaults(cfg)
    workers = 0 if threads() == 1 else None
    cfg.data.num_workers = workers
    return cfg


def cached(cfg: DictConfig, kind: str | None, folder: Path) -> DictConfig:
    """Return the configuration with such a cache in that folder; null: with none."""
    cfg = cfg.copy()
    cfg.data.cache, cfg.data.cache_dir = kind, str(folder) if kind else None
    return cfg


def datamodule(cfg: DictConfig) -> PhotoDataModule:
    """Return the datamodule, set up."""
    made = config.build(cfg.data)
    made.setup()
    made.prepare_data()
    return made


def fit(cfg: DictConfig, heads: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict:
    """Train from those heads; return `history` and `heads` as `plain.train` does."""
    quiet_lightning()
    run = Path(cfg.output_dir)
    shutil.rmtree(run, ignore_errors=True)
    (run / "checkpoints").mkdir(parents=True)
    data = datamodule(cfg)
    model = config.build(cfg.model, labels=data.labels.as_dict(), class_weights=data.class_weights())
    for kind, (weight, bias) in heads.items():
        model.get_submodule(f"head_{kind}").load_state_dict({"weight": weight, "bias": bias})
    if data.cache == "features":
        data.features = split_features(model, data, cfg.trainer.max_epochs, inference_device(cfg))
    trainer = make_trainer(cfg, model, None)
    with torch_threads(1 if data.features else None):
        trainer.fit(model, data)
    with open(run / "history.csv", newline="", encoding="utf-8") as file:
        names = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
        history = [[float(row[name]) for name in names] for row in csv.DictReader(file)]
    layers = [model.get_submodule(f"head_{kind}") for kind in heads]
    last = [layer.weight for layer in layers] + [layer.bias for layer in layers]
    return {"history": history, "heads": torch.cat([part.detach().flatten() for part in last])}


def once(model: PhotoClassifier, paths: list[Path], batch_size: int) -> list[np.ndarray]:
    """Decode each photo once and compute its features once, in as many threads as there are cores."""
    backend = TorchBackend(model, "cpu")

    def work(batch: list[Path]) -> np.ndarray:
        return backend.features(np.stack([backend.preprocess(path) for path in batch]))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    found = list(bounded_map(work, batches, threads()))
    torch.set_num_threads(before)
    return found


def resnet18_weights() -> Path:
    """Return a file with a random ResNet18, the same in every run."""
    path = BENCH / "resnet18_random.pt"
    if not path.is_file():
        from torchvision.models import resnet18

        torch.manual_seed(0)
        net = resnet18()
        net.fc = torch.nn.Identity()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save(net.state_dict(), part)
        part.replace(path)
    return path


def batches(cfg: DictConfig, epochs: int) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (epoch, batch) of training, read in this process."""
    data = datamodule(cfg)
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield epoch, batch
