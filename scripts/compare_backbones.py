"""Compare backbones, with the keys of train.py: `python scripts/compare_backbones.py data.root=photos/`."""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from src import config
from src.errors import InputError, leave

OWN, PHASES = ("backbones=", "rounds="), ("finetune=", "callbacks.finetuning.")


@config.command("compare_backbones")
def main(cfg: DictConfig) -> None:
    """Train heads, and with `finetune=` all layers, of each backbone; compare figures, time, size, memory."""
    from src.overrides import shown

    config.photos_only(cfg, "compare_backbones.py")
    given = [text for text in HydraConfig.get().overrides.task if not text.startswith(OWN)]
    if any(text.startswith("model.backbone=") for text in given) or not cfg.backbones:
        raise InputError("the backbones to compare are named as backbones=[resnet18,resnet50]")
    if cfg.rounds < 1:
        raise InputError(f"rounds={cfg.rounds}: needs at least 1")
    folder, method = (
        Path(cfg.output_dir).absolute(),
        HydraConfig.get().runtime.choices["finetune"] or "frozen",
    )
    heads = [*(text for text in given if not text.startswith(PHASES)), "finetune=frozen"]
    rows = swept(folder / "frozen", heads, cfg.backbones, cfg.rounds)
    if method != "frozen":
        rows += swept(folder / method, given, cfg.backbones, cfg.rounds)
    write(rows, folder)
    print(f"read   {shown(folder / 'backbones.csv')}, {shown(folder / 'backbones.png')}")
    if failed := [row["backbone"] for row in rows if row["reason"]]:
        leave(1, f"{len(failed)} training(s) failed, as backbones.csv says: {', '.join(failed)}")


def swept(folder: Path, words: list[str], backbones: list[str], rounds: int) -> list[dict]:
    """Train with each backbone, a sweep of train.py in a folder; return a row for each."""
    from src.overrides import override
    from src.runs import read_table

    words = [*words, f"model.backbone={','.join(backbones)}", override("hydra.sweep.dir", folder)]
    script = str(config.REPOSITORY / "scripts" / "train.py")
    done = subprocess.run([sys.executable, script, "-m", *words])
    board = read_table(folder / "leaderboard.csv")
    if board is None:  # what was wrong has been said
        raise SystemExit(done.returncode)
    return [row_of(folder / job["job"], job, rounds) for job in board.to_dict("records")]


def row_of(run: Path, job: dict, rounds: int) -> dict[str, object]:
    """Return the row of a job: its figures and costs, or why it failed."""
    from src.inference.cost import cost_of
    from src.runs import BEST, read_run

    given = dict(text.split("=", 1) for text in OmegaConf.load(run / ".hydra" / "overrides.yaml"))
    row = {"backbone": given["model.backbone"], "method": run.parent.name, "reason": job["reason"]}
    if job["status"] != "done":
        return row
    metrics = read_run(run).metrics
    for split in ("val", "test"):
        figures = metrics[split] or {"f1_macro": None, "exact_match": None}
        row |= {f"{split}_f1": figures["f1_macro"], f"{split}_accuracy": figures["exact_match"]}
    facts = metrics["run"]
    row |= {"parameters": facts["num_params"], "fit_s": facts["durations"]["fit"], "run": job["job"]}
    return row | cost_of(run / "checkpoints" / BEST, rounds)


def write(rows: list[dict], folder: Path) -> None:
    """Write the table and the figure, and print the table."""
    import pandas as pd

    from src.analysis.drawing import save
    from src.analysis.figures import cost_figure

    table = pd.DataFrame(rows)
    table = table[[name for name in table if name != "reason"] + ["reason"]].round(4)
    table.to_csv(folder / "backbones.csv", index=False, lineterminator="\n")
    save(cost_figure(table), folder / "backbones.png")
    print(table.drop(columns="reason").to_string(index=False))


if __name__ == "__main__":
    main()
