"""Hydra entry points, error translation, and the only `instantiate` call."""

import errno
import functools
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
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

from src.config_check import check_numbers
from src.errors import InputError, did_you_mean, first_line, leave
from src.files import user_path
from src.overrides import check_paths, config_folder, output_of, readable, run_folder, typed
from src.parallel import allowed_cores, quota
from src.process import errors_only, exit_code, interruption, is_main, launched, sigterm_raises
from src.schemas import SCHEMAS, TrainConfig

REPOSITORY = Path(__file__).resolve().parent.parent
CONF = REPOSITORY / "conf"
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG,
        errno.ENAMETOOLONG}  # fmt: skip
DEMO, DEMO_GROUP = "data/demo", r"^(A\d+)_"
DRAW_DEMO = (str(REPOSITORY / "scripts" / "make_demo_data.py"), f"output={DEMO}", "hydra.run.dir=.",
             "hydra.output_subdir=null")  # fmt: skip
log = logging.getLogger(__name__)

OmegaConf.register_new_resolver("run_folder", run_folder, replace=True)
OmegaConf.register_new_resolver("output_of", output_of, replace=True)
OmegaConf.register_new_resolver("config_folder", config_folder, replace=True)


def command(name: str) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Turn a task function into a script's `main`, configured by `conf/<name>.yaml`.

    Bad input becomes one line on stderr and exit code 2; a sweep with failed jobs ends with exit code 1
    after its last job; any other exception keeps its traceback.
    """

    def decorate(task: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        failed: list[Exception] = []

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> float | None:
            if not is_main():
                errors_only()
            try:
                check_root(cfg, SCHEMAS[name])
                check_paths(cfg, name)
                check_numbers(cfg)
                return task(cfg)
            except Exception as caught:
                error = _refused(caught, cfg.output_dir) or caught
                failed.append(error)
                if isinstance(error, InputError) and HydraConfig.get().mode == RunMode.RUN:
                    _write_to_log(str(error))
                    leave(2, str(error))
                if error is caught:
                    raise
                raise error from caught

        @functools.wraps(task)
        def main() -> None:
            full = os.environ.setdefault("HYDRA_FULL_ERROR", "1") == "1"
            logging.raiseExceptions = False  # on a full disk the log's own traceback would bury the message
            _set_openmp()
            sys.argv = readable(sys.argv)
            try:
                with sigterm_raises():
                    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(guarded)()
            except (Exception, KeyboardInterrupt) as error:
                _leave_if_interrupted(error)
                if {"-m", "--multirun"} & {*sys.argv}:
                    others = [error] if isinstance(error, InputError) else []  # of a job in another process
                    if failed or others:
                        _leave_sweep(failed or others, full)
                if failed or not (message := _cannot_start(error)):
                    raise
                leave(2, message)

        return main

    return decorate


def _cannot_start(error: BaseException) -> str | None:
    """Return the line for bad input that Hydra met before it called a task; None for a fault."""
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        where = f"{error.filename}: " if error.filename else ""
        return f"the output folder cannot be made: {where}{error.strerror}"
    if "Unable to configure handler" in str(error):
        return f"the log cannot be written ({error.__cause__ or error}): see who may write there"
    known = isinstance(error, HydraException | OmegaConfBaseException)
    return explain(error) if known or "Config group override must be" in str(error) else None


def _leave_if_interrupted(error: BaseException) -> None:
    """End with the exit code of Ctrl-C or SIGTERM, if one caused the exception; the main process says so."""
    if not (interrupted := interruption(error)):
        return
    code = exit_code(interrupted)
    if is_main():
        leave(code, "ended by SIGTERM" if code == 143 else "interrupted")
    raise SystemExit(code)


def _leave_sweep(failed: list[Exception], full: bool) -> NoReturn:
    for error in failed if full else ():
        if not isinstance(error, InputError):
            traceback.print_exception(error)
    reasons = "; ".join(dict.fromkeys(f"{type(e).__name__}: {e}".splitlines()[0] for e in failed))
    leave(1, f"{len(failed)} job(s) of the sweep failed (leaderboard.csv names them): {reasons}")


def _write_to_log(message: str) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, message, (), None))


def _of_the_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK


def _of_lightning(error: BaseException) -> bool:
    return type(error).__name__ == "MisconfigurationException"


def _refused(error: Exception, folder: str) -> InputError | None:
    """Return an `InputError` for bad input that a library met; None for a fault."""
    if _of_the_disk(error):
        return InputError(f"{error.filename or folder}: {error.strerror}")
    if isinstance(error, OmegaConfBaseException):
        return InputError(explain(error))
    if _of_lightning(error):
        return InputError(first_line(error))
    words = ("can't allocate memory", "not enough memory", "Failed to allocate memory")
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not isinstance(error, InputError) and (is_memory or any(word in str(error) for word in words)):
        return InputError(
            "out of memory: take a smaller batch_size or preprocess.image_size, a smaller model.backbone, or "
            f"fewer processes with num_workers ({first_line(error)[:120]})"
        )
    return None


def _set_openmp() -> None:
    """Set the variables that OpenMP reads when torch is imported, unless the user has."""
    # threads that spin while they wait starve the processes that decode: 5 to 8 times slower where all cores
    # are busy
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if paid := quota():
        os.environ.setdefault("OMP_NUM_THREADS", str(min(paid, allowed_cores())))


def explain(error: BaseException) -> str:
    """Return one line for an error met while composing: what, where, the nearest choice."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        if error.options:
            return f"no '{choice}' in {group or 'conf'}: {did_you_mean(choice, error.options)}"
        return f"no config group or file '{error.missing_cfg_file}' in {CONF.name}/"
    if isinstance(error, OverrideParseException):
        return _unparsed(str(error.override))
    chain = list(_chain(error))
    for inner in chain:
        if isinstance(inner, InputError):
            return str(inner)
    for inner in chain:
        if isinstance(inner, OmegaConfBaseException) and (message := _wrong_key_or_value(inner)):
            return message
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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _wrong_key_or_value(error: OmegaConfBaseException) -> str | None:
    """Return the line for an unknown key or a value of another type; None for other errors."""
    key, parent, name = error.key, error.parent_node, error.full_key
    if "not in" in str(error) and key and isinstance(parent, DictConfig):
        name = name or key
        if name in ("data.csv", "data.images", "data.id", "data.columns"):
            return f"unknown key '{name}': a table needs model=multilabel or data=table"
        if elsewhere := _same_leaf(name):
            return f"unknown key '{name}': did you mean '{elsewhere[0]}'?"
        library = str(OmegaConf.to_container(parent).get("_target_")).startswith("lightning.")
        plus = f"; another of Lightning's arguments goes with a plus, +{name}=" if library else ""
        return f"unknown key '{name}': {did_you_mean(str(key), [str(k) for k in parent])}{plus}"
    if not name:
        return None
    reason = first_line(error)
    if "is not a ListConfig" in reason or "DictConfig with ListConfig" in reason:
        return f"{name}: needs a list, {name}={['OLD=NEW'] if name == 'data.rename' else '[a,b]'}"
    return f"{name}: {'needs a value, not null' if 'is not Optional' in reason else reason}"


