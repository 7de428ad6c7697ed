"""Run folders: the newest finished one, their files read back as plain data, a sweep's leaderboard. No torch.

A file that is missing reads as empty, a broken one is an `InputError`.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.errors import InputError
from src.files import file_lock, is_locked, read_json, user_path, write_csv
from src.labels import SPLITS, TASKS
from src.process import is_main

if TYPE_CHECKING:  # a prediction without tables does without pandas
    import pandas as pd

log = logging.getLogger(__name__)
LOCK = ".lock"  # locked by a training until its last file is written
BEST, LAST = "best.ckpt", "last.ckpt"
TEXTS, BOTH = "text", "photo_and_note"  # folders of runs of texts, and of photos with notes
PHOTOS_ALONE = ("only models of photos alone are exported and served; the service of one takes texts, too: "
                "POST /predict_text, from the runs below outputs/text (docs/service.md)")  # fmt: skip
PATIENCE = 30.0  # seconds that another job may take to write its row
LEADERBOARD = ("score", "job", "overrides", "status", "reason", "labels")  # its columns


def find_checkpoint(
    ckpt: str | Path | None, outputs: Path = Path("outputs"), tasks: Sequence[str] = TASKS
) -> Path:
    """Return the file for `ckpt=`: that file, a run folder's best, an export folder's ONNX or TFLite file.

    Null is the newest finished run of one of the `tasks`, folders of `outputs`.
    """
    if ckpt:
        path = user_path(ckpt)
        for name in ("", f"checkpoints/{BEST}", BEST, "model.onnx", "model_int8.onnx", "model.tflite"):
            if (path / name).is_file():
                if name.startswith("checkpoints") and not _is_finished(path):
                    log.warning("%s: its training has not finished, a later best.ckpt may differ", path)
                return path / name
        no_run = "a folder without checkpoints/best.ckpt, so not a finished training run"
        raise InputError(f"ckpt={ckpt}: {no_run if path.is_dir() else 'no such file or run folder'}")
    if (run := next(finished_runs(outputs, tasks), None)) is None:
        where = outputs if len(tasks) > 1 else outputs / tasks[0]
        raise InputError(
            f"no finished training run below {where}/: train one, or name one with ckpt=RUN_OR_FILE"
        )
    log.info("ckpt= not given: the newest finished training run, %s", run)
    return run / "checkpoints" / BEST


def finished_runs(outputs: Path, tasks: Sequence[str] = TASKS) -> Iterator[Path]:
    """Yield the finished runs, the last one first: with `metrics.json`, and not locked by a training."""
    ended = [file for task in tasks for file in (outputs / task).glob("**/metrics.json")]
    for file in sorted(ended, key=lambda file: (file.stat().st_mtime, file.as_posix()), reverse=True):
        if _is_finished(file.parent):
            yield file.parent


def _is_finished(run: Path) -> bool:
    files = (run / "metrics.json", run / "checkpoints" / BEST)
    return all(map(Path.is_file, files)) and not is_locked(run / LOCK)


def finished_score(run: Path) -> float | None:
    """Return the score of a sweep's job that has finished in its folder with the same overrides."""
    if not _same_job(run) or not _is_finished(run):
        return None
    log.info("%s has finished before: its score stays", run)
    return float(read_json(run / "metrics.json")["val"]["f1_macro"] or 0)


def was_interrupted(run: Path) -> bool:
    """Return whether a sweep's job was ended in its folder, with the same overrides, and can go on."""
    return _same_job(run) and (run / "checkpoints" / LAST).is_file()


def _same_job(run: Path) -> bool:
    file, hydra = run / ".hydra" / "overrides.yaml", HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN or not file.is_file():
        return False
    return sorted(OmegaConf.load(file)) == sorted(hydra.overrides.task)


def run_of(checkpoint: Path) -> Path | None:
    """Return the run folder that holds a checkpoint; None for a file by itself."""
    run = checkpoint.parent.parent
    return run if (run / "val_metadata.csv").is_file() else None


