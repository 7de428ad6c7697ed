"""A checkpoint run by torch, on a CPU or a GPU, its BatchNorm folded into the convolutions."""

import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader

from src.errors import InputError, did_you_mean, first_line
from src.inference.batches import Backend, Batch, Result
from src.models.backbones import builder_version
from src.models.classifiers import PhotoClassifier
from src.preprocess import Preprocess

log = logging.getLogger(__name__)
ROWS = 4  # photos in a pass on a CPU: memory for more comes fresh from the system each time
FOLDING_TOLERANCE = 1e-4  # of the largest feature
DEVICES = ("auto", "cpu", "cuda", "mps")
TYPES = {"bf16": torch.bfloat16, "16": torch.float16}


class TorchBackend(Backend):
    """A classifier with its device and precision; see `batches.Backend` for the attributes.

    On a GPU `precision=32` computes with the process's TF32 settings: `models.base.set_full_precision`.

    Args:
        model: from `load_model`; copied, its BatchNorm folded into the convolutions before it.
        device: one of `DEVICES`; one that is not there falls back to the CPU with one line.
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
        self.describe(model)
        self.preprocess = Preprocess.from_dict(model.hparams["preprocess"])
        self.model.backbone = folded(self.model.backbone, self.preprocess.size)
        self.model.to(self.device)
        self.arithmetic = {
            "torch": torch.__version__,
            "builder": builder_version(model.hparams["backbone"]),
        }
        self.on_gpu = self.device.type != "cpu"
        self._compiled = compile
        if compile:
            self.model.backbone.compile(dynamic=False)

    def scores(self, pixels: np.ndarray, count: int | None = None) -> np.ndarray:
        """Return probabilities float32 `[count, labels]`; see `Backend`."""
        return self._in_passes(lambda part: self._heads(self._features(part)), pixels, count)

    @torch.inference_mode()
    def maps(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return probabilities `[B, labels]` and class activation maps; see `Backend`."""
        places: list[torch.Tensor] = []  # feature maps that are averaged, the last one counts

        def keep(module: nn.Module, given: tuple, _: object) -> None:
            if given and given[0].dim() == 4 and "pool" in type(module).__name__.lower():
                places.append(given[0])

        hooks = [module.register_forward_hook(keep) for module in self.model.backbone.modules()]
        try:
            features = self._features(torch.as_tensor(pixels).to(self.device))
        finally:
            for hook in hooks:
                hook.remove()
        scores = self._heads(features).cpu().numpy()[:, : len(self.labels)]
        if self.model.hparams["head"] != "linear":
            return scores, None
        averaged = places[-1].mean((2, 3)) if places else features.new_zeros(0)
        if averaged.shape != features.shape or not torch.allclose(averaged.float(), features, atol=1e-4):
            return scores, None
        weights = torch.cat([self.model.get_submodule(f"head_{k}").weight for k in self.labels.kinds])
        return scores, torch.einsum("lc,bchw->blhw", weights, places[-1].float()).cpu().numpy()

    def features(self, pixels: np.ndarray) -> np.ndarray:
        """Return the heads' input, float32 `[B, features]`, for resized photos uint8 `[B, H, W, 3]`."""
        return self._in_passes(self._features, pixels)

    def heads(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities float32 `[B, labels]` of features float32 `[B, features]`."""
        return self._in_passes(self._heads, features)

    @torch.inference_mode()
    def _in_passes(
        self, forward: Callable[[torch.Tensor], torch.Tensor], values: np.ndarray, count: int | None = None
    ) -> np.ndarray:
        """Return the results for the first `count` values, from passes of `ROWS` on a CPU, else from one."""
        count = len(values) if count is None else count
        rows = len(values) if self.on_gpu or self._compiled else ROWS
        parts = torch.as_tensor(values).split(rows)[: -(-count // rows)]
        found = [forward(part.to(self.device, non_blocking=True)) for part in parts]
        return torch.cat(found)[:count].cpu().numpy()

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return features float32 `[B, features]` of photos uint8 `[B, H, W, 3]`, on the device."""
        cast = torch.autocast(self.device.type, self._type) if self._type else nullcontext()
        with cast, _compiler_failures():
            return self.model.features(pixels.permute(0, 3, 1, 2)).float()

    def _heads(self, features: torch.Tensor) -> torch.Tensor:
        """Return the scores on the device; the heads never run in half precision."""
        return self.model.scored_views(features).float()

    def one_thread(self) -> AbstractContextManager[None]:
        """Hold forward passes of the calling thread to one core."""
        return threads(1)

    def loaded(self, read: Callable[[int], Batch], count: int, num_workers: int) -> Iterator[Batch]:
        """Yield `read(0)` to `read(count - 1)`, read in processes, in pinned memory for CUDA."""
        loader = DataLoader(
            range(count),  # whole batches, so that the loader copies each of them once
            batch_size=None,
            collate_fn=partial(_as_tensor, read),
            num_workers=min(num_workers, count) if count > 1 else 0,
            pin_memory=self.device.type == "cuda",
        )
        yield from (Batch(photos, pixels) for photos, pixels in loader)


def _as_tensor(read: Callable[[int], Batch], number: int) -> tuple[list[Result], torch.Tensor]:
    """Return a batch that a loader can pin."""
    batch = read(number)
    return batch.photos, torch.from_numpy(batch.pixels)


class _Threads:
    """Blocks in which torch works on fewer threads, open at once in several threads of the process."""

    lock, blocks, before = threading.Lock(), 0, 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch work on `count` threads in the block, and then on as many as before the first open block.

    A number that one thread sets becomes that of threads which begin later, so blocks that overlap would
    restore each other's. Small products are slower on several threads, which wait for each other.
    """
    with _Threads.lock:
        if not _Threads.blocks:
            _Threads.before = torch.get_num_threads()
        _Threads.blocks += 1
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _Threads.lock:
            _Threads.blocks -= 1
            torch.set_num_threads(_Threads.before)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes the best one that is there."""
    if name not in DEVICES:
        raise InputError(f"device={name}: {did_you_mean(name, DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(choice for choice in there if there[choice])
    elif not there[name]:
        log.warning("device=%s is not there: the CPU is used", name)
        name = "cpu"
    return torch.device(name)


def check_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of half precision, None for full; refuse what this device computes slowly."""
    if precision not in ("32", *TYPES):
        raise InputError(f"precision={precision}: {did_you_mean(precision, ('32', *TYPES))}")
    if precision != "32" and device.type == "cpu":
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        if precision == "16" or not any(able.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
            raise InputError(
                f"precision={precision}: this CPU has no instructions for it and would take 5 to 30 times "
                "longer; use precision=32, or an int8 model from scripts/export.py"
            )
    return TYPES.get(precision)


@contextmanager
def _compiler_failures() -> Iterator[None]:
    """Turn torch's error about a compilation into one line."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = f"torch cannot compile this model ({first_line(error)})"
        raise InputError(f"compile=true: {why}; use compile=false") from error


class _Tracer(fx.Tracer):
    """Traces convolutions and BatchNorms as single calls, also those of timm that pad or activate."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one call."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def folded(backbone: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Return a copy of a feature extractor with each BatchNorm folded into the convolution before it.

    The features differ in the last digits (Jacob et al., 2018, Quantization and training of neural networks
    for efficient integer-arithmetic-only inference, section 3.2). A backbone that cannot be traced, or whose
    features would be others, is copied as it is.

    Args:
        backbone: in eval mode; `[B, 3, H, W] -> [B, features]`.
        size: height and width of its images in pixels.
    """
    plain = copy.deepcopy(backbone).to(memory_format=torch.channels_last)
    found = copy.deepcopy(plain)
    try:
        graph = _Tracer().trace(found)
    except Exception as error:  # a forward pass that depends on values raises nearly any type
        log.debug("BatchNorm is not folded: %s", error)
        return plain
    if not _fold(found, graph):
        return plain
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, features = plain(image), found(image)
    if not (features - wanted).abs().max() <= FOLDING_TOLERANCE * wanted.abs().max():
        log.warning("BatchNorm is not folded: the features of this backbone would be others")
        return plain
    return found


def _fold(module: nn.Module, graph: fx.Graph) -> int:
    """Fold in place each convolution with a BatchNorm behind it; return the number of pairs."""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    pairs = 0
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        norm, conv = module.get_submodule(node.target), module.get_submodule(before.target)
        shared = max(calls.count(node.target), calls.count(before.target)) > 1
        if shared or not isinstance(norm, nn.BatchNorm2d) or not isinstance(conv, nn.Conv2d):
            continue
        module.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        # timm's BatchNorm has the activation inside
        rest = [part for name, part in norm.named_children() if not isinstance(part, nn.Identity)]
        module.set_submodule(node.target, nn.Sequential(*rest) if rest else nn.Identity())
        pairs += 1
    return pairs
