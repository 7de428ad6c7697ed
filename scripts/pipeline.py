"""Everything in one call: `python scripts/pipeline.py data.root=photos/ images=new_photos/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf, open_dict

from src import config


@config.command("pipeline")
def main(cfg: DictConfig) -> None:
    """Explore, split, train, evaluate, list the errors, predict; steps without new inputs are left out."""
    from hydra import compose

    from scripts import evaluate, explore, predict, train
    from src.files import user_path
    from src.inference.batches import find_images
    from src.models.backbones import fill_defaults
    from src.runs import read_run
    from src.training.pipeline import Pipeline, check_pipeline, data_digest, file_stamps, part, resumable

    folder, images = user_path(cfg.output or cfg.output_dir), cfg.images
    with open_dict(cfg):
        del cfg["output"], cfg["images"]
    config.photos_only(cfg, "pipeline.py")
    check_pipeline(fill_defaults(cfg))
    photos = find_images(images) if images else []
    config.demo_root(cfg)
    data = [part(cfg, "task", "data", "preprocess", "seed"), data_digest(config.build(cfg.data))]
    pipeline = Pipeline(folder, cfg.logger)

    def explored(place: Path) -> None:
        explore.main.__wrapped__(DictConfig({**cfg, "output": str(place)}))

    def trained(place: Path) -> None:
        train.main.__wrapped__(OmegaConf.merge(cfg, {"output_dir": str(place), "resume": resumable(place)}))

    def evaluated(place: Path) -> None:
        asked = {"ckpt": str(run), "output": str(place)}
        evaluate.main.__wrapped__(OmegaConf.merge(compose("evaluate"), asked))

    def predicted(place: Path) -> None:
        asked = {"ckpt": str(run), "images": images, "output": str(place / "predictions.csv"), "resume": True}
        predict.main.__wrapped__(OmegaConf.merge(compose("predict"), asked))

    pipeline.step("explore", data, explored)
    run = pipeline.step("train", [data, part(cfg, "model", "trainer", "callbacks")], trained, nested=False)
    found = read_run(run)
    pipeline.say("split", "by train: " + ", ".join(f"{n} {len(t)}" for n, t in found.splits.items()))
    pipeline.say("evaluate", f"by train: val/f1 {found.facts['best_score']:.4f}")
    pipeline.step("errors", [str(run), found.metrics], evaluated)
    if photos:
        pipeline.step("predict", [str(run), found.metrics, images, file_stamps(photos)], predicted)
    pipeline.finish(found.metrics)


if __name__ == "__main__":
    main()
