"""Find a learning rate: `python scripts/find_lr.py data.root=photos/`, with the keys of train.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig

from src import config
from src.config_check import check_targets
from src.errors import InputError


@config.command("find_lr")
def main(cfg: DictConfig) -> None:
    """Train some batches at rising learning rates, write and draw the losses, and suggest `model.lr`."""
    from src.analysis.drawing import save
    from src.analysis.figures import learning_rate_figure
    from src.inference.features import split_features
    from src.models.backbones import fill_defaults
    from src.models.base import set_full_precision
    from src.overrides import shown
    from src.training.distributed import inference_device
    from src.training.find_lr import LearningRateRange
    from src.training.setup import check_cache, model_and_data, quiet_lightning

    quiet_lightning()
    set_full_precision()
    if "lr" not in cfg.model:
        raise InputError(f"model={cfg.name} has no learning rate: nothing to find")
    check_targets(fill_defaults(cfg))
    check_cache(cfg)
    cfg.trainer.max_epochs = cfg.steps  # of a step or more
    cfg.model.schedule = "constant"  # the test sets the rates
    test = LearningRateRange(cfg.low, cfg.high, cfg.steps)
    model, datamodule = model_and_data(cfg)
    if datamodule.cache == "features":
        datamodule.features = split_features(model, datamodule, 1, inference_device(cfg))
    datamodule.prepare_data()
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = config.build(cfg.trainer, callbacks=[test], limit_val_batches=0, **off)
    trainer.fit(model, datamodule)
    folder = Path(cfg.output_dir)
    test.table.to_csv(folder / "learning_rates.csv", index=False, lineterminator="\n")
    save(learning_rate_figure(test.table, test.suggestion), folder / "learning_rates.png")
    print(f"lr     model.lr={test.suggestion:.2g}, where the loss falls fastest")
    print(f"read   {shown(folder / 'learning_rates.png')}")


if __name__ == "__main__":
    main()
