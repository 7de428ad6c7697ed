"""On a GPU: prediction and training, beside a plain script with workers and beside decoding alone."""

import csv
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import ours, plain, predict, train
from benchmarks.harness import BENCH, CORES, Unavailable, Work, threads
from benchmarks.photos import drawn, told_apart, tree
from src.inference import Predictor
from src.inference.torch_backend import TorchBackend
from src.models import REGISTRY, PhotoClassifier
from src.models.base import set_full_precision
from src.preprocess import Preprocess

WIDTH, HEIGHT = SIZE = (3000, 2000)
DIFFERENT = 64  # photos that are drawn; the others are the same pixels in files of other content
PHOTOS, TRAIN, VAL, EPOCHS, BATCH = 1536, 2048, 512, 2, 32
TOLERANCE = 1e-4  # of scores, both in full precision
FULL, HALF = 1e-3, 0.1  # of losses of training, relative, by the precision of ours; the plain ones' is full
LABELS = {"component": [f"part {i}" for i in range(8)], "defect": [f"fault {i}" for i in range(12)]}
CUDA = torch.device("cuda")
CACHE = BENCH / "cache_gpu"


def check() -> None:
    """Refuse to run where torch sees no GPU of NVIDIA's."""
    if not torch.cuda.is_available():
        raise Unavailable("needs a CUDA GPU, and torch sees none")


def decoded(paths: list[Path], times: int = 1) -> list[int]:
    """Read, decode and resize each photo so many times, in as many processes as may be busy; keep nothing."""
    batches = [paths[begin : begin + predict.BATCH] for begin in range(0, len(paths), predict.BATCH)]
    with ProcessPoolExecutor(threads()) as pool:
        return list(pool.map(_decode, batches * times))


def _decode(paths: list[Path]) -> int:
    """Decode photos; return how many."""
    preprocess = Preprocess(plain.SIZE)
    return len([preprocess(path) for path in paths])


def classifier() -> PhotoClassifier:
    """Return an untrained ResNet18 with twenty labels, in eval mode."""
    torch.manual_seed(0)
    preprocess, weights = {"image_size": plain.SIZE}, str(ours.resnet18_weights())
    made = REGISTRY["multilabel"](task="multilabel", labels=LABELS, preprocess=preprocess, weights=weights)
    return made.eval()


def archive() -> predict.Given:
    """Return an archive, and a model on the GPU, warm."""
    photos = told_apart(drawn(*SIZE, DIFFERENT), BENCH / f"archive_{WIDTH}x{HEIGHT}", PHOTOS)
    model = classifier()
    predictor = Predictor(TorchBackend(model, "cuda"), batch_size=predict.BATCH, num_workers=threads())
    predictor.backend.scores(np.zeros((predict.BATCH, plain.SIZE, plain.SIZE, 3), np.uint8))
    return predict.Given(photos, model, predictor)


def script(given: predict.Given, read: plain.Read = plain.decoded_in_full) -> np.ndarray:
    """Predict as a plain script with worker processes does; return the scores."""
    thresholds, labels = given.model.thresholds.numpy().copy(), list(given.model.labels.names)
    forward = predict.eager(given.model.to(CUDA))

    def on_gpu(image: Tensor) -> Tensor:
        return forward(image.to(CUDA)).cpu()

    output = BENCH / "gpu_naive.csv"
    return plain.predict(on_gpu, labels, thresholds, given.photos, output, read, workers=threads())


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute without TF32 in the block."""
    set_full_precision()
    try:
        yield
    finally:
        set_full_precision(False)


def exact_script(given: predict.Given) -> np.ndarray:
    """Predict likewise, with Corbel's decoder and in full precision."""
    with full_precision():
        return script(given, Preprocess(plain.SIZE))


def exact_ours(given: predict.Given) -> Path:
    """Predict with Corbel in full precision, as `predict.py` does; return the CSV."""
    with full_precision():
        return predict.ours(given)