def _same_leaf(name: str) -> list[str]:
    leaf, found = name.rpartition(".")[2], []
    for file in sorted(CONF.rglob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        place = file.relative_to(CONF).parts[0]
        groups = content | ({place: content} if file.parent != CONF and "model" not in content else {})
        for group in {"preprocess", "data", "model", "trainer"} & {*groups}:
            if isinstance(groups[group], dict) and leaf in groups[group]:
                found.append(f"{group}.{leaf}")
    return found


def _unparsed(override: str) -> str:
    """Return the line for an override that Hydra cannot read: how it would have to be typed."""
    key, equals, value = override.partition("=")
    if not equals:
        place = "to a key: data.root=PATH to train, images=PATH to predict"
        return f"'{override}' is no override: give KEY=VALUE (a path belongs {place})"
    ends = {"[": "]", "{": "}"}.get(value[:1])
    if ends and (ends not in value or value.endswith(ends)):
        return f"cannot read '{override}': a list is written {key}='[1, 2]', a mapping {key}='{{a: 1, b: 2}}'"
    cure = typed(key, value.strip("'\""))
    return f"cannot read '{override}': a value with special characters needs quotes, {cure}"


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
    """Instantiate a config node; the only function that does.

    Values reach the target as plain Python ones, so that a module's hyperparameters are primitives. An
    `InputError` that the target raises comes out as it is; a key that the script gives itself is refused.
    """
    for key in extra:
        if key in node:
            raise InputError(f"{node['_target_']}: '{key}' is not set here, the script gives it")
    try:
        return hydra.utils.instantiate(node, _convert_="all", **extra)
    except InstantiationException as error:
        for cause in _chain(error):
            if isinstance(cause, InputError) or _of_the_disk(cause):
                raise cause from None
            if _of_lightning(cause):
                raise InputError(f"{node['_target_']}: {first_line(cause)}") from error
        if str(node.get("_target_")).startswith("lightning."):  # its arguments are the user's own
            raise InputError(f"{node['_target_']}: {first_line(error.__cause__ or error)}") from error
        raise


def check_data(cfg: DictConfig) -> None:
    """Refuse photos of an experiment that are not there, with the line of its file that says where from."""
    name = HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None
    file = CONF / "experiment" / f"{name}.yaml"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    source = next((line.removeprefix("# Data: ") for line in lines if line.startswith("# Data: ")), None)
    for key in ("root", "csv", "images"):
        place = cfg.data.get(key)
        if source and place and not user_path(place).exists():
            raise InputError(f"data.{key}={place}: not there. experiment={name} needs {source}")


def photos_only(cfg: DictConfig, script: str) -> None:
    """Refuse texts for a script that only looks at photos."""
    if any("text" in str(node and node.get("_target_")) for node in (cfg.data, cfg.model)):
        others = "train.py reports what is wrong in the table, evaluate.py the labels that may be wrong"
        raise InputError(f"{script} looks at photos; of texts, {others}, and predict.py takes them")


def demo_root(cfg: DictConfig) -> None:
    """Set the demo set as the photos of a config that names none, and draw it if it is missing.

    Raises:
        InputError: it is missing and several processes were launched, or it cannot be drawn; or the photos of
            an experiment are missing.
    """
    check_data(cfg)
    data = cfg.data
    if "root" in data and all(data.get(key) is None for key in ("root", "csv", "images")):
        if is_main():
            print("no photos named (data.root= or data.csv=): the demo set", file=sys.stderr)
        data.root = DEMO
        data.group = DEMO_GROUP if data.get("group") is None else data.group
    if data.get("root") != DEMO or (Path(DEMO) / "truth.csv").is_file():
        return
    if launched() > 1:
        raise InputError(f"{DEMO} is not there yet: draw it first, python scripts/make_demo_data.py")
    log.info("Drawing the demo set into %s (once)", DEMO)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *DRAW_DEMO], **quiet) as drawing:
        try:
            message = drawing.communicate()[1].strip()
        except BaseException:
            drawing.terminate()  # not killed: it ends its own processes
            raise
    if drawing.returncode:
        reason = message.splitlines()[-1].removeprefix("error: ") if message else "no message"
        raise InputError(f"the demo set was not drawn: {reason}")
