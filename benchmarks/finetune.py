"""Fine-tuning all layers on large photos: decoded once beside once an epoch."""

import hashlib
import shutil
from unittest.mock import patch

from benchmarks import ours, plain
from benchmarks.harness import BENCH, BOTH, Work
from benchmarks.photos import tree
from benchmarks.train import Given
from src.preprocess import Preprocess

TRAIN, VAL, EPOCHS = 24, 8, 6
CACHE = BENCH / "cache_images"


def given() -> Given:
    """Return photos of 4000 x 3000 in folders, a random ResNet18, and an empty cache."""
    root, weights = tree(4000, 3000, TRAIN, VAL), ours.resnet18_weights()
    overrides = (f"trainer.max_epochs={EPOCHS}", "model.freeze_backbone=false")
    shutil.rmtree(CACHE, ignore_errors=True)
    return Given(root, weights, ours.composed(root, weights, *overrides), EPOCHS)


def naive(given: Given) -> dict:
    """Fine-tune as a typical script does."""
    cfg = given.cfg
    return plain.train(given.root, given.weights, given.epochs, cfg.model.lr, cfg.seed, frozen=False)


def cached(given: Given) -> dict:
    """Fine-tune with cached pixels; the cache is empty."""
    labels = plain.split_of(given.root, "train")[2]
    cfg = ours.cached(given.cfg, "images", CACHE)
    return ours.fit(cfg, plain.first_heads(labels, cfg.seed))


def of_batches(given: Given, kind: str | None) -> dict:
    """Return a digest of all training batches, and how many photos were decoded in each epoch."""
    cfg = ours.cached(given.cfg, kind, CACHE)
    cfg.data.num_workers = 0
    shutil.rmtree(CACHE, ignore_errors=True)
    digest, decodes, calls = hashlib.sha256(), [0] * given.epochs, []
    decode = Preprocess.__call__

    def counted(self, source):
        calls.append(source)
        return decode(self, source)

    with patch.object(Preprocess, "__call__", counted):
        for epoch, batch in ours.batches(cfg, given.epochs):
            for name in ("image", "target", "index"):
                digest.update(batch[name].numpy().tobytes())
            decodes[epoch] += len(calls)
            calls.clear()
    return {"digest": digest.hexdigest(), "decodes": decodes}


def described(given: Given, trained: dict) -> dict:
    """Return the training's figures, and, of ours, what cached and uncached batches are."""
    if "kept" in trained:
        return {"history": trained["history"]}
    kinds = {"uncached": None, "cached": "images"}
    return {"history": trained["history"], **{name: of_batches(given, kind) for name, kind in kinds.items()}}


def decoded_once(_: dict, other: dict) -> bool:
    """Whether cached batches are the uncached ones to the bit, without a decode after the first epoch."""
    return other["cached"]["digest"] == other["uncached"]["digest"] and not any(
        other["cached"]["decodes"][1:]
    )


WORKS = [
    Work(
        f"{EPOCHS} epochs of fine-tuning ResNet18, {TRAIN} + {VAL} photos 4000 x 3000, cached pixels",
        "batches bit-equal to uncached ones, nothing decoded after the first epoch",
        given, naive, cached, described, decoded_once, threads=BOTH,
        packages=("torch", "lightning", "pillow", "numpy"), goal_cpu=1.6,
    )
]  # fmt: skip