def scores(given: predict.Given, result: np.ndarray | Path | list) -> dict:
    """Return the scores of a plain script, or of a CSV."""
    if isinstance(result, list):
        return {"photos": sum(result)}
    if isinstance(result, Path):
        with open(result, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        result = np.array([[float(row[f"p:{name}"]) for name in given.model.labels.names] for row in rows])
    return {"photos": len(result), "_scores": result.tolist()}


def same_scores(one: dict, other: dict) -> bool:
    """Whether scores agree to the tolerance."""
    expected, found = np.array(one["_scores"]), np.array(other["_scores"])
    return expected.shape == found.shape and bool(np.abs(expected - found).max() <= TOLERANCE)


def training(*more: str) -> train.Given:
    """Return what is trained on, with an empty cache and a GPU that has started."""
    root, weights = tree(*SIZE, TRAIN, VAL, DIFFERENT), ours.resnet18_weights()
    overrides = (
        "trainer.accelerator=gpu", f"trainer.max_epochs={EPOCHS}", f"data.batch_size={BATCH}",
        "data.near_duplicates=null", *more,
    )  # fmt: skip
    cfg = ours.composed(root, weights, *overrides)
    shutil.rmtree(CACHE, ignore_errors=True)
    ours.datamodule(cfg)  # each photo is checked, once for all runs
    torch.zeros(1, device=CUDA)
    return train.Given(root, weights, cfg, EPOCHS)


def script_trained(given: train.Given, read: plain.Read = plain.decoded_in_full) -> dict:
    """Train as a plain script with worker processes does."""
    model, seed = given.cfg.model, given.cfg.seed
    options = {"read": read, "device": "cuda", "workers": threads(), "batch_size": BATCH}
    return plain.train(given.root, given.weights, EPOCHS, model.lr, seed, model.freeze_backbone, **options)


def exact_trained(given: train.Given) -> dict:
    """Train likewise, with Corbel's decoder and in full precision."""
    with full_precision():
        return script_trained(given, Preprocess(plain.SIZE))


def tuned(given: train.Given) -> dict:
    """Train all layers with Corbel; every epoch decodes."""
    return train.fit(given, given.cfg)


def cached(given: train.Given) -> dict:
    """Train heads with Corbel on cached features; the cache is empty."""
    return train.fit(given, ours.cached(given.cfg, "features", CACHE))


def all_decoded(given: train.Given, times: int) -> list[int]:
    """Decode each photo of training and validation so many times."""
    return decoded(sorted(given.root.glob("*/*/*.jpg")), times)


def losses(_: train.Given, result: dict | list, photos: int) -> dict:
    """Return the losses and accuracies of each epoch, and how many photos are to be decoded for them."""
    return {"photos": photos, "history": None if isinstance(result, list) else result["history"]}


def same_losses(one: dict, other: dict, tolerance: float) -> bool:
    """Whether the losses of training agree to the tolerance."""
    expected, found = (np.array(side["history"])[:, 0] for side in (one, other))
    return expected.shape == found.shape and bool(np.abs(found / expected - 1).max() <= tolerance)


COMMON = {"threads": (CORES,), "packages": ("torch", "lightning", "pillow", "numpy"), "most_limit": 1.25}
WORKS = [
    Work(
        f"{PHOTOS} photos {WIDTH} x {HEIGHT} to a CSV of predictions",
        f"scores of a plain script with the same decoder in full precision, to {TOLERANCE:g}",
        archive, script, exact_ours, scores, same_scores, rounds=2,
        limit=lambda given: decoded(given.photos), reference=exact_script, **COMMON,
    ),
    Work(
        f"{EPOCHS} epochs of fine-tuning ResNet18, {TRAIN} + {VAL} photos {WIDTH} x {HEIGHT}, bf16, no cache",
        f"losses of training as of a plain loop with the same decoder in full precision, to {HALF:.0%}",
        partial(training, "trainer.precision=bf16-mixed", "model.freeze_backbone=false"),
        script_trained, tuned, partial(losses, photos=EPOCHS * (TRAIN + VAL)),
        partial(same_losses, tolerance=HALF), rounds=1, limit=partial(all_decoded, times=EPOCHS),
        reference=exact_trained, **COMMON,
    ),
    Work(
        f"{EPOCHS} epochs of heads on frozen ResNet18, {TRAIN} + {VAL} photos {WIDTH} x {HEIGHT}, cold cache",
        f"losses of training as of a plain loop with the same decoder in full precision, to {FULL:.1%}",
        training, script_trained, cached, partial(losses, photos=TRAIN + VAL),
        partial(same_losses, tolerance=FULL), rounds=1, limit=partial(all_decoded, times=1),
        reference=exact_trained, **COMMON,
    ),
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Name the GPU, and say how many photos a second each side, and the GPU alone, gets through."""
    step = step_rates()
    with full_precision():
        forward = forward_rates()
    said = [torch.cuda.get_device_name()]
    for row, alone in zip(rows, (forward["32"], step["bf16"], forward["32"]), strict=True):
        sides = ("naive", "ours", "limit")
        naive, mine, limit = (row[s]["result"]["photos"] / row[s]["wall_s"]["median"] for s in sides)
        said.append(
            f"{row['work']}, photos/s: plain {naive:.0f}, ours {mine:.0f}; {row['threads'][-1]} cores decode "
            f"{limit:.0f} ({mine / limit:.0%} of it reached), the GPU alone would do {alone:.0f}"
        )
    for what, rates in (("scores", forward), (f"training steps of {BATCH}", step)):
        said.append(
            f"the GPU alone, {what}, photos/s: " + ", ".join(f"{n} {r:.0f}" for n, r in rates.items())
        )
    return said


def forward_rates() -> dict[str, float]:
    """Return photos per second from pixels to scores in CPU memory, by precision and batch."""
    model, found = classifier(), {}
    options = {"32": {}, "bf16": {"precision": "bf16"}, "16": {"precision": "16"},
               "bf16 compiled": {"precision": "bf16", "compile": True}}  # fmt: skip
    for size in (predict.BATCH, 128):
        pixels = np.random.default_rng(0).integers(0, 256, (size, plain.SIZE, plain.SIZE, 3), np.uint8)
        for name, chosen in options.items():
            backend = TorchBackend(model, "cuda", **chosen)
            label = name if size == predict.BATCH else f"{name} in batches of {size}"
            found[label] = _rate(lambda b=backend, p=pixels: b.scores(p), size)
    return found


def step_rates() -> dict[str, float]:
    """Return photos per second of training steps on pixels that lie on the GPU, by precision."""
    found = {}
    image = torch.randint(0, 256, (BATCH, 3, plain.SIZE, plain.SIZE), dtype=torch.uint8, device=CUDA)
    for precision in ("32", "bf16"):
        model = classifier().to(CUDA).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        half = precision == "bf16"
        found[precision] = _rate(lambda m=model, o=optimizer, h=half: _step(m, o, image, h), BATCH)
    return found


def _step(model: PhotoClassifier, optimizer: torch.optim.Optimizer, image: Tensor, half: bool) -> None:
    """Make one training step."""
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        loss = sum(logits.square().mean() for logits in model(image).values())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _rate(work: Callable[[], object], photos: int, times: int = 50) -> float:
    """Return photos per second, after a warm-up."""
    for _ in range(10):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        work()
    end.record()
    torch.cuda.synchronize()
    return 1000 * times * photos / start.elapsed_time(end)
