"""Loggers of a training; MLflow's run of a folder, nested below that of its sweep or pipeline.

Nothing goes anywhere but to the tracking server that is named: MLflow's own telemetry is switched off.
"""

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.utils import JobReturn
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from src.config import build
from src.errors import InputError, first_line, leave
from src.files import read_json, write_json
from src.runs import BEST, Leaderboard

log = logging.getLogger(__name__)
FORBIDDEN = re.compile(r"[^\w/. -]")  # in the name of a parameter or figure
NOTE = "mlflow.json"  # in a folder: the id of its run
PAUSE = 60.0  # seconds until a server that did not answer is asked again
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
               "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}  # fmt: skip


def logger_nodes(loggers: DictConfig | None) -> dict[str, DictConfig]:
    """Return the loggers of a configuration by name."""
    return {str(name): node for name, node in (loggers or {}).items() if node}


def check_store(loggers: DictConfig | None) -> None:
    """Refuse an MLflow that is not installed, or does not answer."""
    for node in logger_nodes(loggers).values():
        if uri := node.get("tracking_uri"):
            with _answering(uri):
                MLflowRun(folder="", tracking_uri=uri)._mlflow_client.search_experiments(max_results=1)


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f'logger=mlflow needs a package that is missing ({first_line(error)}): pip install -e ".[mlflow]"'
        ) from error
    except Exception as error:
        raise InputError(
            f"logger.mlflow.tracking_uri={uri}: MLflow does not answer there ({_cause(error)}); start its "
            "server, name another address, or train without it: logger=tensorboard"
        ) from error


def _cause(error: BaseException) -> str:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return first_line(error)


class MLflowRun(MLFlowLogger):
    """The MLflow run of a folder: a training's, a sweep's, a pipeline's or one of its steps'.

    Its id is kept in the folder, so that what is resumed there goes on in it. It is nested below the run of
    the parent folder, where that has one. Entries wait for a server that goes away.

    Args:
        folder: whose run it is.
        tracking_uri: of a server, or `sqlite:///FILE`; artifacts then go to a folder next to the file.
        experiment_name: the experiment, made where it is missing.
        checkpoint: whether `best.ckpt` is uploaded.
    """

    def __init__(
        self, folder: str, tracking_uri: str, experiment_name: str = "corbel", checkpoint: bool = True
    ):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.folder, self.checkpoint, place = Path(folder).absolute(), checkpoint, None
        if tracking_uri.startswith("sqlite:///"):
            file = Path(tracking_uri.removeprefix("sqlite:///")).absolute()
            place = (file.parent / "mlflow").as_uri()
        own, above = (_note(folder, tracking_uri) for folder in (self.folder, self.folder.parent))
        super().__init__(
            experiment_name,
            run_name="/".join(self.folder.parts[-2:]),
            tracking_uri=tracking_uri,
            tags={"mlflow.parentRunId": above} if above else None,
            artifact_location=place,
            run_id=own,
        )
        for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # tables that they make, second tries
            logging.getLogger(name).setLevel(logging.ERROR)
        self._waiting: list[Callable[[], Any]] = []
        self._silent_until = 0.0

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Make the run and log its parameters, or go on in it."""
        with _answering(self._tracking_uri):
            known = self._run_id is not None
            run_id = self.run_id
            if known:
                self._mlflow_client.update_run(run_id, status="RUNNING")
            else:
                self.log_hyperparams({FORBIDDEN.sub("_", k): v for k, v in _flat(parameters, ".").items()})
        write_json(self.folder / NOTE, {"tracking_uri": self._tracking_uri, "run_id": run_id})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send figures, now or when the server is back."""
        self._waiting.append(partial(super().log_metrics, dict(metrics), step))
        self._send()

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """End the run of a fit that failed; that of another one goes on until `finish`."""
        if status != "success" and self._initialized:
            self._waiting.append(partial(self._mlflow_client.set_terminated, self.run_id, "FAILED"))
            self._send(last=True)

    @rank_zero_only
    def finish(self, figures: Mapping[str, Any]) -> None:
        """Send the final figures and the folder's files, and end the run."""
        flat = {FORBIDDEN.sub("_", key): value for key, value in _flat(figures, "/").items()}
        numbers = {key: float(value) for key, value in flat.items() if isinstance(value, int | float)}
        self._waiting.append(partial(super().log_metrics, numbers))
        for file in _files(self.folder, self.checkpoint):
            part = file.parent.relative_to(self.folder).as_posix()
            place = None if part == "." else part.lstrip(".")
            self._waiting.append(partial(self._mlflow_client.log_artifact, self.run_id, str(file), place))
        self._waiting.append(partial(self._mlflow_client.set_terminated, self.run_id, "FINISHED"))
        self._send(last=True)

    def _send(self, last: bool = False) -> None:
        """Send what waits, in order, until something fails."""
        while self._waiting and (last or time.monotonic() >= self._silent_until):
            try:
                self._waiting[0]()
            except Exception as error:  # of MLflow, requests, SQLAlchemy: no training is lost for it
                if not self._silent_until:
                    words = "MLflow at %s does not answer; entries wait until it does (%s)"
                    log.warning(words, self._tracking_uri, _cause(error))
                self._silent_until = time.monotonic() + PAUSE
                break
            del self._waiting[0]
        if last and (count := len(self._waiting)):
            words = "MLflow at %s did not get %d entries, figures of epochs and files: %s has all of them"
            log.warning(words, self._tracking_uri, count, self.folder)


def _note(folder: Path, uri: str) -> str | None:
    note = read_json(folder / NOTE)
    return note.get("run_id") if note.get("tracking_uri") == uri else None


def _files(folder: Path, checkpoint: bool) -> list[Path]:
    """Return the files of a folder that belong to its run: tables, figures, pages, configuration, weights."""
    found = sorted(folder.glob("[!.]*.*"))
    found += [folder / ".hydra" / "config.yaml", *[folder / "checkpoints" / BEST] * checkpoint]
    return [
        f for f in found if f.is_file() and f.name != NOTE and not f.name.startswith("events.out.tfevents")
    ]


def _flat(node: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """Return the values of nested mappings, with their keys joined by a `mark`."""
    return pd.json_normalize(dict(node), sep=mark).to_dict("records")[0]


def tracked(loggers: DictConfig | None, folder: Path) -> list[MLflowRun]:
    """Return the MLflow runs of a folder that is no training's, as a configuration names them."""
    nodes = [node for node in logger_nodes(loggers).values() if node.get("tracking_uri")]
    return [build(OmegaConf.merge(node, {"folder": str(folder)})) for node in nodes]


class TrackedLeaderboard(Leaderboard):
    """The leaderboard of a sweep whose runs in MLflow are nested below one of its own."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin the run of the sweep; end here where that cannot be."""
        try:
            check_store(config.logger)
            given = [text.partition("=")[::2] for text in config.hydra.overrides.task]
            for run in tracked(config.logger, Path(config.hydra.sweep.dir)):
                run.begin(dict(given))
        except InputError as error:
            leave(2, str(error))  # Hydra makes a warning of an exception here

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the row of the job, then log the table."""
        super().on_job_end(config, job_return, **kwargs)
        folder = Path(job_return.hydra_cfg.hydra.runtime.output_dir).parent
        if (folder / NOTE).is_file():
            scores = [float(row["score"] or "nan") for row in self.rows(folder)]
            best = max((score for score in scores if math.isfinite(score)), default=None)
            for run in tracked(config.logger, folder):
                run.finish({"best_score": best, "jobs": len(scores)})
