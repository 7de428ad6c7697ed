"""`leaderboard.csv` next to the jobs of a sweep: one row per job, the best score first."""

import csv
import io
import math
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.files import read_json, write_whole
from src.process import is_main
from src.runs import mean_of

FIELDS = ("score", "job", "overrides", "status", "reason", "labels")


class Leaderboard(Callback):
    """Updates the leaderboard after each job of a sweep, and after a job that `resume=` continues."""

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
        rows = {row["job"]: row for row in _read(folder / "leaderboard.csv")}
        before = rows.get(job, {})
        if job_return.status == JobStatus.COMPLETED:
            evaluated = read_json(folder / job / "metrics.json").get("val", {})
            row = {"score": f"{job_return.return_value:.6f}", "status": "done", "reason": ""}
            row["labels"] = mean_of(evaluated)
        elif before.get("status") == "done":
            return
        else:
            reason = str(job_return._return_value).strip()
            row = {"score": "", "status": "failed", "reason": reason.splitlines()[0] if reason else ""}
        if given is None:  # a resumed job keeps its own
            given = before.get("overrides", "")
        rows[job] = {**row, "job": job, "overrides": given}
        ranked = sorted(rows.values(), key=lambda row: (-float(row["score"] or -math.inf), row["job"]))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(ranked)
        write_whole(folder / "leaderboard.csv", text.getvalue().encode())


def _read(file: Path) -> list[dict[str, str]]:
    """Return the rows of a leaderboard; none where there is no file yet."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        return [dict(row) for row in csv.DictReader(lines)]
