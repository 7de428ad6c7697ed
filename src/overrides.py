"""What a person types after a script's name: overrides, `KEY=VALUE`, before and after Hydra reads them."""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.errors import InputError, leave
from src.files import user_path, write_whole

PATHS = {"data.root", "data.csv", "data.images", "data.split_file", "data.cache_dir", "model.weights",
         "model.init_from", "resume", "ckpt", "images", "root", "output", "apply",
         "hydra.run.dir"}  # fmt: skip
FLAGS = {"--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun",
         "--info", "--shell-completion", "--config-path", "--config-name", "--config-dir"}  # fmt: skip
RESUMABLE = ("trainer.max_epochs", "data.root", "data.csv", "data.images")


def override(key: str, value: object) -> str:
    """Return `key=value` as Hydra reads it back: quoted where a bare value would mean something else."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII) or _parsed(f"{key}={text}") != text:
        text = text.replace("${", "\\${")
        # a backslash counts as one unless it stands before a quote or at the end
        text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
        text = f"'{text}'"
    return f"{key}={text}"


def _parsed(override: str) -> object:
    """Return the value of an override as Hydra and OmegaConf understand it."""
    return OmegaConf.create({"value": OverridesParser.create().parse_override(override).value()}).value


def typed(key: str, value: object) -> str:
    """Return an override as a shell and Hydra read it, to be shown in a command."""
    return in_shell(override(key, value))


def in_shell(text: str) -> str:
    """Return an override as it stands in a script's arguments as one types it in a shell."""
    bare = shlex.quote(text)
    return bare if bare == text or re.search(r'[$`"!]|\\\\|\\$', text) else f'"{text}"'


def shown(path: Path) -> Path:
    """Return the path as one would type it here: relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def command_like_this(script: str, keep: Callable[[str], object], new: Mapping[str, object]) -> str:
    """Return the command of another script, as one types it, with overrides of this call.

    Args:
        script: its name in scripts/.
        keep: tells by its key whether an override of this call goes with it.
        new: further keys and values; they replace this call's.
    """
    return _command(script, HydraConfig.get().overrides.task, keep, new)


def command_from(run: Path, checkpoint: Path | None = None) -> str:
    """Return the command, as one types it, of a new run like this one that starts from it and has its split.

    What earlier resumes changed, and photos that a call in progress names, stand in the place of the run's;
    so does a checkpoint.
    """
    saved = run / ".hydra" / "overrides.yaml"
    first = OmegaConf.to_container(OmegaConf.load(saved)) if saved.is_file() else []
    now = [arg.lstrip("+") for arg in (HydraConfig.get().overrides.task if HydraConfig.initialized() else ())]
    changes = run / ".hydra" / "resumed.yaml"
    changed = OmegaConf.load(changes) if changes.is_file() else OmegaConf.create()
    kept = {key: OmegaConf.select(changed, key) for key in RESUMABLE if OmegaConf.select(changed, key)}
    moved = {k: str(v) if isinstance(v, int) else override(k, v).partition("=")[2] for k, v in kept.items()}
    moved |= {key: value for key, _, value in (arg.partition("=") for arg in now) if key in RESUMABLE}
    moved["model.weights"] = "null"
    given = [text for text in first if _key(text) not in moved]
    given += [f"{key}={value}" for key, value in moved.items()]
    new = {"model.init_from": shown(checkpoint or run), "data.split_file": shown(run)}
    own = ("hydra.", "data.fold")  # its split is that of the file
    return _command("train", given, lambda key: not key.startswith(own), new)


def _key(text: str) -> str:
    """Return the key of an override."""
    return text.lstrip("+~").partition("=")[0]


def _command(
    script: str, given: Iterable[str], keep: Callable[[str], object], new: Mapping[str, object]
) -> str:
    """Return a script's command with those of the given overrides that are kept and not new, and the new."""
    kept = [in_shell(text) for text in given if keep(_key(text)) and _key(text) not in new]
    return " ".join(["python", f"scripts/{script}.py", *kept, *(typed(*item) for item in new.items())])


def tidied(argv: list[str]) -> list[str]:
    """Return `argv` as Hydra takes it: `-m` first, and paths quoted where it could not read them bare."""
    flags = [arg for arg in argv[1:] if arg in ("-m", "--multirun")]
    rest = [arg for arg in argv[1:] if arg not in flags]
    for arg in rest:
        if arg.startswith("--") and arg.partition("=")[0] not in FLAGS:
            leave(2, f"'{arg}' is no option: values are given as KEY=VALUE, without dashes; see --help")
    return [argv[0], *flags, *map(_readable, rest)]


