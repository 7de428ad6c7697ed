"""Values of a configuration that follow from the backbone and from whether it learns."""

from omegaconf import DictConfig

from src.errors import InputError, did_you_mean
from src.models.backbones import backbone_defaults

CACHES = ("auto", "features", "images", None)
HEAD_EPOCHS, FINE_TUNING_EPOCHS = 20, 6


def fill_defaults(cfg: DictConfig) -> DictConfig:
    """Replace each null of `preprocess` and each `auto` of `data.cache` and `trainer.max_epochs` in place.

    A run saves its configuration after this, so that it resumes with the same values whatever the defaults
    are by then.

    Raises:
        InputError: for an unknown backbone.
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
    return cfg
