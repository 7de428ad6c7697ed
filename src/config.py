"""Configuration: the check of every target, the one `instantiate`, the top of each script."""

import errno
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src import ranks
from src.errors import InputError, did_you_mean, first_line, leave
from src.overrides import refuse_a_runs_folder, tidied, typed
from src.parallel import allowed_cores, quota
from src.schemas import SCHEMAS, TrainConfig
from src.signals import beginning, ending_on_sigterm, ending_though_blocked, exit_code, said

REPOSITORY = Path(__file__).resolve().parent.parent
CONF = REPOSITORY / "conf"
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
            _set_openmp()
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
        return InputError(first_line(error))
    if not isinstance(error, InputError) and _of_memory(error):
        return InputError(
            "out of memory: take a smaller batch_size or preprocess.image_size, a smaller model.backbone, or "
            f"fewer processes with num_workers ({first_line(error)[:120]})"
        )
    return None


def _set_openmp() -> None:
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
            name, said = inner.full_key, first_line(inner)
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
    return first_line(error)


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
                raise InputError(f"{node['_target_']}: {first_line(cause)}") from error
            cause = cause.__cause__
        if str(node.get("_target_")).startswith("lightning."):  # its arguments are the user's own
            raise InputError(f"{node['_target_']}: {first_line(error.__cause__ or error)}") from error
        raise


def refuse_sweep_without_multirun() -> None:
    """Refuse `sweep=NAME` in a single run, where Hydra would ignore the search space silently."""
    choices = HydraConfig.get().runtime.choices
    if choices.get("sweep") and HydraConfig.get().mode == RunMode.RUN:
        raise InputError(
            f"sweep={choices['sweep']} needs -m: python scripts/train.py -m sweep={choices['sweep']} ..."
        )
