"""Made photos and runs that many tests share; sets OpenMP before torch is imported."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra._internal.hydra import Hydra
from PIL import Image

from tests.made import FAST, make_folders, make_table, trained

SLOW = ("ray_engine", "service_faults", "benchmark", "train", "service_cluster", "bad_input", "service",
        "text", "ddp", "notebook", "service_schema", "comparison", "audit", "finetuning", "tracking",
        "sweeps", "experiments", "explore", "export", "evaluation", "tiles")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one of them last would leave the other process idle."""
    places = {f"test_{name}.py": place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path.name, len(SLOW)))


@pytest.fixture(autouse=True)
def no_address_of_mlflow(monkeypatch) -> None:
    """Take back the address that MLflow sets for the whole process once a run was logged."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Path]:
    """Return a function that writes a small noisy photo; another seed gives other bytes."""

    def make(path: Path, seed: int = 0, size: tuple[int, int] = (16, 12), colour=(120, 120, 120)) -> Path:
        noise = np.random.default_rng(seed).integers(-40, 40, (size[1], size[0], 3))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)).save(path)
        return path

    return make


@pytest.fixture(scope="session")
def make_tree(make_photo) -> Callable[..., Path]:
    """Return a function that writes photos of the given paths below a root, no two alike."""

    def make(root: Path, *paths: str) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        for seed, path in enumerate(paths):
            make_photo(root / path, seed)
        return root

    return make


def pytest_addoption(parser) -> None:
    """Add `--thorough`: the service's checks with as many cases as docs/results.md names, and processes."""
    parser.addoption("--thorough", action="store_true", help="more cases and processes, see `thorough`")


@pytest.fixture(scope="session")
def thorough(request) -> bool:
    """Whether the checks with many cases run in full."""
    return request.config.getoption("--thorough")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """36 photos in `Component_Defect` folders, not to be changed."""
    return make_folders(tmp_path_factory.mktemp("folders") / "photos", each=4)


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """36 photos in `images/` with `image_data.csv`, not to be changed."""
    return make_table(tmp_path_factory.mktemp("table") / "set", each=4)


@pytest.fixture(scope="session")
def run(tmp_path_factory, photos) -> Path:
    """A finished dual-head run of one epoch on `photos`, not to be changed."""
    return trained(tmp_path_factory.mktemp("run"), f"data.root={photos}", *FAST, "trainer.max_epochs=1")


@pytest.fixture(scope="session")
def servers() -> Iterator[SimpleNamespace]:
    """PostgreSQL and Redis of our own, on free ports of this machine."""
    servers = pytest.importorskip("benchmarks.servers", reason="the extra cluster is not installed")
    if names := servers.missing():
        pytest.skip(f"not installed: {', '.join(names)}")
    with servers.started(servers.Postgres) as postgres, servers.started(servers.Redis) as redis:
        yield SimpleNamespace(postgres=postgres, redis=redis)


@pytest.fixture(params=["alone", "cluster"])
def profile(request, monkeypatch) -> Iterator[str]:
    """Run a test of the service with SQLite, then with a new database of PostgreSQL, and Redis."""
    if request.param == "alone":
        yield "alone"
        return
    servers = request.getfixturevalue("servers")
    servers.redis.client.flushall()
    with servers.postgres.database() as url:
        monkeypatch.setenv("CORBEL_DATABASE_URL", url)
        monkeypatch.setenv("CORBEL_BROKER_URL", servers.redis.url)
        yield "cluster"


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Compose a call's settings once: Hydra does it twice, to learn of `hydra.mode`, which nobody sets."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Hydra, "get_mode", lambda *_, **options: None)
        yield


@pytest.fixture(autouse=True)
def no_figures(monkeypatch) -> None:
    """Leave out a run's PNG files, most of its time; `trained` of a shared fixture can have them."""
    if evaluate := sys.modules.get("src.training.evaluate"):
        monkeypatch.setattr(evaluate, "write_figures", lambda *_: None, raising=False)
