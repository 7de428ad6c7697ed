"""Train a classifier: `python scripts/train.py data.root=photos/`; `--help` lists everything."""

import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config, overrides
from src.config_check import check_targets


@config.command("train")
def main(cfg: DictConfig) -> float:
    """Train, evaluate, report; return `val/f1` of the best checkpoint."""
    from src.inference.torch_backend import threads
    from src.models.backbones import fill_defaults
    from src.models.base import set_full_precision
    from src.runs import LAST, finished_score, was_interrupted
    from src.training.distributed import ending_on_signals
    from src.training.evaluate import finish_run
    from src.training.setup import alone_in, check_plan, model_and_data, prepare_run, quiet_lightning

    quiet_lightning()
    set_full_precision()
    run = Path(cfg.output_dir)
    if (score := finished_score(run)) is not None:
        return score
    if was_interrupted(run):
        cfg.resume = str(run)
    resuming = bool(cfg.resume)
    cfg = overrides.resumed(cfg) if resuming else cfg
    check_targets(fill_defaults(cfg))
    check_plan(cfg)
    with alone_in(run, resuming):
        model, datamodule = model_and_data(cfg)
        trainer = prepare_run(cfg, model, datamodule)
        last = str(run / "checkpoints" / LAST) if resuming else None
        begun = time.perf_counter()
        with ending_on_signals(trainer), threads(1) if datamodule.features else nullcontext():
            trainer.fit(model, datamodule, ckpt_path=last, weights_only=True)
        score = finish_run(cfg, trainer, model, datamodule, time.perf_counter() - begun)
    return score


if __name__ == "__main__":
    main()
