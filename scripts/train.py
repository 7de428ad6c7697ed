"""Train a classifier: `python scripts/train.py data.root=photos/`; `--help` lists everything."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config, overrides, ranks, targets


@config.command("train")
def main(cfg: DictConfig) -> float:
    """Train, evaluate, report; return `val/f1` of the best checkpoint."""
    config.refuse_sweep_without_multirun()
    import lightning as L

    from src.callbacks import quiet_lightning
    from src.callbacks.prepare import alone_in, check_plan, prepare_run
    from src.callbacks.results import ending_on_signals, finish_run
    from src.demo.at_hand import draw_when_missing, say_baseline
    from src.inference.torch_backend import threads
    from src.models import init_from
    from src.models.base import set_full_precision
    from src.models.defaults import fill_defaults

    quiet_lightning()
    set_full_precision()
    resuming = bool(cfg.resume)
    cfg = overrides.resumed(cfg) if resuming else cfg
    targets.check_targets(fill_defaults(cfg))
    check_plan(cfg)
    run = Path(cfg.output_dir)
    with alone_in(run, resuming):
        draw_when_missing(cfg.data.get("root"))
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        datamodule = config.build(cfg.data)
        datamodule.setup()
        labels, weights = datamodule.labels.as_dict(), datamodule.class_weights()
        model = config.build(cfg.model, labels=labels, class_weights=weights)
        if model.init_from:
            init_from(model, model.init_from, [record.digest for record in datamodule.splits["test"]])

        trainer = prepare_run(cfg, model, datamodule)
        last = str(run / "checkpoints" / "last.ckpt") if resuming else None
        begun = time.perf_counter()
        with ending_on_signals(trainer), threads(1 if datamodule.features else None):
            trainer.fit(model, datamodule, ckpt_path=last, weights_only=True)
        score = finish_run(cfg, trainer, model, datamodule, time.perf_counter() - begun)
    if cfg.task == "dual_head":
        say_baseline(cfg.data.get("root"), datamodule.root, datamodule.splits)
    return score


if __name__ == "__main__":
    sys.argv = overrides.continue_in_place(overrides.demo_when_no_photos(ranks.share_a_folder(sys.argv)))
    main()
