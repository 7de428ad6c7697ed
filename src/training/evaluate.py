"""Evaluation after a fit, and the files of a run: figures, predictions, report."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import pandas as pd
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from src.analysis.drawing import save
from src.analysis.evaluation import evaluation_folder as files
from src.analysis.evaluation.calibrated import ALL
from src.analysis.evaluation.measures import Evaluation, evaluate
from src.analysis.evaluation.mistakes import compared
from src.analysis.evaluation.telling import write_words
from src.analysis.figures import (
    class_distribution_figure,
    loss_curve_figure,
    reliability_figure,
    workload_figure,
)
from src.analysis.report.run_report import write_report
from src.callbacks.checkpointing import epochs_done
from src.callbacks.history import scored_split
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.split_figures import label_table
from src.errors import InputError, UnreadableImage
from src.files import write_csv, write_json, write_whole
from src.inference.batches import Backend, Photo, run_batches
from src.inference.features import results_from_features
from src.inference.output import write_rows
from src.inference.predictor import Predictor
from src.models.checkpoint import read_checkpoint
from src.models.classifiers import PhotoClassifier
from src.overrides import shown, typed
from src.process import Terminated
from src.runs import BEST, mean_of, read_run
from src.training.decide import Decisions
from src.training.distributed import ending_on_signals, inference_device
from src.training.setup import git_commit, versions
from src.training.trackers import MLflowRun

log = logging.getLogger(__name__)
TIMED = 6  # photos that are predicted one by one, the first to warm up


def finish_run(
    cfg: DictConfig, trainer: L.Trainer, model: PhotoClassifier, datamodule: PhotoDataModule, seconds: float
) -> float:
    """Evaluate best.ckpt and write everything else of the run's folder.

    Of several processes all evaluate, the main one writes.

    Returns:
        `val/f1` of best.ckpt, the score of a sweep; 0 where no validation photo has a label.

    Raises:
        InputError: if no epoch had a finite validation loss.
    """
    run = Path(cfg.output_dir)
    if trainer.fast_dev_run:
        log.info("fast_dev_run: the loops ran; nothing was kept")
        return float(trainer.callback_metrics["val/f1"])
    score = trainer.checkpoint_callback.best_model_score
    if score is None or not math.isfinite(score):
        if not trainer.is_global_zero:
            raise SystemExit(2)
        for logger in trainer.loggers:
            logger.finalize("failed")
        raise InputError(f"no epoch had a finite validation loss: lower model.lr (now {cfg.model.get('lr')})")
    best = run / "checkpoints" / BEST
    with ending_on_signals(trainer):
        begun = time.perf_counter()
        metrics = evaluated(trainer, model, datamodule, best)
        if trainer.is_global_zero:
            decisions = Decisions(cfg, trainer, best)
            metrics |= {split: metrics[split] | model.figures[split] for split in decisions.splits}
            predicting = time.perf_counter()
            device, workers = inference_device(cfg), datamodule.num_workers
            predictor = Predictor.load(best, device=device, num_workers=workers)
            write_predictions(run, datamodule, predictor)
            durations = {"fit": seconds, "evaluate": predicting - begun}
            durations["predict"] = time.perf_counter() - predicting
            metrics["run"] = run_facts(cfg, model, datamodule, best, trainer, durations)
            metrics["run"]["ms_per_photo"] = ms_per_photo(predictor.backend, datamodule)
            write_results(run, cfg, trainer, metrics, decisions)
    return float(metrics["val"]["f1_macro"] or 0)


def evaluated(
    trainer: L.Trainer, model: PhotoClassifier, datamodule: PhotoDataModule, best: Path
) -> dict[str, Any]:
    """Return the figures of a checkpoint on val and test, `{}` for a test split without photos."""
    losses, loggers, trainer.loggers = {}, trainer.loggers, []  # the curves show the fit alone
    splits = (("val", trainer.validate), ("test", trainer.test))[: 1 + bool(datamodule.splits["test"])]
    for split, loop in splits:
        (logged,) = loop(model, datamodule, ckpt_path=best, weights_only=True, verbose=False)
        losses[split] = logged[f"{split}/loss"]
        if trainer.received_sigterm:  # the next loop would forget it
            raise Terminated
    trainer.loggers = loggers
    return {"test": {}} | {split: {"loss": loss, **model.figures[split]} for split, loss in losses.items()}


def write_results(
    run: Path, cfg: DictConfig, trainer: L.Trainer, metrics: Mapping[str, Any], decisions: Decisions
) -> None:
    """Write the figures of a run in numbers and pictures, and print them."""
    model, datamodule = trainer.lightning_module, trainer.datamodule
    write_json(run / "metrics.json", metrics)
    if cfg.task == "multilabel":
        values = zip(model.labels.names, model.thresholds.tolist(), strict=True)
        write_json(run / "thresholds.json", dict(values))
        write_csv(run / "thresholds.csv", decisions.thresholds)
    tables = decisions.tables
    for name, table in tables.items():
        write_csv(run / files.FOLDER / f"{name}.csv", table)
    split = "test" if metrics["test"] else "val"
    found = evaluate(scored_split(model, datamodule, split), split=split)
    files.write_tables(found, run / files.FOLDER)
    if model.reads == "text":
        write_words(model, compared(read_run(run))[0], run / files.FOLDER)
    if cfg.task != "multilabel":
        copy_up(run, f"{files.CONFUSIONS}.txt")
    write_figures(run, found, datamodule, tables)
    log_hyperparameters(trainer, cfg, metrics, decisions)
    write_report(run, datamodule.root)
    for logger in trainer.loggers:
        if isinstance(logger, MLflowRun):
            logger.finish({"best": {split: metrics[split] for split in ("val", "test")}})
    print_figures(run, metrics)


def run_facts(
    cfg: DictConfig,
    model: PhotoClassifier,
    datamodule: PhotoDataModule,
    best: Path,
    trainer: L.Trainer,
    durations: Mapping[str, float],
) -> dict[str, Any]:
    """Return the `run` block of `metrics.json`."""
    content = read_checkpoint(best)
    return {
        "task": cfg.task,
        "model": model.kind,
        "backbone": cfg.model.get("backbone") or cfg.model.get("encoder"),
        "seed": cfg.seed,
        "devices": trainer.num_devices,
        "world_size": trainer.world_size,
        "epochs": trainer.current_epoch,
        "pruned": any(getattr(callback, "pruned", False) for callback in trainer.callbacks),
        "best_epoch": epochs_done(content),
        "best_score": model.figures["val"]["f1_macro"] or 0.0,
        "num_params": sum(p.numel() for p in model.parameters()),
        "checkpoint_mb": round(best.stat().st_size / 1e6, 2),
        "data_hash": datamodule.data_hash,
        "split_hash": datamodule.split_hash,
        "unreadable": len(datamodule.unreadable),
        "versions": versions(),
        "git": git_commit(),
        "durations": {name: round(seconds, 2) for name, seconds in durations.items()},
    }


def ms_per_photo(backend: Backend, datamodule: PhotoDataModule) -> float | None:
    """Return the median time from a photo's file to its labels, one by one; None without any."""
    predictor, times = Predictor(backend, batch_size=1), []
    photos = datamodule.splits["test"] or datamodule.splits["val"]
    while photos and len(times) < TIMED and sum(times) < 1:
        begun = time.perf_counter()
        record = photos[len(times) % len(photos)]
        photo, note = datamodule.root / record.path, record.text
        both = {"photo": photo, "note": note}
        try:
            predictor.predict({"photo": photo, "text": note, "both": both}[backend.reads])
        except UnreadableImage:  # moved since it was learned from: the figures come first
            break
        times.append(time.perf_counter() - begun)
    return round(1e3 * median(times[1:] or times), 1) if times else None


