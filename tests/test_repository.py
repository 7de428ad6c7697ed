"""The repository as a whole: it composes, its documents are true, no stray file is in it."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.config import CONF, REPOSITORY
from src.config_check import check_targets
from src.models.backbones import fill_defaults

TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".ipynb", ".cfg", ".html", ".sh", ".js", ".css", ""}
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SOURCES = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem != "base")
COMPOSED = {
    **{f"model={model} data={data}": "train" for model in MODELS for data in SOURCES},
    **{f"experiment={path.stem}": "train" for path in sorted((CONF / "experiment").glob("*.yaml"))},
    **{f"logger={path.stem}": "train" for path in sorted((CONF / "logger").glob("*.yaml"))},
    "logger=[tensorboard,csv,mlflow]": "train",
    **{f"sweep={path.stem}": "train" for path in sorted((CONF / "sweep").glob("*.yaml"))},
}


def ours() -> list[Path]:
    """The files of the repository: what git tracks or would track."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := REPOSITORY / name).is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in ours():
        if path.suffix in TEXT:
            yield path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")


def composed(name: str, *overrides: str, hydra: bool = False) -> DictConfig:
    """Return a configuration as its script completes it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, [*overrides, "output_dir=somewhere"], return_hydra_config=hydra)
    return fill_defaults(cfg) if "model" in cfg else cfg


@pytest.mark.parametrize("choice", COMPOSED)
def test_every_choice_composes_and_fits_its_targets(choice):
    cfg = composed(COMPOSED[choice], *choice.split())
    check_targets(cfg)
    assert cfg.task == cfg.model.task == cfg.data.task


@pytest.mark.parametrize("name", sorted({path.stem for path in CONF.glob("*.yaml")} - {"base"}))
def test_every_script_has_a_configuration_that_composes(name):
    check_targets(composed(name))
    assert (REPOSITORY / "scripts" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_a_sweep_varies_keys_that_exist(name):
    params = composed("train", f"sweep={name}", hydra=True).hydra.sweeper.params
    assert params
    for key, values in params.items():
        override = OverridesParser.create().parse_override(f"{key}={values}")
        swept = override.value()
        if override.is_interval_sweep():
            tried = [swept.start, swept.end]
        else:
            tried = list(override.sweep_string_iterator())
            tried = [tried[0], tried[-1]] if override.is_range_sweep() else tried
        for value in tried:
            check_targets(composed("train", f"{key}={value}"))


def test_no_file_that_the_code_needs_is_ignored_by_git():
    kept = set(ours())
    folders = [REPOSITORY / name for name in ("conf", "src", "scripts", "demo", "tests")]
    needed = [path for folder in folders for suffix in ("yaml", "py") for path in folder.rglob(f"*.{suffix}")]
    assert [str(path) for path in needed if path not in kept] == []


def test_no_package_index_and_no_path_of_a_machine():
    index = re.compile(r"--(extra-)?index-url|--find-link[s]|index[-_]url\s*=|https?://\S+/(simple|whl)\b")
    machine = re.compile(r"(?<![\w.$}*])/(home|Users|root|work|mnt|tmp)/\w|\b[A-Z]:\\{1,2}Users")
    found = [
        f"{name}: {match[0]}"
        for name, text in texts()
        for pattern in (index, machine)
        if (match := pattern.search(text))
    ]
    assert found == []


def test_no_data_no_weights_no_large_file():
    forbidden = {".ckpt", ".pt", ".pth", ".onnx", ".safetensors", ".npy", ".npz", ".zip", ".gz", ".heic"}
    assert [path.name for path in ours() if path.suffix in forbidden] == []
    assert [path.name for path in ours() if path.stat().st_size > 2**20] == []


def test_constraints_pin_every_dependency():
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    for line in constraints.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = [re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in asked]
    pinned = constraints.lower().replace("_", "-")
    assert [name for name in names if f"\n{name}==" not in pinned] == []


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda path: path.name
)
def test_notebooks_have_no_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert cell["cell_type"] != "code" or (not cell["outputs"] and cell["execution_count"] is None)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_short_and_import_torch_only_in_their_task(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    assert not re.search(r"^(import|from) (torch|torchvision|lightning|torchmetrics)\b", text, re.MULTILINE)


def test_help_and_composing_import_no_torch(tmp_path):
    check = (
        "import atexit, runpy, sys\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'pandas', 'matplotlib'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    for script, option in (("train.py", "--help"), ("predict.py", "--cfg=job")):
        command = [sys.executable, "-c", check, str(REPOSITORY / "scripts" / script), option]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip().endswith("HEAVY []"), done.stderr
    assert list(tmp_path.iterdir()) == []


def documents() -> dict[str, str]:
    paths = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_documents_name_files_that_exist():
    missing = []
    for name, text in documents().items():
        folder = (REPOSITORY / name).parent
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'src="([^"]+)"', text)
        missing += [f"{name}: {link}" for link in links if "://" not in link and not (folder / link).exists()]
        paths = re.findall(r"\b(?:scripts|conf|src|docs|tests|notebooks)/[\w./-]*\w", text)
        missing += [f"{name}: {path}" for path in paths if not (REPOSITORY / path).exists()]
    assert missing == []


def test_documents_name_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))
    for name, text in documents().items():
        named = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)
        assert set(named) <= targets, (name, set(named) - targets)


def leaves(node: dict, prefix: str) -> Iterator[str]:
    """Dotted paths of a configuration's values; those of Hydra and of composition left out."""
    for key, value in node.items():
        path = f"{prefix}{key}"
        depth = 1 + path.startswith(("callbacks.", "logger."))
        if isinstance(value, dict) and path.count(".") < depth and key != "hydra":
            yield from leaves(value, f"{path}.")
        elif key not in ("_target_", "defaults", "hydra"):
            yield path


