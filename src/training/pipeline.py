"""Steps of a pipeline: each in a folder of its own, left out where nothing that it depends on has changed."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src.analysis.pages import render
from src.config_check import check_targets
from src.datamodules.groups import assign_groups
from src.datamodules.inspection import inspect_photos
from src.datamodules.photo_datamodule import PhotoDataModule
from src.errors import InputError
from src.files import make_folder, read_json, user_path, write_json, write_whole
from src.inference.batches import Photo
from src.overrides import shown
from src.runs import BEST, LAST
from src.training.setup import check_plan, git_commit, versions
from src.training.trackers import NOTE, tracked

STEPS, PAGE = "steps.json", "pipeline.html"


class Pipeline:
    """The folder of a pipeline.

    Args:
        folder: made where it is missing; one of an earlier call goes on.
        loggers: of the configuration; an MLflow run of the folder has one of each step below it.
    """

    def __init__(self, folder: Path, loggers: DictConfig | None):
        make_folder(folder)
        self.folder, self.loggers, self.steps = folder, loggers, read_json(folder / STEPS)
        self.code = {"git": git_commit(), **versions()}
        self.rows: list[tuple[str, str, Path | None]] = []
        self.exit_code = 0
        self.runs = tracked(loggers, folder)
        for run in self.runs:
            run.begin({"pipeline": str(folder)})

    def step(self, name: str, inputs: Any, work: Callable[[Path], Any], nested: bool = True) -> Path:
        """Do the work of a step in its folder, which is returned, unless it was done from the same inputs.

        Where the inputs are others than before it gets a new folder, and the earlier one stays. A step that
        was interrupted gets its folder again. `nested`: give it an MLflow run.
        """
        text = json.dumps([inputs, self.code], sort_keys=True, default=str)
        key, known = hashlib.sha256(text.encode()).hexdigest()[:16], self.steps.get(name, {})
        place = self.folder / known.get("folder", name)
        if known.get("key") == key and known.get("done") and place.is_dir():
            self.say(name, "unchanged, left out", place)
            return place
        if known.get("key", key) != key:
            number = 2 + sum(folder.is_dir() for folder in self.folder.glob(f"{name}_*"))
            place = self.folder / f"{name}_{number}"
        self._record(name, key, place, done=False)
        make_folder(place)
        runs, begun = tracked(self.loggers, place) if nested else [], time.perf_counter()
        for run in runs:
            run.begin({"step": name})
        try:
            work(place)
        except BaseException as left:  # unreadable photos are rows, and the exit code of all
            if not isinstance(left, SystemExit) or left.code != 1:
                for run in (*runs, *self.runs):
                    run.finalize("failed")
                raise
            self.exit_code = 1
        for run in runs:
            run.finish({"seconds": time.perf_counter() - begun})
        self._record(name, key, place, done=True)
        self.say(name, f"{time.perf_counter() - begun:.1f} s", place)
        return place

    def say(self, name: str, words: str, place: Path | None = None) -> None:
        """Print the line of a step, and keep it for the page."""
        print(f"{name:9}{words}  {shown(place.absolute()) if place else ''}".rstrip(), flush=True)
        self.rows.append((name, words, place))

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the page with the line of each step and links to its results; end the MLflow run."""
        rows = []
        for step, words, place in self.rows:
            files = sorted(place.iterdir()) if place else []
            files = [f for f in files if f.suffix in (".html", ".csv", ".txt", ".json") and f.name != NOTE]
            rows.append((step, words, [file.relative_to(self.folder).as_posix() for file in files]))
        content = {"eyebrow": ["Corbel", "pipeline"], "about": str(self.folder), "scores": [], "notes": []}
        page = render("pipeline.html", title="Pipeline", name=self.folder.name, rows=rows, **content)
        write_whole(self.folder / PAGE, page)
        for run in self.runs:
            run.finish({"best": {split: metrics[split] for split in ("val", "test")}})
        print(f"{'read':9}{shown((self.folder / PAGE).absolute())}")
        if self.exit_code:
            raise SystemExit(self.exit_code)

    def _record(self, name: str, key: str, place: Path, done: bool) -> None:
        self.steps[name] = {"key": key, "folder": place.name, "done": done}
        write_json(self.folder / STEPS, self.steps)


def check_pipeline(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, before photos are read."""
    check_targets(cfg)
    if cfg.resume or HydraConfig.get().mode == RunMode.MULTIRUN:
        raise InputError("a pipeline takes neither -m nor resume=: output=FOLDER goes on with one")
    check_plan(cfg)


def resumable(run: Path) -> str | None:
    """Return the folder of a training that was interrupted, as `resume=` takes it."""
    return str(run) if (run / "checkpoints" / LAST).is_file() else None


def part(cfg: DictConfig, *keys: str) -> dict[str, Any]:
    """Return parts of a configuration as the input of a step, and when files that they name were written."""
    content = OmegaConf.to_container(OmegaConf.merge(cfg, {"output_dir": ""}), resolve=True)
    named = {"data": ("split_file",), "model": ("weights", "init_from")}
    places = [user_path(str(content[key].get(name))) for key in keys for name in named.get(key, ())]
    files = [
        p for place in places for p in (place, place / "checkpoints" / BEST, *place.glob("*_metadata.csv"))
    ]
    times = {str(file): file.stat().st_mtime_ns for file in files if file.is_file()}
    return {"times": times, **{key: content[key] for key in keys}}


def data_digest(datamodule: PhotoDataModule) -> str:
    """Return what stands for the photos' contents, labels and groups; photos are read where they changed."""
    source, pre = datamodule.read(), datamodule.preprocess
    records = assign_groups(source, datamodule.group)
    paths = [record.path for record in records]
    looks = inspect_photos(source.root, paths, pre.decode_size, datamodule.cache_dir, pre.sample_bits)
    rows = [[r.id, r.path, r.group, r.labels, look.digest] for r, look in zip(records, looks, strict=True)]
    text = json.dumps([rows, source.given, list(source.unlabelled)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_stamps(photos: list[Photo]) -> list[Any]:
    """Return names, sizes and times of photos to predict."""
    found = [(photo.id, photo.file, photo.file.stat() if photo.file.is_file() else None) for photo in photos]
    return [[name, str(file), stat and (stat.st_size, stat.st_mtime_ns)] for name, file, stat in found]
