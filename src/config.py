"""Configuration: the check of every target, the one `instantiate`, the top of each script."""

import errno
import functools
import inspect
import logging
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import ranks
from src.errors import InputError, did_you_mean, leave
from src.overlap import allowed_cores, quota
from src.overrides import refuse_a_runs_folder, tidied, typed
from src.schemas import SCHEMAS, TrainConfig
from src.signals import beginning, ending_on_sigterm, ending_though_blocked, exit_code, said

REPOSITORY = Path(__file__).resolve().parent.parent
CONF = REPOSITORY / "conf"
RESERVED = {"_target_", "_convert_", "_recursive_", "_partial_", "_args_"}
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG,
        errno.ENAMETOOLONG}  # fmt: skip
QUOTES = "'\""
log = logging.getLogger(__name__)


def command(name: str) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Turn a task function into a script's `main`, configured by `conf/<name>.yaml`.

    Bad input becomes one line on stderr and exit code 2; a sweep with a failed job ends with exit code 1
    after its last job; any other exception keeps its traceback.
    """

    def decorate(task: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        failed: list[Exception] = []
        begun = False
        refuse = ranks.refuse if name == "train" else functools.partial(leave, 2)

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> float | None:
            nonlocal begun
            begun = True
            if name == "train":
                ranks.take_part()
            try:
                check_root(cfg, SCHEMAS[name])
                return task(cfg)
            except Exception as caught:
                error = _refused(caught, cfg.output_dir) or caught
                failed.append(error)
                if isinstance(error, InputError) and HydraConfig.get().mode == RunMode.RUN:
                    _write_to_log(str(error))
                    refuse(str(error))
                if error is caught:
                    raise
                raise error from caught

        @functools.wraps(task)
        def main() -> None:
            full = os.environ.setdefault("HYDRA_FULL_ERROR", "1") == "1"
            logging.raiseExceptions = False  # on a full disk the log's own traceback would bury the message
            set_openmp()
            sys.argv = tidied(sys.argv)
            refuse_a_runs_folder(sys.argv)
            multirun = any(arg in ("-m", "--multirun") for arg in sys.argv[1:])
            try:
                with ending_on_sigterm(), ending_though_blocked():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(guarded)()
            except KeyboardInterrupt as error:
                _leave_if_interrupted(error)
            except (HydraException, OmegaConfBaseException) as error:
                if failed and not multirun:
                    raise
                _leave_sweep(failed, False) if failed else refuse(explain(error))
            except Exception as error:
                _leave_if_interrupted(error)
                if said := _no_start(error, begun):
                    refuse(said)
                if not (multirun and failed):
                    raise
                _leave_sweep(failed, full)

        return main

    return decorate


def _no_start(error: Exception, begun: bool) -> str | None:
    """Return the line for what keeps Hydra from calling a task; None for what it would not meet there."""
    if "Config group override must be" in str(error):
        return explain(error)
    if not begun and isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"the output folder cannot be made: {where}{error.strerror}"
    if not begun and "Unable to configure handler" in str(error):
        return f"the log cannot be written ({error.__cause__ or error}): see who may write there"
    return None


def _leave_if_interrupted(error: BaseException) -> None:
    """End with the exit code of Ctrl-C or SIGTERM, if one came; of several processes one says so."""
    error = beginning(error)
    if not isinstance(error, KeyboardInterrupt):
        return
    if ranks.is_main():
        leave(exit_code(error), said(exit_code(error)))
    ranks.wait_for_first()
    raise SystemExit(exit_code(error))


def _leave_sweep(failed: list[Exception], full: bool) -> NoReturn:
    """End a sweep with failed jobs with exit code 1; with the tracebacks of our faults, if `full`."""
    for error in failed if full else ():
        if not isinstance(error, InputError):
            traceback.print_exception(error)
    leave(1, _failures(failed))


def _write_to_log(message: str) -> None:
    """Write an error into the run's log file; the console gets its own line."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None))


def _of_the_disk(error: BaseException) -> bool:
    """Whether an error is the disk's refusal of a file, to be told in one line."""
    return isinstance(error, OSError) and error.errno in DISK