def recorded_root(run: Path) -> Path | None:
    """Return the folder that the paths in a run's tables start from; None for a folder that is no run."""
    file = run / ".hydra" / "data_root.txt"
    return Path(file.read_text(encoding="utf-8").removesuffix("\n")) if file.is_file() else None


@dataclass(frozen=True)
class RunFolder:
    """The files of one training; `splits` are the tables that exist, `{"train": ...}`.

    Cells of `predictions` and `splits` are text. What has no file is empty.
    """

    path: Path
    metrics: dict
    predictions: "pd.DataFrame"
    classes: dict[str, list[str]]
    thresholds: dict[str, float]
    splits: "dict[str, pd.DataFrame]"
    history: "pd.DataFrame"
    certificate: dict
    config: object

    @cached_property
    def facts(self) -> dict:
        """The block `run` of `metrics.json`."""
        return self.metrics.get("run") or {}

    @cached_property
    def task(self) -> str:
        """The task, as recorded."""
        return str(self.facts.get("task") or self.setting("task"))

    def setting(self, *names: str) -> object:
        """Return the first of the dotted `names` that the configuration has, or None."""
        for name in names:
            try:
                value = OmegaConf.select(self.config, name)
            except OmegaConfBaseException:  # an interpolation that only resolves inside the run
                continue
            if value is not None:
                return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        return None

    @cached_property
    def noun(self) -> str:
        """The noun for what is classified, photo or text, by the columns of the predictions."""
        return "text" if "text" in self.predictions and "path" not in self.predictions else "photo"

    @cached_property
    def data_root(self) -> Path | None:
        """The folder of the photos: as the run recorded it, else as configured."""
        configured = self.setting("data.images", "data.root")
        return recorded_root(self.path) or (Path(str(configured)) if configured else None)

    def labels(self, row: dict[str, str], kind: str) -> list[str]:
        """Return the labels of one kind in a row of a split's table, those of the label space only."""
        text = row.get(kind, "")
        names = [name.strip() for name in text.split(";")] if self.task == "multilabel" else [text]
        return [name for name in dict.fromkeys(names) if name in self.classes.get(kind, ())]


def read_run(path: Path) -> RunFolder:
    """Read the folder of a run."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(
            f"run={path}: no such folder; give the folder of a run, such as outputs/multilabel/<date_time>"
        )
    for name in ("metrics.json", "predictions.csv"):
        if not (path / name).is_file():
            raise InputError(f"{path / name} is missing: a report needs it; a training that ended writes it")
    import pandas as pd

    tables = {split: read_table(path / f"{split}_metadata.csv") for split in SPLITS}
    history, config = read_table(path / "history.csv"), path / ".hydra" / "config.yaml"
    return RunFolder(
        path=path,
        metrics=read_json(path / "metrics.json"),
        predictions=read_table(path / "predictions.csv", needs=("ID",)),
        classes=read_json(path / "classes.json"),
        thresholds=read_json(path / "thresholds.json"),
        splits={split: table for split, table in tables.items() if table is not None},
        history=pd.DataFrame() if history is None else history.apply(pd.to_numeric, errors="coerce"),
        certificate=read_json(path / "split_certificate.json"),
        config=OmegaConf.load(config) if config.is_file() else OmegaConf.create({}),
    )


def run_date(run: RunFolder) -> str:
    """Return when the run was, from its folder's name; empty where that does not say."""
    found = re.search(
        r"(\d{4}-\d\d-\d\d)(?:[_T ](\d\d)[-:.](\d\d))?", "/".join(run.path.resolve().parts[-2:])
    )
    return "" if found is None else found[1] + (f" {found[2]}:{found[3]}" if found[2] else "")


def label_counts(run: RunFolder) -> "pd.DataFrame":
    """Count the photos of each label: indexed by label, a column per split that exists, and `kind`."""
    import pandas as pd

    kinds = {label: kind for kind, labels in run.classes.items() for label in labels}
    found = pd.DataFrame(index=list(kinds))
    for split, rows in run.splits.items():
        records = rows.to_dict("records")
        names = [name for row in records for kind in run.classes for name in run.labels(row, kind)]
        found[split] = pd.Series(names, dtype=str).value_counts().reindex(found.index, fill_value=0)
    return found.assign(kind=list(kinds.values()))


