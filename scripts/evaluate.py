"""Evaluate a model: `python scripts/evaluate.py ckpt=RUN [data.root=photos/ | data.csv=labels.csv]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from omegaconf import DictConfig, OmegaConf

from src import config


@config.command("evaluate")
def main(cfg: DictConfig) -> None:
    """Score labelled photos, the run's own test split by default, and write the figures and the errors."""
    from src.analysis.evaluation import evaluation_folder as files
    from src.analysis.evaluation.calibrated import noisy_labels_of_run
    from src.analysis.evaluation.labelled import labelled_photos, newest_for, scored_photos
    from src.analysis.evaluation.measures import evaluate
    from src.analysis.evaluation.telling import telling_words
    from src.files import user_path
    from src.inference.predictor import Predictor
    from src.overrides import shown
    from src.runs import find_checkpoint, run_of

    folder = user_path(cfg.output or cfg.output_dir)
    checkpoint = find_checkpoint(cfg.ckpt, tasks=newest_for(cfg.data))
    if checkpoint.suffix.lower() == ".ckpt":
        from src.models.base import set_full_precision

        set_full_precision()
    threshold = OmegaConf.to_container(cfg.threshold) if OmegaConf.is_config(cfg.threshold) else cfg.threshold
    predictor = Predictor.load(
        checkpoint,
        device=cfg.device,
        backend=cfg.backend,
        precision=cfg.precision,
        tta=cfg.tta,
        threshold=threshold,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
    )
    photos = labelled_photos(cfg, predictor, checkpoint)
    root, of_texts = photos.root, predictor.backend.reads == "text"
    files.check_folder(folder, root)
    if cfg.explain and not of_texts:  # an exported model is evaluated without torch
        from src.analysis.evaluation.worst_errors import Explainer

        explainer = Explainer(predictor, checkpoint, cfg.root, cfg.device)
    noisy = noisy_labels_of_run(run_of(checkpoint), predictor.task, predictor.labels)
    scored = scored_photos(predictor, photos)
    about = {"ckpt": shown(checkpoint).as_posix(), "source": photos.source, "tta": cfg.tta}
    found = evaluate(scored, cfg.resamples, **about)
    files.write_tables(found, folder)
    files.write_pictures(found, folder, root, predictor.preprocess.sample_bits)
    worst = telling = None
    if cfg.explain and of_texts:
        telling = telling_words(predictor.backend.model, found.mistakes, cfg.explain)
    elif cfg.explain:
        worst = explainer.explain(found.mistakes, cfg.explain, root)
    extras = files.write_extras(folder, noisy, worst, telling)
    read = f"read  {shown(folder.absolute())}"
    print("\n".join([photos.source, *files.summary_lines(found, predictor.backend.noun), *extras, read]))


if __name__ == "__main__":
    main()