def _refused(error: Exception, folder: str) -> InputError | None:
    """Return an `InputError` for what a person has to mend although a library met it; None for a fault."""
    if _of_the_disk(error):
        return InputError(f"{error.filename or folder}: {error.strerror}")
    if isinstance(error, OmegaConfBaseException):
        return InputError(explain(error))
    if _of_lightning(error):
        return InputError(_first_line(error))
    if not isinstance(error, InputError) and _of_memory(error):
        return InputError(
            "out of memory: take a smaller batch_size or preprocess.image_size, a smaller model.backbone, or "
            f"fewer processes with num_workers ({_first_line(error)[:120]})"
        )
    return None


def set_openmp() -> None:
    """Set what OpenMP reads when torch is imported, unless somebody has."""
    # threads that spin while they wait starve the processes that decode: 5 to 8 times slower where all cores
    # are busy
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if paid := quota():
        os.environ.setdefault("OMP_NUM_THREADS", str(min(paid, allowed_cores())))


def _of_lightning(error: BaseException) -> bool:
    """Whether it is Lightning's word for what the user set."""
    return type(error).__name__ == "MisconfigurationException"


def _of_memory(error: BaseException) -> bool:
    """Whether memory was too small, in the words of Python, torch or ONNX Runtime."""
    words = ("can't allocate memory", "not enough memory", "Failed to allocate memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(word in str(error) for word in words)
    )


def _failures(failed: list[Exception]) -> str:
    """Return the line that ends a sweep with failed jobs: each reason once."""
    reasons = "; ".join(dict.fromkeys(f"{type(e).__name__}: {e}".splitlines()[0] for e in failed))
    return f"{len(failed)} job(s) of the sweep failed (leaderboard.csv names them): {reasons}"


def explain(error: Exception) -> str:
    """Return one line for an error met while composing: what, where, the nearest choice."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if error.options:
            return f"no '{choice}' in {group or 'conf'}: {did_you_mean(choice, error.options)}"
        return f"no config group or file '{error.missing_cfg_file}' in {CONF.name}/"
    if isinstance(error, OverrideParseException):
        return _unparsed(str(error.override))
    inner: BaseException | None = error
    while inner is not None:
        key, parent = getattr(inner, "key", None), getattr(inner, "parent_node", None)
        unknown = "not in" in str(inner)
        if isinstance(inner, OmegaConfBaseException) and unknown and key and isinstance(parent, DictConfig):
            name = inner.full_key or key
            library = str(OmegaConf.to_container(parent).get("_target_")).startswith("lightning.")
            hint = did_you_mean(str(key), [str(k) for k in parent])
            plus = f"; another of Lightning's arguments goes with a plus, +{name}=" if library else ""
            table = name in ("data.csv", "data.images", "data.id", "data.columns")
            hint = "a table needs model=multilabel or data=table" if table else hint
            return f"unknown key '{name}': {hint}{plus}"
        if isinstance(inner, OmegaConfBaseException) and getattr(inner, "full_key", None):
            name, said = inner.full_key, _first_line(inner)
            if "is not a ListConfig" in said:
                return f"{name}: needs a list, {name}=[a,b]"
            return f"{name}: {'needs a value, not null' if 'is not Optional' in said else said}"
        inner = inner.__cause__ or inner.__context__
    if "Config group override must be" in str(error):
        return "a group needs the name of a choice: model=multilabel; '~logger' leaves one out"
    if "Ambiguous value for argument" in str(error):
        given = str(error).split("'")[1]
        return f"{given}: several values need -m (a sweep); a list is written KEY=[a,b]"
    if "Could not find match for config group" in str(error) or "Could not override" in str(error):
        name = str(error).split("'")[1]
        groups = sorted({p.parent.relative_to(CONF).as_posix() for p in CONF.rglob("*.yaml")} - {"."})
        roots = [f.name for f in fields(TrainConfig)]
        return f"cannot set '{name}': {did_you_mean(name.split('.')[0].split('@')[0], [*groups, *roots])}"
    return _first_line(error)


def _unparsed(override: str) -> str:
    """Return the line for an override that Hydra cannot read: how it would have to be typed."""
    key, equals, value = override.partition("=")
    if not equals:
        said = "to a key: data.root=PATH to train, images=PATH to predict"
        return f"'{override}' is no override: give KEY=VALUE (a path belongs {said})"
    ends = {"[": "]", "{": "}"}.get(value[:1])
    if ends and (ends not in value or value.endswith(ends)):
        return f"cannot read '{override}': a list is written {key}='[1, 2]', a mapping {key}='{{a: 1, b: 2}}'"
    quoted = typed(key, value.strip(QUOTES))
    return f"cannot read '{override}': a value with special characters needs quotes, {quoted}"


def _first_line(error: BaseException) -> str:
    """Return the first line of a message that says something, or the name of the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def check_targets(cfg: Any, where: str = "") -> None:
    """Check every node with a `_target_` against its target: names and plain types of the arguments.

    Raises:
        InputError: for a target that cannot be imported, an argument that it does not take (with the
            nearest one that it takes), or a value of another type than the signature's.
    """
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


