"""Training heads on a frozen backbone: from a cold cache, and again from a warm one."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from benchmarks import ours, plain
from benchmarks.harness import BENCH, BOTH, Work
from benchmarks.photos import tree
from src import config
from src.datamodules.inspection import inspect_photos
from src.inference.torch_backend import TorchBackend
from src.preprocess import Preprocess

TRAIN, VAL, EPOCHS, AGAIN = 192, 64, 10, 5
TOLERANCE = 1e-5
PACKAGES = ("torch", "lightning", "pillow", "numpy")
CACHE = BENCH / "cache_features"


@dataclass(frozen=True)
class Given:
    """What both ways train on, and Corbel's configuration of it."""

    root: Path
    weights: Path
    cfg: DictConfig
    epochs: int


def given(train: int = TRAIN, val: int = VAL, epochs: int = EPOCHS, warm: bool = False) -> Given:
    """Return photos of 1600 x 1200 in folders and a random ResNet18; with a full cache if `warm`."""
    root, weights = tree(1600, 1200, train, val), ours.resnet18_weights()
    found = Given(root, weights, ours.composed(root, weights, f"trainer.max_epochs={epochs}"), epochs)
    shutil.rmtree(CACHE, ignore_errors=True)
    if warm:
        cfg = ours.cached(found.cfg, "features", CACHE)
        cfg.trainer.max_epochs = 1
        fit(found, cfg)
    return found


def fit(given: Given, cfg: DictConfig) -> dict:
    """Train with that configuration, from the first heads of its seed."""
    labels = plain.split_of(given.root, "train")[2]
    return ours.fit(cfg, plain.first_heads(labels, cfg.seed))


def naive(given: Given) -> dict:
    """Train as a typical script does."""
    return plain.train(given.root, given.weights, given.epochs, given.cfg.model.lr, given.cfg.seed)


def cold(given: Given) -> dict:
    """Train with cached features; the cache is empty."""
    return fit(given, ours.cached(given.cfg, "features", CACHE))


def varied(cfg: DictConfig, number: int) -> DictConfig:
    """Return the configuration with another seed and learning rate."""
    cfg = cfg.copy()
    cfg.seed, cfg.model.lr = 100 + number, 1e-4 * 2**number
    return cfg


def again(given: Given) -> dict:
    """Train five more times, with other seeds and learning rates; return the last training."""
    for number in range(AGAIN):
        last = fit(given, varied(ours.cached(given.cfg, "features", CACHE), number))
    return last


def limit(given: Given) -> list[np.ndarray]:
    """Decode and compute the features of all photos once."""
    labels = plain.split_of(given.root, "train")[2]
    model = config.build(given.cfg.model, labels=labels, class_weights=None).eval()
    paths = [path for split in ("train", "val") for path in plain.split_of(given.root, split)[0]]
    return ours.once(model, paths, given.cfg.data.batch_size)


def with_our_decoder(given: Given, cfg: DictConfig | None = None) -> dict:
    """Train as a typical script does, but for the decoder, which is Corbel's."""
    cfg = cfg or given.cfg
    read = Preprocess(plain.SIZE)
    return plain.train(given.root, given.weights, given.epochs, cfg.model.lr, cfg.seed, read=read)


def last_with_our_decoder(given: Given) -> dict:
    """Train as the last of `again`, without a cache and without Corbel but for the decoder."""
    return with_our_decoder(given, varied(given.cfg, AGAIN - 1))


def curves(_: Given, trained: dict | list) -> dict:
    """Return the losses and accuracies of each epoch, and the last heads."""
    if isinstance(trained, list):
        return {}
    return {"history": trained["history"], "_heads": trained["heads"].tolist()}


def alike(one: dict, other: dict) -> bool:
    """Whether losses, accuracies and heads agree to 1e-5."""
    if len(one["history"]) != len(other["history"]) or len(one["_heads"]) != len(other["_heads"]):
        return False
    figures = torch.tensor(one["history"]) - torch.tensor(other["history"])
    heads = torch.tensor(one["_heads"]) - torch.tensor(other["_heads"])
    return bool(figures.abs().max() <= TOLERANCE and heads.abs().max() <= TOLERANCE)


def remarks(rows: list[dict]) -> list[str]:
    """Say what each photo costs once in ours, and the ratio that a cold training could reach at most."""
    torch.set_num_threads(1)
    made = given(32, 8)
    paths, _, labels = plain.split_of(made.root, "train")
    names = [path.relative_to(made.root).as_posix() for path in paths]
    backend = TorchBackend(config.build(made.cfg.model, labels=labels, class_weights=None), "cpu")
    net = plain.Net(made.weights, plain.first_heads(labels, made.cfg.seed)).eval()
    pixels = np.stack([backend.preprocess(path) for path in paths[:8]])
    image = torch.stack([plain.Photos(paths)[i][0] for i in range(8)])
    check = _ms_a_photo(lambda: inspect_photos(made.root, names), len(names))
    read = _ms_a_photo(lambda: [backend.preprocess(path) for path in paths], len(paths))
    forward = _ms_a_photo(lambda: backend.features(pixels), 8)
    with torch.inference_mode():
        theirs = _ms_a_photo(lambda: net.backbone(image), 8)
    epoch = 1000 * rows[0]["naive"]["cpu_s"]["median"] / (TRAIN + VAL) / EPOCHS
    once = check + read + forward
    return [
        f"CPU ms a photo, one thread: check at the start {check:.1f}, read and decode {read:.1f}, "
        f"forward pass {forward:.1f} (as the naive way does it: {theirs:.1f}); the naive way {epoch:.1f} an "
        f"epoch. {EPOCHS} epochs from a cold cache can be {EPOCHS * epoch / once:.1f}x as fast at most, and "
        f"take {once / (read + forward):.2f}x the limit at least"
    ]


def _ms_a_photo(work: Callable[[], object], photos: int) -> float:
    """Return the least CPU milliseconds a photo of five runs."""
    found = []
    for _ in range(5):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return 1000 * min(found) / photos


WORKS = [
    Work(
        f"{EPOCHS} epochs of heads on a frozen ResNet18, {TRAIN} + {VAL} photos 1600 x 1200, cold cache",
        "figures and heads as of a plain loop with the same decoder, to 1e-5",
        given, naive, cold, curves, alike, threads=BOTH, limit=limit, reference=with_our_decoder,
        packages=PACKAGES, goal_cpu=12, goal_wall=15, most_limit=1.15,
    ),
    Work(
        "one more such training, other seed and learning rate, warm cache",
        "figures and heads as of a plain loop with the same decoder, to 1e-5",
        partial(given, warm=True), naive, again, curves, alike, reference=last_with_our_decoder,
        times=AGAIN, packages=PACKAGES, goal_cpu=100,
    ),
]  # fmt: skip