def crossing_groups(run: RunFolder) -> list[str]:
    """Return the groups that have photos in more than one split, sorted."""
    groups = [{*rows["group"]} - {""} for rows in run.splits.values() if "group" in rows]
    count = Counter(name for names in groups for name in names)
    return sorted(name for name, splits in count.items() if splits > 1)


def read_table(path: Path, needs: tuple[str, ...] = ()) -> "pd.DataFrame | None":
    """Read a table as text (label `None`, ID `007` stay what they are); None where there is no file."""
    import pandas as pd

    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    for column in needs:
        if column not in table:
            raise InputError(f"{path}: no column '{column}'")
    return table


def mean_of(figures: Mapping[str, Any]) -> str:
    """Return `over 3 of 5 labels` where the means leave labels out for want of positives, else nothing."""
    count, total = figures.get("labels_evaluated"), figures.get("labels_total")
    return f"over {count} of {total} labels" if count != total else ""


def missing_runs(folder: Path) -> list[str]:
    """Return the runs below a folder that have not finished, and the folds that no finished run has."""
    import yaml

    missing, folds = [], {}
    for file in sorted(folder.glob("**/.hydra/config.yaml")):
        run, data = file.parent.parent, yaml.safe_load(file.read_text(encoding="utf-8")).get("data") or {}
        if not (run / "metrics.json").is_file():
            missing.append(f"{run} has no metrics.json")
        elif data.get("folds"):
            folds.setdefault(data["folds"], set()).add(data["fold"])
    for count, found in folds.items():
        missing += [f"no finished run has fold {fold} of {count}" for fold in sorted({*range(count)} - found)]
    return missing


class Leaderboard(Callback):
    """Updates `leaderboard.csv` after each job of a sweep, and after a job that `resume=` continues."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the row of the job; a job that failed does not replace one that was done before."""
        hydra = job_return.hydra_cfg.hydra
        if "MULTIRUN" in str(hydra.mode):
            folder, job = Path(config.hydra.sweep.dir), str(hydra.job.num)
            given = " ".join(job_return.overrides or ())
        else:
            folder, job = Path(hydra.runtime.output_dir).parent, Path(hydra.runtime.output_dir).name
            if not (folder / "leaderboard.csv").is_file() or not is_main():
                return
            given = None
        with file_lock(folder / ".leaderboard.lock", PATIENCE):  # jobs may run at the same time
            self._write_row(folder, job, given, job_return)

    def _write_row(self, folder: Path, job: str, given: str | None, job_return: JobReturn) -> None:
        import pandas as pd

        rows = {row["job"]: row for row in self.rows(folder)}
        before = rows.get(job, {})
        if job_return.status == JobStatus.COMPLETED:
            found = read_json(folder / job / "metrics.json")
            status = "pruned" if found.get("run", {}).get("pruned") else "done"
            row = {"score": f"{job_return.return_value:.6f}", "status": status, "reason": ""}
            row["labels"] = mean_of(found.get("val", {}))
        elif before.get("score"):
            return
        else:
            reason = str(job_return._return_value).strip()
            row = {"score": "", "status": "failed", "reason": reason.splitlines()[0] if reason else ""}
        if given is None:  # a resumed job keeps its own
            given = before.get("overrides", "")
        rows[job] = {**row, "job": job, "overrides": given}
        ranked = sorted(rows.values(), key=lambda row: (-float(row["score"] or -math.inf), row["job"]))
        table = pd.DataFrame(ranked, columns=list(LEADERBOARD))
        write_csv(folder / "leaderboard.csv", table)

    @staticmethod
    def rows(folder: Path) -> list[dict[str, str]]:
        """Return the rows of a sweep's leaderboard; none where there is no file yet."""
        table = read_table(folder / "leaderboard.csv")
        return [] if table is None else table.to_dict("records")
