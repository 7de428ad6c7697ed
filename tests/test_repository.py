"""What holds for the repository as a whole: it composes, its documents are true, nothing strays into it."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from src.config import CONF, REPOSITORY
from src.config_check import check_targets
from src.models.defaults import fill_defaults

TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".ipynb", ".cfg", ".html", ".sh", ".js", ".css", ""}
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SOURCES = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem != "base")
COMPOSED = {
    **{f"model={model} data={data}": "train" for model in MODELS for data in SOURCES},
    **{f"experiment={path.stem}": "train" for path in sorted((CONF / "experiment").glob("*.yaml"))},
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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, [*overrides, "output_dir=somewhere"], return_hydra_config=hydra)
    return cfg


def filled(cfg: DictConfig) -> DictConfig:
    """Return a configuration as the script completes it."""
    if "model" in cfg:
        return fill_defaults(cfg)
    return cfg


@pytest.mark.parametrize("choice", COMPOSED)
def test_every_choice_composes_and_fits_its_targets(choice):
    cfg = filled(composed(COMPOSED[choice], *choice.split()))
    check_targets(cfg)
    assert cfg.task == cfg.model.task == cfg.data.task


@pytest.mark.parametrize("name", sorted({path.stem for path in CONF.glob("*.yaml")} - {"base"}))
def test_every_script_has_a_configuration_that_composes(name):
    check_targets(filled(composed(name)))
    assert (REPOSITORY / "scripts" / f"{name}.py").is_file()


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_a_sweep_varies_keys_that_exist(name):
    params = composed("train", f"sweep={name}", hydra=True).hydra.sweeper.params
    assert params
    for key, values in params.items():
        for value in str(values).split(","):
            check_targets(filled(composed("train", f"{key}={value}")))


def test_no_file_that_the_code_needs_is_ignored_by_git():
    kept = set(ours())
    needed = [
        path
        for folder in ("conf", "src", "scripts", "tests")
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in (".yaml", ".py")
    ]
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


def test_constraints_are_plain_pins():
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


def test_constraints_pin_every_dependency():
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + [
        x for extra in project["optional-dependencies"].values() for x in extra
    ]
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    names = [re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in asked]
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
    imported = {
        name.split(".")[0]
        for node in ast.parse(text).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
    }
    assert not imported & {"torch", "torchvision", "lightning", "torchmetrics"}


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
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M))
    for name, text in documents().items():
        named = re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)
        assert set(named) <= targets, (name, set(named) - targets)


def leaves(node: dict, prefix: str) -> Iterator[str]:
    """Dotted paths of a configuration's values; those of Hydra and of composition left out."""
    for key, value in node.items():
        path = f"{prefix}{key}"
        if key in ("_target_", "defaults", "hydra"):
            continue
        if isinstance(value, dict) and path.count(".") < 1 + path.startswith("callbacks."):
            yield from leaves(value, f"{path}.")
        else:
            yield path


def conf_keys() -> set[str]:
    found: set[str] = set()
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parent.as_posix()
        if group in ("experiment", "sweep", "script"):
            continue
        text = path.read_text(encoding="utf-8")
        rooted = group == "." or text.startswith("# @package _global_")
        found |= set(leaves(OmegaConf.to_container(OmegaConf.load(path)), "" if rooted else f"{group}."))
    return found


def reference() -> dict[str, list[str]]:
    """The rows of the tables in docs/configuration.md that document a key: `{key: [default cell, ...]}`."""
    text = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows: dict[str, list[str]] = {}
    tables = text.split("| key | default | meaning |")[1:]
    for table in tables:
        for key, default in re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", table, re.M):
            rows.setdefault(key, []).append(default.strip())
    return rows


def test_configuration_page_documents_every_key_and_no_other():
    assert conf_keys() - set(reference()) == set()
    assert set(reference()) - conf_keys() == set()


def test_configuration_page_gives_the_defaults_of_the_configuration():
    cfgs = [composed("train"), composed("train", "model=multilabel")]
    cfgs += [composed(name) for name in ("predict", "export", "make_demo_data", "explore", "audit")]
    wrong = []
    for key, cells in reference().items():
        values = [OmegaConf.select(cfg, key, default="absent") for cfg in cfgs]
        values = [OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for v in values]
        for cell in cells:
            told = re.match(r"`(.+?)`", cell)
            if told and _plain(told[1]) not in values:
                wrong.append(f"{key}: {cell}, not {values}")
    assert wrong == []


def _plain(text: str) -> object:
    value = OmegaConf.create(f"x: {text}" if text != ";" else "x: ';'").x
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


FLOORS = {
    **dict.fromkeys(
        (
            "errors",
            "decisions",
            "runs",
            "deferred",
            "seeds",
            "process",
            "labels",
            "images",
            "preprocess",
            "progress_bar",
            "schemas",
            "config",
            "config_check",
            "overrides",
            "leaderboard",
            "files",
            "parallel",
            "row_store",
        ),
        0,
    ),
    **dict.fromkeys(("datamodules", "models"), 1),
    **dict.fromkeys(("callbacks", "inference", "analysis"), 2),
    "training": 3,
}


def imports() -> dict[str, set[str]]:
    """The modules of `src` that each module of `src` imports, also inside functions."""
    files = {path: path.relative_to(REPOSITORY) for path in (REPOSITORY / "src").rglob("*.py")}
    modules = {".".join(name.with_suffix("").parts).removesuffix(".__init__"): p for p, name in files.items()}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & modules.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= (names & modules.keys()) or {node.module}
    return found


def test_the_house_is_described_as_it_stands():
    source = REPOSITORY / "src"
    stands = {path.name for path in source.glob("*.py") if path.name != "__init__.py"}
    stands |= {f"{path.parent.name}/" for path in source.glob("*/__init__.py")}
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    listing, floors = page.split("## The house")[1].split("Floors:")
    assert set(re.findall(r"^  (\w+(?:\.py|/)) ", listing, re.MULTILINE)) == stands
    modules = {name.removesuffix(".py").rstrip("/") for name in stands}
    assert set(FLOORS) == modules
    assert modules <= set(re.findall(r"`(\w+)`", floors.split("\n\n")[0]))


def test_imports_run_down_the_floors():
    wrong = []
    for module, others in imports().items():
        for other in others:
            if "." not in module or "." not in other:
                continue
            here, there = module.split(".")[1], other.split(".")[1]
            sideways = FLOORS[here] == FLOORS[there] == 1 and here != there
            if sideways or FLOORS[there] > FLOORS[here]:
                wrong.append(f"{module} -> {other}")
    assert sorted(wrong) == []


def test_imports_run_in_no_circle():
    graph = imports()
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())
