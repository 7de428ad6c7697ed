"""Overrides, `KEY=VALUE`: quoting for the shell and for Hydra, and the folders that they lead to."""

import os
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.errors import InputError, leave
from src.files import user_path, write_whole
from src.process import is_main

PATHS = {"data.root", "data.csv", "data.images", "data.split_file", "data.cache_dir", "model.weights",
         "model.init_from", "texts", "notes", "data.notes", "data.photos", "model.photo", "model.note",
         "text.model", "resume", "ckpt", "images", "root", "output", "apply", "output_dir",
         "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"}  # fmt: skip
RESUMABLE = ("trainer.max_epochs", "data.root", "data.csv", "data.images")
HYDRA_FLAGS = "help|hydra|version|cfg|resolve|package|run|multirun|shell|config|experimental|info"


def override(key: str, value: object) -> str:
    """Return `key=value` as Hydra reads it back: quoted where a bare value would mean something else."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII) or _parsed(f"{key}={text}") != text:
        text = text.replace("${", "\\${")
        # a backslash counts as one unless it comes before a quote or at the end
        text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
        text = f"'{text}'"
    return f"{key}={text}"


def _parsed(text: str) -> object:
    return OmegaConf.create({"value": OverridesParser.create().parse_override(text).value()}).value


def typed(key: str, value: object) -> str:
    """Return an override quoted for the shell and for Hydra, to be shown in a command."""
    return _in_shell(override(key, value))


def typed_list(key: str, values: Iterable[str]) -> str:
    """Return an override with a list of texts, quoted for the shell and for Hydra."""
    texts = [override("", value)[1:] for value in values]
    quoted_texts = ",".join(text if text.startswith("'") else f"'{text}'" for text in texts)
    return _in_shell(f"{key}=[{quoted_texts}]")


def _in_shell(text: str) -> str:
    bare = shlex.quote(text)
    return bare if bare == text or re.search(r'[$`"!]|\\\\|\\$', text) else f'"{text}"'


def shown(path: Path) -> Path:
    """Return a path relative to the working folder where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def command_like_this(script: str, keep: Callable[[str], object], new: Mapping[str, object]) -> str:
    """Return the command of another script with overrides of this call.

    Args:
        script: its name in scripts/.
        keep: whether an override of this call goes with it, by its key.
        new: further keys and values; they replace this call's.
    """
    given = HydraConfig.get().overrides.task
    kept = [_in_shell(text) for text in given if keep(_key(text)) and _key(text) not in new]
    return " ".join(["python", f"scripts/{script}.py", *kept, *(typed(*item) for item in new.items())])


def _key(text: str) -> str:
    return text.lstrip("+~").partition("=")[0]


def readable(argv: list[str]) -> list[str]:
    """Return `argv` with `-m` first, and with quotes around paths that Hydra would read as something else.

    With `resume=`, keys that may change are added where this call's own data and model do not have them, and
    to evaluate the keys of photos, which differ from the run's.
    """
    for arg in argv[1:]:
        if re.match(rf"--(?!{HYDRA_FLAGS})", arg):
            leave(2, f"'{arg}' is no option: values are given as KEY=VALUE, without dashes; see --help")
    flags = [arg for arg in argv[1:] if arg in ("-m", "--multirun")]
    paths = PATHS - {"resume"} if Path(argv[0]).stem == "predict" else PATHS  # there it is a switch
    rest = ["~logger" if arg == "logger=null" else arg for arg in argv[1:] if arg not in flags]
    rest = [_readable(arg, paths, bool(flags)) for arg in rest]
    if Path(argv[0]).stem == "evaluate" and not any(arg.startswith("data=") for arg in rest):
        rest = [f"++{arg}" if arg.startswith("data.") else arg for arg in rest]  # checked with the model's
    if any(arg.startswith("resume=") for arg in rest):
        rest = [f"++{arg}" if arg.startswith(RESUMABLE) else arg for arg in rest]
    return [argv[0], *flags, *rest]


