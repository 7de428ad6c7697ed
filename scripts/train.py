"""Train a classifier: `python scripts/train.py data.root=photos/`; `--help` lists everything."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config, overrides


@config.command("train")
def main(cfg: DictConfig) -> float:
    """Train, evaluate, report; return `val/f1` of the best checkpoint."""
    config.refuse_sweep_without_multirun()
    import lightning as L

    from src.callbacks import quiet_lightning
    from src.callbacks.results import (
        begin_run,
        claim,
        ending_on_signals,
        finish_run,
        make_trainer,
        resume_point,
    )
    from src.demo.at_hand import DEMO_ROOT, draw_when_missing, say_baseline
    from src.inference.features import one_thread, split_features
    from src.models import init_from

    quiet_lightning()
    resuming = bool(cfg.resume)
    cfg = overrides.resumed(cfg) if resuming else cfg
    config.check_targets(cfg)
    config.check_seed(cfg.seed)
    draw_when_missing(cfg.data.get("root"))
    L.seed_everything(cfg.seed, workers=True, verbose=False)

    datamodule = config.build(cfg.data)
    datamodule.setup()
    model = config.build(
        cfg.model, labels=datamodule.labels.as_dict(), class_weights=datamodule.class_weights()
    )
    if model.init_from:
        init_from(model, model.init_from, [record.digest for record in datamodule.splits["test"]])
    datamodule.prepare_data()
    if datamodule.cache == "features":
        datamodule.features = split_features(
            model, datamodule, "cpu" if cfg.trainer.accelerator == "cpu" else "auto"
        )

    run = Path(cfg.output_dir)
    ckpt, step = None, None
    if resuming:
        ckpt, step, datamodule.first_epoch = resume_point(run, datamodule, cfg.trainer.max_epochs)
    trainer = make_trainer(cfg, model, step)
    if not resuming:
        claim(run)
    if resuming:
        overrides.remember_resumed(cfg)
    begin_run(run, model, datamodule)
    begun = time.perf_counter()
    with ending_on_signals(trainer), one_thread(bool(datamodule.features)):
        trainer.fit(model, datamodule, ckpt_path=ckpt, weights_only=True)
    score = finish_run(cfg, trainer, model, datamodule, time.perf_counter() - begun)
    if cfg.data.get("root") == DEMO_ROOT and cfg.task == "dual_head" and datamodule.splits["test"]:
        say_baseline(datamodule.root, datamodule.splits)
    return score


if __name__ == "__main__":
    sys.argv = overrides.continue_in_place(overrides.demo_when_no_photos(sys.argv))
    main()
