"""A checkpoint run by torch, on a CPU or a GPU."""

import copy
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.errors import InputError, did_you_mean
from src.inference.batches import DEVICES, Batch, Result, trained_sizes
from src.models import PhotoClassifier, load_model
from src.models.backbones import builder_version
from src.models.folding import folded
from src.models.precision import full_precision
from src.preprocess import Preprocess

log = logging.getLogger(__name__)
ROWS = (
    4  # of a pass through the backbone on a CPU: memory of larger ones comes fresh from the system each time
)
TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class TorchBackend:
    """A classifier with its device and precision; see `backends.Backend` for the attributes.

    Args:
        model: from `load_model`; copied, its BatchNorm folded into the convolutions before it.
        device: `auto`, `cpu`, `cuda` or `mps`; one that is not there falls back to the CPU with one line.
        precision: `32`; `bf16` or `16` run the backbone in that type where the device computes it fast.
        compile: compile the backbone when the first batch comes, anew for each number of rows: some 15 to 60
            seconds that an archive of many photos earns back.

    Raises:
        InputError: for a device or precision that does not exist or would be slow, or no compiler.
    """

    def __init__(
        self, model: PhotoClassifier, device: str = "auto", precision: str = "32", compile: bool = False
    ):
        self.device = choose_device(device)
        self._type = check_precision(precision, self.device)
        self.model = copy.deepcopy(model).eval()
        self.task, self.labels = model.task, model.labels
        self.preprocess = Preprocess.from_dict(model.hparams["preprocess"])
        self.model.backbone = folded(self.model.backbone, self.preprocess.size)
        self.model.to(self.device)
        self.thresholds = model.thresholds.cpu().numpy().copy() if self.task == "multilabel" else None
        self.trained_on = frozenset(model.provenance.get("train_digests", ()))
        self.trained_sizes = trained_sizes(model.provenance)
        self.arithmetic = {
            "torch": torch.__version__,
            "builder": builder_version(model.hparams["backbone"]),
        }
        self.on_gpu = self.device.type != "cpu"
        self._compiled = compile
        if compile:
            check_compiler()
            self.model.backbone.compile(dynamic=False)

    @classmethod
    def load(
        cls, path: Path, device: str = "auto", precision: str = "32", compile: bool = False
    ) -> "TorchBackend":
        """Load a checkpoint file; see the class for the options."""
        return cls(load_model(path), device, precision, compile)

    @torch.inference_mode()
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Return probabilities float32 `[B, labels]` of resized photos uint8 `[B, H, W, 3]`."""
        return self._heads(self._features(pixels)).cpu().numpy()

    @torch.inference_mode()
    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the heads see, float32 `[B, features]`, of resized photos uint8 `[B, H, W, 3]`."""
        return self._features(pixels).cpu().numpy()

    @torch.inference_mode()
    def heads(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities float32 `[B, labels]` of features float32 `[B, features]`."""
        return self._heads(torch.from_numpy(features).to(self.device)).cpu().numpy()

    def _features(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return features float32 `[B, features]` on the device."""
        image = torch.as_tensor(pixels).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        cast = torch.autocast(self.device.type, self._type) if self._type else full_precision(self.device)
        parts = [image] if self.on_gpu or self._compiled else image.split(ROWS)
        with cast, _compiler_failures():
            return torch.cat([self.model.features(part).float() for part in parts])

    def _heads(self, features: torch.Tensor) -> torch.Tensor:
        """Return probabilities float32 `[B, labels]` on the device; the heads never run in half precision."""
        with full_precision(self.device):
            return self.model.probabilities(self.model.classify(features)).float()

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""
        return threads(1)

    def threads_kept(self) -> AbstractContextManager[None]:
        """Give the process its number of threads back: a new thread takes the last number that was set."""
        return threads(None)

    def loaded(self, read: Callable[[int], Batch], count: int, num_workers: int) -> Iterator[Batch]:
        """Yield `read(0)` to `read(count - 1)`, read in processes, in pinned memory for CUDA."""
        loader = DataLoader(
            _Batches(read, count),
            batch_size=None,
            num_workers=min(num_workers, count) if count > 1 else 0,
            pin_memory=self.device.type == "cuda",
        )
        for photos, pixels in loader:
            yield Batch(photos, pixels)


class _Batches(Dataset):
    """Whole batches, so that the loader copies each of them once."""

    def __init__(self, read: Callable[[int], Batch], count: int):
        self.read, self.count = read, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[list[Result], torch.Tensor]:
        batch = self.read(number)
        return batch.photos, torch.from_numpy(batch.pixels)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch work on so many threads in the block (None: as many as now), then on as many as before.

    What is small is slower on several: they wait for each other at every step.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes the best one that is there."""
    if name not in DEVICES:
        raise InputError(f"device={name}: {did_you_mean(name, DEVICES)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(choice for choice in ("cuda", "mps", "cpu") if there[choice])
    elif not there[name]:
        log.warning("device=%s is not there: the CPU is used", name)
        name = "cpu"
    return torch.device(name)


def check_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of half precision, None for full; refuse what this device computes slowly."""
    if precision not in ("32", *TYPES):
        raise InputError(f"precision={precision}: {did_you_mean(precision, ('32', *TYPES))}")
    if precision == "16" and device.type == "cpu":
        raise InputError("precision=16: slow on a CPU; use precision=32, or a GPU with device=cuda")
    if precision == "bf16" and device.type == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        if not any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
            raise InputError(
                "precision=bf16: this CPU has no instructions for it (AMX, AVX512-BF16) and would take 5 to "
                "30 times longer; use precision=32, or an int8 model from scripts/export.py"
            )
    return TYPES.get(precision)


def check_compiler() -> None:
    """Refuse `compile=true` where torch would find no C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise InputError(
            f"compile=true: no C++ compiler ({', '.join(names)}); install one, or use compile=false"
        )


@contextmanager
def _compiler_failures() -> Iterator[None]:
    """Turn torch's error about a compilation into one line."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"compile=true: torch cannot compile this model ({lines[0]}); use compile=false"
        ) from error
