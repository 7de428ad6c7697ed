"""One forward pass of a batch on two threads: ONNX Runtime against eager torch."""

import json
from functools import partial

import numpy as np
import onnxruntime
import torch

from benchmarks.harness import Work, close
from benchmarks.photos import drawn
from benchmarks.predict import checkpoint, eager, exported
from src.models.checkpoint import load_model
from src.models.classifiers import PhotoClassifier
from src.preprocess import Preprocess

BATCH, TIMES, THREADS = 8, 20, 2
TOLERANCE = 1e-4  # of a score
# a batch of resized photos uint8 [8, H, W, 3], the model in torch, and its exported file
Given = tuple[np.ndarray, PhotoClassifier, onnxruntime.InferenceSession]


def given() -> Given:
    """Return a batch and both models, loaded and warm."""
    torch.set_num_threads(THREADS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(exported()), options, providers=["CPUExecutionProvider"])
    model = load_model(checkpoint())
    preprocess = Preprocess.from_dict(model.hparams["preprocess"])
    made = np.stack([preprocess(path) for path in drawn(1600, 1200, BATCH)]), model, session
    in_torch(made, 2)
    in_onnx(made, 2)
    return made


def in_torch(given: Given, times: int = TIMES) -> np.ndarray:
    """Compute the scores of the batch with eager torch in NCHW, again and again."""
    pixels, model, _ = given
    forward, image = eager(model), torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        for _ in range(times):
            found = forward((image.float() / 255 - model.mean) / model.std)
    return found.numpy()


def in_onnx(given: Given, times: int = TIMES) -> np.ndarray:
    """Compute the same with ONNX Runtime."""
    pixels, _, session = given
    for _ in range(times):
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    return found


def described(given: Given, scores: np.ndarray) -> dict:
    """Return the scores, and the agreement of decisions that the export found and kept in the file."""
    parity = json.loads(given[2].get_modelmeta().custom_metadata_map["parity"])
    return {"_scores": scores, "agreement of decisions": parity["agreement"]}


WORKS = [
    Work(
        f"{TIMES} forward passes of a ResNet18, batch {BATCH}, model.onnx against eager torch",
        given, {"naive": in_torch, "ours": in_onnx}, partial(close, tolerance=TOLERANCE, side="naive"),
        described, threads=(THREADS,),
    )
]  # fmt: skip