def _readable(arg: str, paths: Collection[str], sweep: bool) -> str:
    """Return an override of a path quoted, if Hydra would not read it as the text that it is.

    Null stays null, and what Hydra reads as a text, an interpolation or a function of a sweep stays as it is.
    """
    key, _, value = arg.partition("=")
    if key.lstrip("+") not in paths:
        return arg
    try:
        parsed = OverridesParser.create().parse_override(arg)
    except HydraException:
        return override(key, value)
    if parsed.is_sweep_override():
        return arg if sweep else override(key, value)
    return arg if parsed.value() is None or isinstance(parsed.value(), str) else override(key, value)


def check_paths(cfg: DictConfig, script: str) -> None:
    """Refuse a path from a file that YAML has read as a number or a truth value."""
    for key in sorted(PATHS - {"resume"} if script == "predict" else PATHS):
        if not isinstance(value := OmegaConf.select(cfg, key), str | None):
            raise InputError(f"{key}: {value} is no name: in a file it needs quotes, as {key}: '2024_05'")


def run_folder(resume: str | None, otherwise: str) -> str:
    """Return the folder that a training works in: the resumed run's, or another one."""
    if not resume:
        return otherwise
    run = user_path(str(resume)).absolute()
    if os.path.isfile(_saved_config(run)):  # False also for a name that is too long
        if not (run / "checkpoints" / "last.ckpt").is_file():
            raise InputError(f"resume={resume}: it holds no checkpoints/last.ckpt; start a new run instead")
        return str(run)
    within = [folder for folder in run.parents[:2] if os.path.isfile(_saved_config(folder))]
    cure = f"; name the run: {typed('resume', shown(within[0]))}" if within else ""
    raise InputError(f"resume={resume}: not a run folder (no .hydra/config.yaml in it){cure}")


def output_of(script: str, runs: str) -> str:
    """Return the folder below `outputs` of a script: that of the `runs` for training, else its own."""
    return runs if script == "train" else script


def config_folder(output_dir: str) -> str | None:
    """Return the subfolder for Hydra's copy of the configuration; None in a run's folder, which has one.

    One of several processes writes it.
    """
    return None if any(Path(output_dir).glob("checkpoints/*.ckpt")) or not is_main() else ".hydra"


def _saved_config(run: Path) -> Path:
    return run / ".hydra" / "config.yaml"


def resumed(cfg: DictConfig) -> DictConfig:
    """Return the config that `resume=RUN` continues with: the saved one, but for epochs and places of photos.

    Weights to start from are not read again.
    """
    run = Path(cfg.output_dir)
    saved = OmegaConf.load(_saved_config(run))
    hydra = HydraConfig.get()
    same = hydra.mode == RunMode.MULTIRUN or hydra.job.name == "pipeline"  # these compare them first
    for given in () if same else hydra.overrides.task:
        key = _key(given)
        if key == "resume":
            continue
        if key not in RESUMABLE:
            raise InputError(
                f"resume= keeps the saved config: '{key}' cannot change (only {', '.join(RESUMABLE)})"
            )
        OmegaConf.update(saved, key, OmegaConf.select(cfg, key))
    for key in {"weights", "init_from"} & {*saved.model}:
        saved.model[key] = None
    if saved.data.split_file:  # it may be gone, and the run holds its split itself
        saved.data.split_file = str(run)
    saved.output_dir = str(run)
    saved.resume = str(run)
    return saved


def save_config(cfg: DictConfig) -> None:
    """Write a run's configuration with its defaults filled in; of a resumed one, only its changes."""
    file = _saved_config(Path(cfg.output_dir))
    if cfg.resume:
        changed = {key: OmegaConf.select(cfg, key) for key in RESUMABLE}
        cfg = OmegaConf.load(file)
        for key, value in changed.items():
            if value is not None:
                OmegaConf.update(cfg, key, value)
    write_whole(file, OmegaConf.to_yaml(cfg).encode())
