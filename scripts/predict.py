"""Write predictions: `python scripts/predict.py ckpt=RUN images=PHOTOS output=predictions.csv`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("predict")
def main(cfg: DictConfig) -> None:
    """Predict every photo; unreadable ones become rows with `status=error` and exit code 1."""
    from tqdm import tqdm

    from src.decisions.predictions import PredictionWriter
    from src.inference import Predictor, claim, find_images, refuse_to_overwrite
    from src.overrides import shown

    photos = find_images(cfg.images, cfg.root)
    threshold = OmegaConf.to_container(cfg.threshold) if OmegaConf.is_config(cfg.threshold) else cfg.threshold
    predictor = Predictor.load(
        cfg.ckpt,
        device=cfg.device,
        backend=cfg.backend,
        precision=cfg.precision,
        compile=cfg.compile,
        threshold=threshold,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
    )
    output = Path(cfg.output).expanduser() if cfg.output else Path(cfg.output_dir) / "predictions.csv"
    folder = output.is_dir() or str(cfg.output).endswith(("/", "\\"))
    output = output / "predictions.csv" if folder else output
    refuse_to_overwrite(output, photos, cfg.images, cfg.ckpt)
    if not cfg.output:
        claim(output)
    unreadable = 0
    with (
        PredictionWriter(output, predictor.columns(cfg.probabilities)) as writer,
        tqdm(total=len(photos), unit="photo", disable=None) as bar,
    ):
        for rows in predictor.rows(photos, cfg.probabilities):
            writer.write(rows)
            unreadable += sum(row["status"] == "error" for row in rows)
            bar.update(len(rows))
    print(f"{len(photos) - unreadable} photos predicted, {unreadable} unreadable: {shown(output)}")
    if unreadable:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