def _readable(arg: str) -> str:
    """Return an override that names a path quoted, if Hydra cannot read it as it is."""
    key, _, value = arg.partition("=")
    if key.lstrip("+") not in PATHS:
        return arg
    try:
        OverridesParser.create().parse_override(arg)
    except HydraException:
        return override(key, value)
    return arg


def refuse_a_runs_folder(argv: list[str]) -> None:
    """End the script where its folder would be that of a run or a sweep, whose config Hydra would replace."""
    if "hydra.output_subdir=null" in argv:  # which saves none, as to resume
        return
    if {"-m", "--multirun"} & {*argv}:
        key, holds, said = "hydra.sweep.dir", "leaderboard.csv", "a sweep: name another folder"
    else:
        key, holds, said = "hydra.run.dir", "checkpoints/*.ckpt", "a run: name another folder, or continue it"
    given = [arg.partition("=")[2] for arg in argv[1:] if arg.startswith(f"{key}=")]
    try:
        folder = Path(str(_parsed(f"{key}={given[-1]}"))) if given else None
    except (HydraException, OmegaConfBaseException):
        return  # Hydra says what is wrong with it
    if folder and os.path.isdir(folder) and any(folder.glob(holds)):
        go_on = f" with python scripts/train.py {typed('resume', folder)}" if key == "hydra.run.dir" else ""
        leave(2, f"{key}={folder} already holds {said}{go_on}")


def continue_in_place(argv: list[str]) -> list[str]:
    """Return `argv` so that `resume=RUN` works in the folder RUN and leaves its saved config alone."""
    argv = tidied(argv)
    runs = [arg.partition("=")[2] for arg in argv[1:] if arg.lstrip("+").startswith("resume=")]
    if not runs or runs[0] in ("", "null"):
        return argv
    if {"-m", "--multirun"} & set(argv):
        leave(2, "resume= continues one run: leave out -m")
    try:
        run = user_path(str(_parsed(f"resume={runs[0]}"))).absolute()
    except InputError as error:
        leave(2, f"resume={error}")
    except (HydraException, OmegaConfBaseException):
        return argv  # Hydra says what is wrong with it
    if not os.path.isfile(run / ".hydra" / "config.yaml"):  # also for a name that no disk takes
        within = [folder for folder in run.parents[:2] if os.path.isfile(folder / ".hydra" / "config.yaml")]
        cure = f"; name the run: {typed('resume', shown(within[0]))}" if within else ""
        leave(2, f"resume={runs[0]}: not a run folder (no .hydra/config.yaml in it){cure}")
    # ++: the keys are those of the saved config, whichever data and model the command line would compose
    argv = [f"++{arg}" if arg.startswith(RESUMABLE) else arg for arg in argv]
    return [*argv, override("hydra.run.dir", run), "hydra.output_subdir=null"]


def resumed(cfg: DictConfig) -> DictConfig:
    """Return the config that `resume=RUN` continues with: the saved one, but for epochs and where photos lie.

    What an earlier resume changed holds on (`remember_resumed`). Weights to start from are not
    read again.

    Raises:
        InputError: if the command line changes anything else.
    """
    run = Path(cfg.output_dir)
    saved, changes = OmegaConf.load(run / ".hydra" / "config.yaml"), run / ".hydra" / "resumed.yaml"
    changed = OmegaConf.load(changes) if changes.is_file() else OmegaConf.create()
    for given in HydraConfig.get().overrides.task:
        key = _key(given)
        if key == "resume":
            continue
        if key not in RESUMABLE:
            raise InputError(
                f"resume= keeps the saved config: '{key}' cannot change (only {', '.join(RESUMABLE)})"
            )
        OmegaConf.update(changed, key, OmegaConf.select(cfg, key))
    saved = OmegaConf.merge(saved, changed)
    saved.model.weights = saved.model.init_from = None
    if saved.data.split_file:  # it may be gone, and the run holds its split itself
        saved.data.split_file = str(run)
    if saved.data.get("views") is None:  # of an earlier version
        saved.data.views = 1
    saved.output_dir = str(run)
    saved.resume = str(run)
    return saved


def remember_resumed(cfg: DictConfig) -> None:
    """Keep what a resume changed, once it has been found to work, for the next one."""
    kept = {key: OmegaConf.select(cfg, key) for key in RESUMABLE if OmegaConf.select(cfg, key) is not None}
    changed = OmegaConf.create()
    for key, value in kept.items():
        OmegaConf.update(changed, key, value)
    write_whole(Path(cfg.output_dir) / ".hydra" / "resumed.yaml", OmegaConf.to_yaml(changed).encode())
