"""Feature extractors: torchvision's classifiers with their last layer taken off."""

import logging
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torchvision import models

from src.errors import InputError, did_you_mean, listed
from src.files import user_path
from src.models.pickled import read_pickled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A row of the table: torchvision's builder and weights, and the dotted name of the last layer."""

    builder: object
    weights: object
    last: str


BACKBONES = {
    "resnet18": Entry(models.resnet18, models.ResNet18_Weights, "fc"),
    "resnet34": Entry(models.resnet34, models.ResNet34_Weights, "fc"),
    "resnet50": Entry(models.resnet50, models.ResNet50_Weights, "fc"),
    "mobilenet_v3_large": Entry(models.mobilenet_v3_large, models.MobileNet_V3_Large_Weights, "classifier.3"),
    "squeezenet1_1": Entry(models.squeezenet1_1, models.SqueezeNet1_1_Weights, "classifier.1"),
}


def build_backbone(name: str, weights: str | None = None) -> tuple[nn.Module, int]:
    """Build a feature extractor `[B, 3, H, W] -> [B, features]`.

    Args:
        name: a key of `BACKBONES`.
        weights: `DEFAULT` (torchvision's best, downloaded once), null (random), or the path of a state dict
            of the whole torchvision model or of the backbone alone.

    Returns:
        the module and its number of features.

    Raises:
        InputError: for an unknown name, or weights that cannot be had or do not fit.
    """
    if name not in BACKBONES:
        raise InputError(f"model.backbone={name}: {did_you_mean(name, BACKBONES)}")
    entry = BACKBONES[name]
    module = entry.builder(weights=None)
    parent_name, _, last_name = entry.last.rpartition(".")
    parent = module.get_submodule(parent_name)
    last = parent.get_submodule(last_name)
    features = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    setattr(parent, last_name, nn.Identity())
    if weights is not None:
        state = _download(name, entry) if weights == "DEFAULT" else _read(user_path(weights))
        _load(module, state, entry.last, f"{name} from {weights}")
    return module, features


def folded(backbone: nn.Module) -> nn.Module:
    """Return a copy of a feature extractor with each BatchNorm folded into the convolution before it.

    It must be in eval mode. The features differ in the last digits (Jacob et al., 2018, Quantization and
    training of neural networks for efficient integer-arithmetic-only inference, section 3.2).
    """
    return fuse(backbone).to(memory_format=torch.channels_last)


def _download(name: str, entry: Entry) -> Mapping[str, torch.Tensor]:
    """Return torchvision's weights, from its cache or the network."""
    weights = entry.weights.DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = (str(getattr(error, "reason", error)).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the weights of {name} could not be downloaded ({reason}): name a file with model.weights=PATH, "
            "or train from random weights with model.weights=null model.freeze_backbone=false"
        ) from error


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    """Return the state dict in a file, also from below a checkpoint's `state_dict`."""
    if not path.is_file():
        raise InputError(f"model.weights={path}: no such file (or DEFAULT, or null)")
    state = read_pickled(path, f"model.weights={path}", "a state dict")
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"model.weights={path}: not a state dict (a mapping of names to tensors)")
    return state


def _load(module: nn.Module, state: Mapping[str, torch.Tensor], last: str, what: str) -> None:
    """Load a state dict strictly; what does not fit is named."""
    if any(name.startswith("backbone.") for name in state):  # a checkpoint of Corbel
        state = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    state = {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith((f"{last}.", "head_"))}
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in counters]
    surplus = [name for name in state if name not in own]
    shapes = [
        f"{n} {list(state[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    faults = [
        f"{title}: {listed(names, 3)}"
        for title, names in (("missing", missing), ("not in the model", surplus), ("other shape", shapes))
        if names
    ]
    if faults:
        raise InputError(f"the weights do not fit {what}: {'; '.join(faults)}")
    module.load_state_dict(own | state, strict=True)
    log.info("Loaded the backbone %s: %d tensors", what, len(state))
