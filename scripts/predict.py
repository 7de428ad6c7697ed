"""Write predictions: `python scripts/predict.py ckpt=RUN images=PHOTOS output=predictions.csv`, or texts=."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("predict")
def main(cfg: DictConfig) -> None:
    """Predict photos or texts, all or a shard; an unreadable one is a row with its error, exit code 1."""
    from src.inference.batches import find_items, newest_for, refuse_to_overwrite
    from src.inference.output import Output, find_columns, find_output, find_shard, make_manifest
    from src.inference.predictor import Predictor
    from src.inference.ray_engine import RayResults, check_engine
    from src.overrides import shown
    from src.parallel import ProgressBar
    from src.runs import find_checkpoint, run_of

    check_engine(cfg.engine, cfg.shard)
    shard = find_shard(cfg.shard)
    output = find_output(cfg.output, cfg.output_dir, cfg.resume, cfg.shard)
    threshold = OmegaConf.to_container(cfg.threshold) if OmegaConf.is_config(cfg.threshold) else cfg.threshold
    checkpoint = find_checkpoint(cfg.ckpt, tasks=newest_for(cfg.images, cfg.texts))
    photos = find_items(cfg.images, cfg.texts, cfg.root, run_of(checkpoint))
    if checkpoint.suffix.lower() != ".onnx":
        from src.models.base import set_full_precision

        set_full_precision()
    given = ("batch_size", "precision", "compile", "miss")
    settings = {"threshold": threshold, **{key: cfg[key] for key in given}}
    options = {**settings, **{key: cfg[key] for key in ("device", "backend", "num_workers", "tta")}}
    predictor = Predictor.load(checkpoint, **options)
    predictor.backend.check_items(cfg.images, cfg.texts, photos)
    refuse_to_overwrite(output, photos, cfg.images, cfg.texts, cfg.ckpt)
    if cfg.spreadsheet_safe:  # else left out: jobs before this key go on
        settings["spreadsheet_safe"] = True
    columns, arithmetic = predictor.columns(cfg.probabilities), predictor.backend.arithmetic
    if renamed := find_columns(cfg.columns, columns):
        settings["renamed"] = renamed
    manifest = make_manifest(checkpoint, photos, columns, arithmetic=arithmetic, **settings)
    out = Output(output, photos, manifest, shard, cfg.resume)
    results = predictor.results
    if cfg.engine == "ray" and out.done < out.total:
        results = RayResults(checkpoint, predictor, manifest, **options)
    with ProgressBar("Predicting", out.total, "photos" if cfg.images else "texts", out.done) as bar:
        for count in out.written(lambda some: predictor.rows(some, cfg.probabilities, results(some))):
            bar.update(count)
    print(f"{out.summary}: {shown(output)}")
    if out.exit_code:
        raise SystemExit(out.exit_code)


if __name__ == "__main__":
    main()