def conf_keys() -> set[str]:
    found: set[str] = set()
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parent.as_posix()
        if group not in ("experiment", "sweep", "script"):
            group = group.removesuffix("/base")
            rooted = group == "." or path.read_text(encoding="utf-8").startswith("# @package _global_")
            found |= {*leaves(OmegaConf.to_container(OmegaConf.load(path)), "" if rooted else f"{group}.")}
    return found


def reference() -> list[tuple[str, str]]:
    """The key and the default in each row of the tables in docs/configuration.md that document keys."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    tables = text.split("| key | default | meaning |")[1:]
    return [row for table in tables for row in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", table, re.M)]


def test_configuration_page_documents_every_key_and_no_other():
    assert conf_keys() == {key for key, _ in reference()}


def test_configuration_page_gives_the_defaults_of_the_configuration():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        others = ("predict", "evaluate", "export", "make_demo_data", "explore", "audit", "serve", "find_lr",
                  "pipeline", "compare_backbones", "compare")  # fmt: skip
        cfgs = [compose(name, ["output_dir=x"]) for name in ("train", *others)]
        for choice in (
            "model=multilabel",
            "model=text_tfidf",
            "model=text_transformer",
            "model=photo_and_note",
            "finetune=two_phase",
            "finetune=progressive",
            "callbacks=[default,ema]",
            "logger=[tensorboard,csv,mlflow]",
        ):
            cfgs.append(compose("train", [choice, "output_dir=x"]))
    wrong = []
    for key, cell in reference():
        values = [plain(OmegaConf.select(cfg, key, default="absent")) for cfg in cfgs]
        given = re.match(r"`(.+?)`", cell)
        if given and plain(OmegaConf.create(f"x: {given[1]}").x) not in values:
            wrong.append(f"{key}: {cell}, not {values}")
    assert wrong == []


def plain(value: object) -> object:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


FLOORS = {  # the others are below
    1: ("datamodules", "models", "decisions"),
    2: ("callbacks", "inference", "analysis"),
    3: ("training", "serving"),
}


def imports() -> dict[str, set[str]]:
    """The modules of `src` that each module of `src` imports, also inside functions."""
    paths = {
        path: path.relative_to(REPOSITORY).with_suffix("") for path in (REPOSITORY / "src").rglob("*.py")
    }
    modules = {".".join(name.parts).removesuffix(".__init__"): path for path, name in paths.items()}
    found: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= (names & modules.keys()) or {node.module}
    return found


def test_the_design_page_lists_the_modules_and_their_floors():
    source = REPOSITORY / "src"
    names = {path.name for path in source.glob("*.py") if path.name != "__init__.py"}
    names |= {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    listing, floors = page.split("## The house")[1].split("Floors:")
    assert sorted(re.findall(r"^  (\w+(?:\.py|/)) ", listing, re.MULTILINE)) == sorted(names)
    described = re.findall(r"`(\w+)`", floors.split("\n\n")[0])
    assert {re.sub(r"\.py|/", "", name) for name in names} <= set(described)


def test_imports_run_down_the_floors():
    def floor(package: str) -> int:
        return next((number for number, names in FLOORS.items() if package in names), 0)

    wrong = []
    for module, others in imports().items():
        for other in others:
            if "." not in module or "." not in other:
                continue
            here, there = module.split(".")[1], other.split(".")[1]
            sideways = floor(here) == floor(there) == 1 and here != there
            if sideways or floor(there) > floor(here):
                wrong.append(f"{module} -> {other}")
    assert sorted(wrong) == []


def test_imports_run_in_no_circle():
    TopologicalSorter(imports()).prepare()  # names the circle
