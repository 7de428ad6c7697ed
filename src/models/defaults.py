"""Values of a configuration that follow from the backbone and from whether it learns."""

from omegaconf import DictConfig, OmegaConf

from src.errors import InputError, did_you_mean
from src.models.backbones import backbone_defaults

CACHES = ("auto", "features", "images", None)
BETTER = {"loss": "min"} | dict.fromkeys(("f1", "map", "accuracy", "precision", "recall", "auroc"), "max")
HEAD_EPOCHS, FINE_TUNING_EPOCHS = 20, 6


def fill_defaults(cfg: DictConfig) -> DictConfig:
    """Replace each null of `preprocess`, each `auto` and each callback's `mode` of null in place.

    A run saves its configuration after this, so that it resumes with the same values whatever the defaults
    are by then.

    Raises:
        InputError: for an unknown backbone, or a mode against the figure that a callback monitors.
    """
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
        cfg.trainer.max_epochs = HEAD_EPOCHS if frozen else FINE_TUNING_EPOCHS
    for name, callback in (cfg.get("callbacks") or {}).items():
        if callback and "monitor" in callback:
            _fill_mode(cfg, f"callbacks.{name}", str(callback.monitor), callback.get("mode"))
    return cfg


def _fill_mode(cfg: DictConfig, where: str, monitor: str, mode: str | None) -> None:
    """Set whether a callback's figure is better the lower (`min`) or the higher (`max`) it is."""
    better = next((word for name, word in BETTER.items() if monitor.endswith(name)), None)
    if mode is None:
        OmegaConf.update(cfg, f"{where}.mode", better or "min", force_add=True)
    elif better and mode in ("min", "max") and mode != better and not cfg.get("resume"):
        worst = "lowest" if mode == "min" else "highest"
        raise InputError(
            f"{where}.mode={mode} would keep the {worst} {monitor}: leave it out, or mode={better}"
        )
