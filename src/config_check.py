"""Check of a configuration: names and plain types of arguments against its targets, ranges of numbers."""

import inspect
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from src.errors import InputError, did_you_mean, first_line

RANGES = {
    "from 0 to 1": "threshold preprocess.mean data.augment.horizontal_flip callbacks.thresholds.clamp_above "
    "callbacks.thresholds.clamp_to",
    "from 0 to below 1": "preprocess.overlap model.label_smoothing callbacks.ema.decay",
    "above 0 to 1": "preprocess.std model.layer_decay callbacks.finetuning.lr_factor",
    "above 0": "model.lr model.backbone_lr_factor",
    "from 0 to 4294967295": "seed",
    "from 0 on": "data.num_workers data.splits model.weight_decay model.mixup model.cutmix "
    "model.head_weights trainer.gradient_clip_val trainer.log_every_n_steps "
    "callbacks.early_stopping.min_delta callbacks.early_stopping.patience",
    "from 1 on": "data.batch_size data.views trainer.accumulate_grad_batches callbacks.figures.every "
    "callbacks.figures.samples callbacks.thresholds.min_positives callbacks.finetuning.head_epochs "
    "callbacks.finetuning.stage_epochs resamples",
    "from 2 on": "data.folds",
    "from 0 to 7": "data.near_duplicates",
    "from 8 to 32": "preprocess.sample_bits",
    "from 0 to 100": "explain",
    "from 0 to 180": "data.augment.rotation",
}
RANGE_OF = {key: words for words, keys in RANGES.items() for key in keys.split()}
BETTER = {"loss": "min"} | dict.fromkeys(("f1", "map", "accuracy", "precision", "recall", "auroc"), "max")
RESERVED = {"_target_", "_convert_", "_recursive_", "_partial_", "_args_"}


def check_targets(cfg: Any, where: str = "") -> None:
    """Check every node with a `_target_` against its target: names and plain types of the arguments."""
    if isinstance(cfg, DictConfig | ListConfig):
        cfg = OmegaConf.to_container(cfg, resolve=True)
    if isinstance(cfg, list):
        for i, item in enumerate(cfg):
            check_targets(item, f"{where}[{i}]")
    if not isinstance(cfg, dict):
        return
    if "_target_" in cfg:
        _check_target(cfg, where)
    for key, value in cfg.items():
        check_targets(value, f"{where}.{key}" if where else str(key))


def check_number(key: str, value: Any, said: str = "") -> None:
    """Refuse what is no number in the range of a key of `RANGES`; `said` names another place of it."""
    words = RANGE_OF[key]
    low, high = (*map(float, re.findall(r"\d+", words)), math.inf)[:2]
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    end = number and ((value == low and "above" in words) or (value == high and "below" in words))
    if not number or not low <= value <= high or end:
        share = f", {value / 100:g} for {value:g} %" if number and high == 1 < value <= 100 else ""
        raise InputError(f"{said or f'{key}={value}'}: needs a number {words}{share}")


def check_numbers(cfg: DictConfig) -> None:
    """Check the numbers of a configuration, also in lists and mappings, against `RANGES`."""
    for key in RANGE_OF:
        value = OmegaConf.select(cfg, key)
        parts = [(key, value)]
        if isinstance(value, DictConfig | ListConfig):
            named = isinstance(value, DictConfig)
            parts = [(f"{key}.{k}", v) for k, v in value.items()] if named else [(key, v) for v in value]
        for where, part in parts:
            if part is not None:
                check_number(key, part, f"{where}={part}")


def fill_modes(cfg: DictConfig) -> None:
    """Set for each callback that monitors a figure whether that is better the lower (`min`) or the higher."""
    for name, callback in (cfg.get("callbacks") or {}).items():
        if not callback or "monitor" not in callback:
            continue
        monitor, mode, key = str(callback.monitor), callback.get("mode"), f"callbacks.{name}.mode"
        better = next((word for figure, word in BETTER.items() if monitor.endswith(figure)), None)
        if mode is None:
            OmegaConf.update(cfg, key, better or "min", force_add=True)
        elif better and mode in ("min", "max") and mode != better and not cfg.get("resume"):
            kept = "lowest" if mode == "min" else "highest"
            raise InputError(f"{key}={mode} would keep the {kept} {monitor}: leave it out, or mode={better}")


def _check_target(node: dict, where: str) -> None:
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:
        raise InputError(
            f"{where}._target_: cannot import '{node['_target_']}' ({first_line(error)})"
        ) from error
    check_arguments({key: value for key, value in node.items() if key not in RESERVED}, target, where)


def check_arguments(values: Mapping[str, Any], target: Any, where: str) -> None:
    """Check plain values against the arguments that a class or function takes, by name and by type."""
    hints, closed = _arguments(target)
    for key, value in values.items():
        if key not in hints and closed:
            raise InputError(f"unknown key '{where}.{key}': {did_you_mean(key, hints)}")
        if key in hints and not _fits(value, hints[key]):
            plain = isinstance(hints[key], type) and not typing.get_args(hints[key])
            named = hints[key].__name__ if plain else re.sub(r"\w+\.", "", str(hints[key]))
            raise InputError(f"{where}.{key}: {value!r} is not of type {named}")


def _arguments(target: Any) -> tuple[dict[str, Any], bool]:
    """Return the arguments a target takes with their type hints, and whether it takes no others.

    A class that hands `**kwargs` on to its parent takes the parent's arguments too.
    """
    functions = (
        [vars(c)["__init__"] for c in target.__mro__ if "__init__" in vars(c)]
        if inspect.isclass(target)
        else [target]
    )
    found: dict[str, Any] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters
        try:
            hints = typing.get_type_hints(inspect.unwrap(function))
        except (NameError, TypeError):
            hints = {}
        kinds = {p.kind for p in parameters.values()}
        named = [
            n
            for n, p in parameters.items()
            if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        found = {name: hints.get(name, Any) for name in named} | found
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return found, True
    return found, False


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be what a hint asks for; hints that say nothing of plain values pass."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is typing.Literal:
        return value in args
    if hint is type(None) or value is None:
        return value is None and hint in (type(None), Any)
    if hint in (int, float):
        return isinstance(value, int | float if hint is float else int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    container = origin or hint
    if not inspect.isclass(container) or (isinstance(value, dict) and "_target_" in value):
        return True
    if issubclass(container, Mapping):
        return isinstance(value, dict) and all(_fits(v, args[1]) for v in value.values() if args)
    if issubclass(container, Sequence):
        return isinstance(value, list | tuple) and all(_fits(v, args[0]) for v in value if args)
    return True