def write_predictions(run: Path, datamodule: PhotoDataModule, predictor: Predictor) -> None:
    """Write the test split's predictions with the same `Predictor` that `predict.py` uses.

    Photos that are decoded go through the batches of `predict.py` on `test_metadata.csv`: the same bytes.
    Where their features are kept, only the heads run again, and scores agree to 1e-6.
    """
    test = datamodule.splits["test"]
    order = sorted(range(len(test)), key=lambda i: test[i].path)
    photos = [Photo(test[i].id, test[i].path, datamodule.root, test[i].text) for i in order]
    if datamodule.features and test and predictor.backend.reads == "photo":
        rows = datamodule.features["test"][0].select(order)
        digests = [test[i].digest for i in order]
        results = results_from_features(predictor.backend, rows, digests, predictor.batch_size)
    else:
        results = run_batches(predictor.backend, photos, predictor.batch_size, predictor.num_workers)
    write_rows(run / "predictions.csv", predictor.columns(), predictor.rows(photos, results=results))


def copy_up(run: Path, name: str) -> None:
    """Copy a file of the run's evaluation into the run's folder itself."""
    write_whole(run / name, (run / files.FOLDER / name).read_bytes())


def write_figures(
    run: Path, found: Evaluation, datamodule: PhotoDataModule, tables: Mapping[str, pd.DataFrame]
) -> None:
    """Write the run's three PNG files, and those of its evaluation; the report shows the errors' photos."""
    files.write_pictures(found, run / files.FOLDER)
    parts = [ALL] if found.scored.multilabel else list(found.scored.labels.kinds)
    save(reliability_figure(tables["reliability"], parts), run / files.FOLDER / "reliability.png")
    workload = tables["workload"]
    save(workload_figure(workload[workload["label"] == ALL]), run / files.FOLDER / "workload.png")
    copy_up(run, f"{files.CONFUSIONS}.png")
    table = label_table(datamodule.splits, datamodule.labels).set_index("label")
    save(class_distribution_figure(table[["kind", "train", "val", "test"]]), run / "class_distribution.png")
    folder = read_run(run)
    save(loss_curve_figure(folder.history, folder.metrics["run"]["best_epoch"]), run / "loss_curve.png")