def _check_target(node: dict, where: str) -> None:
    """Check one node, not what lies below it."""
    try:
        target = hydra.utils.get_object(node["_target_"])
    except Exception as error:
        raise InputError(
            f"{where}._target_: cannot import '{node['_target_']}' ({_first_line(error)})"
        ) from error
    check_arguments({key: value for key, value in node.items() if key not in RESERVED}, target, where)


def check_arguments(values: Mapping[str, Any], target: Any, where: str) -> None:
    """Check plain values against the arguments that a class or function takes, by name and by type.

    Raises:
        InputError: for an argument that it does not take, or a value of another type.
    """
    hints, closed = _arguments(target)
    for key, value in values.items():
        if key not in hints and closed:
            raise InputError(f"unknown key '{where}.{key}': {did_you_mean(key, hints)}")
        if key in hints and not _fits(value, hints[key]):
            raise InputError(f"{where}.{key}: {value!r} is not of type {_named(hints[key])}")


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
        return isinstance(value, list) and all(_fits(v, args[0]) for v in value if args)
    return True


def _named(hint: Any) -> str:
    """Return a hint in the words of a command line."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_named, args)))
    if origin is typing.Literal:
        return " or ".join(map(repr, args))
    container = origin or hint
    if hint in (str, type(None)) or not inspect.isclass(container):
        return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))
    words = {Mapping: "mapping", Sequence: "list"}
    return next((word for kind, word in words.items() if issubclass(container, kind)), container.__name__)


def check_root(cfg: DictConfig, schema: type) -> None:
    """Refuse a root key that only a plus could have added: nothing would read it."""
    known = [field.name for field in fields(schema)]
    for key in map(str, cfg):
        if key not in known:
            raise InputError(f"unknown key '{key}': {did_you_mean(key, known)}")


def check_seed(seed: int) -> None:
    """Refuse a seed that NumPy's generators do not take."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: needs a whole number from 0 to {2**32 - 1}")


def build(node: DictConfig | dict, **extra: Any) -> Any:
    """Instantiate a config node; the only place that does.

    Values reach the target as plain Python ones, so that a module's hyperparameters are primitives. An
    `InputError` that the target raises comes out as it is; a key that the script gives itself is refused.
    """
    for key in extra:
        if key in node:
            raise InputError(f"{node['_target_']}: '{key}' is not set here, the script gives it")
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError) or _of_the_disk(cause):
                raise cause from None
            if _of_lightning(cause):
                raise InputError(f"{node['_target_']}: {_first_line(cause)}") from error
            cause = cause.__cause__
        if str(node.get("_target_")).startswith("lightning."):  # its arguments are the user's own
            raise InputError(f"{node['_target_']}: {_first_line(error.__cause__ or error)}") from error
        raise


def refuse_sweep_without_multirun() -> None:
    """Refuse `sweep=NAME` in a single run, where Hydra would ignore the search space silently."""
    choices = HydraConfig.get().runtime.choices
    if choices.get("sweep") and HydraConfig.get().mode == RunMode.RUN:
        raise InputError(
            f"sweep={choices['sweep']} needs -m: python scripts/train.py -m sweep={choices['sweep']} ..."
        )
