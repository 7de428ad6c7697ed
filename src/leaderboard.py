"""`leaderboard.csv` beside the jobs of a sweep: a row per job, the best score first."""

import csv
import math
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Leaderboard(Callback):
    """Rewrites the leaderboard after each job, so that a sweep that is stopped leaves what it knows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Add the job's row; single runs have no leaderboard."""
        if "MULTIRUN" not in str(job_return.hydra_cfg.hydra.mode):
            return
        failed = job_return.status != JobStatus.COMPLETED
        reason = str(job_return._return_value).strip() if failed else ""
        score = None if failed else job_return.return_value
        self.rows.append(
            {
                "score": "" if score is None else f"{score:.6f}",
                "job": job_return.hydra_cfg.hydra.job.num,
                "overrides": " ".join(job_return.overrides or ()),
                "status": "failed" if failed else "done",
                "reason": reason.splitlines()[0] if reason else "",
            }
        )
        self.rows.sort(key=lambda row: (-float(row["score"] or -math.inf), row["job"]))
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
