"""On a CUDA GPU: photos to a CSV, against a plain script with workers and against decoding alone."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain, predict, train
from benchmarks.harness import CORES, Work, threads
from benchmarks.photos import drawn
from src.errors import InputError
from src.inference.predictor import Predictor
from src.inference.torch_backend import TorchBackend
from src.models.base import set_full_precision
from src.models.classifiers import MultiLabelClassifier

SIZE, PHOTOS, DIFFERENT = (3000, 2000), 1536, 64  # pixels; photos; those of different pixels
LABELS = {"component": [f"part {i}" for i in range(8)], "defect": [f"fault {i}" for i in range(12)]}
DEVICE = "cuda"


def check() -> None:
    """Refuse to run without a CUDA GPU."""
    if not torch.cuda.is_available():
        raise InputError("needs a CUDA GPU, and torch sees none")


def given() -> predict.Given:
    """Return an archive, and an untrained ResNet18 with twenty labels on the GPU, warm."""
    torch.manual_seed(0)
    set_full_precision()
    settings = {"task": "multilabel", "labels": LABELS, "preprocess": {"image_size": plain.SIZE}}
    model = MultiLabelClassifier(**settings, backbone="resnet18", weights=str(train.resnet18())).eval()
    backend = TorchBackend(model, DEVICE)
    backend.scores(np.zeros((predict.BATCH, plain.SIZE, plain.SIZE, 3), np.uint8))
    predictor = Predictor(backend, batch_size=predict.BATCH, num_workers=threads())
    return predict.Given(drawn(*SIZE, PHOTOS, DIFFERENT), model, predictor, DEVICE)


def decoded(given: predict.Given) -> dict:
    """Decode and resize photos in as many processes as may be busy; keep nothing."""
    with ProcessPoolExecutor(threads()) as pool:
        return {"photos": len(list(pool.map(_decode, given.photos, chunksize=predict.BATCH)))}


def _decode(path: Path) -> int:
    return plain.our_decoder(path).size


WORKS = [
    Work(
        f"{PHOTOS} photos {SIZE[0]} x {SIZE[1]} to a CSV of predictions", given,
        {"reference": partial(predict.naive, read=plain.our_decoder), "naive": predict.naive,
         "ours": predict.ours, "decoding alone": decoded},
        predict.same_scores, predict.described, rounds=2, threads=(CORES,),
    )
]  # fmt: skip