def log_hyperparameters(
    trainer: L.Trainer, cfg: DictConfig, metrics: Mapping[str, Any], decisions: Decisions
) -> None:
    """Fill TensorBoard's HParams tab, what was set and the best score, and show the thresholds."""
    given = trainer.lightning_module.hparams
    chosen = {
        f"model.{key}": given[key]
        for key in ("backbone", "freeze_backbone", "lr", "weight_decay", "schedule")
        if key in given
    }
    chosen |= {
        "seed": cfg.seed,
        "batch_size": trainer.datamodule.batch_size,
        "max_epochs": trainer.max_epochs,
    }
    if trainer.datamodule.reads == "photo":
        chosen["image_size"] = str(trainer.datamodule.preprocess.image_size)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            if cfg.task == "multilabel":
                logger.experiment.add_text("thresholds", _as_markdown(decisions.thresholds))
            logger.log_hyperparams(chosen, {"best_score": metrics["run"]["best_score"]})
            logger.finalize("success")


def _as_markdown(table: pd.DataFrame) -> str:
    """Return a table as TensorBoard shows it."""
    rows = [table.columns, ["---"] * len(table.columns), *table.round(4).to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def print_figures(run: Path, metrics: Mapping[str, Any]) -> None:
    """Print the figures of the run and where its files lie."""
    for split in ("val", "test"):
        figures = metrics[split]
        if not figures:
            continue
        values = {name: value for name, value in figures.items() if isinstance(value, float)}
        for kind, part in figures.items():
            if isinstance(part, dict) and "accuracy" in part:
                values[f"{kind} accuracy"] = part["accuracy"]
        words = {name: f"{name} {value:.4f}" for name, value in values.items() if value is not None}
        if over := mean_of(figures):
            words["f1_macro"] = f"{words.get('f1_macro', 'f1_macro undefined')} {over}"
        print(f"{split:4}  " + "  ".join(words.values()))
    run = shown(run)
    print(f"run   {run}")
    print(f"read  {run / 'report.html'}")
    both = "images=PHOTOS texts=NOTES.csv"
    kind = metrics["run"].get("model", "photo")
    what = both if kind == "photo_and_note" else "texts=NOTES.csv" if kind != "photo" else "images=PHOTOS"
    print(f"next  python scripts/predict.py {typed('ckpt', run)} {what} output=predictions.csv")
