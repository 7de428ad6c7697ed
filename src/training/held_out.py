"""Scores of photos that heads have not learned from: they are fitted again for each fold."""

import copy

import lightning as L
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from scipy.sparse import vstack
from torch.utils.data import DataLoader

from src.analysis.evaluation.scored import Scored
from src.config import build
from src.datamodules.dataset import EpochSampler, FeatureDataset, balanced_weights, encoded_targets
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.record_datamodule import RecordDataModule
from src.datamodules.splits import label_matrix
from src.datamodules.stratify import split_groups
from src.inference.torch_backend import threads
from src.models.base import Classifier
from src.models.classifiers import PhotoClassifier
from src.models.text_classifier import TfidfClassifier
from src.row_store import Rows

FOLDS = 5
ROWS = 256  # texts whose features are dense at once


class BothSplits:
    """The features of training photos in a view, and those of validation photos, which have one view."""

    def __init__(self, train: Rows, val: Rows, kept: np.ndarray):
        self.train, self.val, self.kept = train, val, kept

    def take(self, index: np.ndarray) -> np.ndarray:
        """Return the features `[len(index), F]` of some of the photos kept."""
        rows, first = self.kept[index], len(self.train)
        found = np.empty((len(rows), *self.train.shape), np.float32)
        found[rows < first] = self.train.take(rows[rows < first])
        found[rows >= first] = self.val.take(rows[rows >= first] - first)
        return found


class StopAfter(L.Callback):
    """Ends a fit after a number of epochs of a longer schedule."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at the last one; forget what the module collected."""
        pl_module.collected["train"].reset()
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def folds_of(datamodule: PhotoDataModule, seed: int) -> np.ndarray | None:
    """Return the fold of each photo of train and val; None where a fold would leave too few to learn from."""
    records = datamodule.splits["train"] + datamodule.splits["val"]
    _, groups = np.unique([record.group for record in records], return_inverse=True)
    shares = [1.0] * min(FOLDS, groups.max() + 1)
    folds = split_groups(label_matrix(records)[1], groups, shares, seed, required=None)
    return folds if 2 * np.bincount(folds).max() <= len(records) else None


def scores_of_folds(
    cfg: DictConfig, model: PhotoClassifier, datamodule: PhotoDataModule, folds: np.ndarray, epochs: int
) -> Scored:
    """Return uncalibrated scores of train and val by heads that are fitted again for each fold.

    They learn from cached features as the run's heads did, for `epochs` epochs, from the photos of train and
    val in the other folds, which are about as many as the run's heads had.
    """
    train, val = datamodule.splits["train"], datamodule.splits["val"]
    records, views = train + val, datamodule.features["train"]
    targets = encoded_targets(records, model.labels, datamodule.multilabel, datamodule.partial)
    val_rows = datamodule.features["val"][0]
    scores = np.zeros((len(records), len(model.labels)), np.float32)
    if model.kind == "text_tfidf":
        return _scores_of_fitted(model, datamodule, folds, targets)
    with torch.random.fork_rng(devices=[]), threads(1):
        torch.default_generator.manual_seed(cfg.seed)
        if model.reads == "text":  # its encoder may be gone
            fresh = type(model)(**model.given)
        else:
            given = {"labels": model.labels.as_dict(), "class_weights": datamodule.class_weights()}
            fresh = build(OmegaConf.merge(cfg.model, {"weights": None}), **given)
        heads = {n: v.clone() for n, v in fresh.state_dict().items() if not n.startswith("backbone.")}
        for fold in np.unique(folds):
            kept, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            fresh.load_state_dict(heads, strict=False)
            rows = FeatureDataset([BothSplits(view, val_rows, kept) for view in views], targets[kept])
            weights = balanced_weights([records[i] for i in kept]) if datamodule.balanced else None
            _fit(fresh, rows, weights, cfg, epochs)
            features = BothSplits(views[0], val_rows, own).take(np.arange(len(own)))
            with torch.inference_mode():
                scores[own] = fresh.probabilities(fresh.classify(torch.from_numpy(features))).numpy()
    return _scored(model, datamodule, scores, targets)


def _scored(
    model: Classifier, datamodule: RecordDataModule, scores: np.ndarray, targets: torch.Tensor
) -> Scored:
    records = datamodule.splits["train"] + datamodule.splits["val"]
    names = zip(*((r.id, r.shown, r.group) for r in records), strict=True)
    return Scored(model.task, model.labels, *names, scores, targets.numpy())


def _scores_of_fitted(
    model: TfidfClassifier, datamodule: RecordDataModule, folds: np.ndarray, targets: torch.Tensor
) -> Scored:
    """Return the same of heads that scikit-learn fits."""
    matrix = vstack([datamodule.features[split][0].values for split in ("train", "val")]).tocsr()
    fresh, scores = copy.deepcopy(model), np.zeros((len(folds), len(model.labels)), np.float32)
    for fold in np.unique(folds):
        own = np.flatnonzero(folds == fold)
        fresh.fit_heads(matrix[folds != fold], targets[folds != fold].numpy())
        for part in np.array_split(own, -(-len(own) // ROWS)):
            with torch.inference_mode():
                logits = fresh.classify(torch.from_numpy(matrix[part].toarray()))
                scores[part] = fresh.probabilities(logits).numpy()
    return _scored(model, datamodule, scores, targets)


def _fit(
    fresh: PhotoClassifier,
    dataset: FeatureDataset,
    weights: torch.Tensor | None,
    cfg: DictConfig,
    epochs: int,
) -> None:
    """Train heads on the CPU as the run's were."""
    sampler = EpochSampler(len(dataset), cfg.seed, True, 0, cfg.data.batch_size, weights=weights)
    loader = DataLoader(dataset, cfg.data.batch_size, sampler=sampler, collate_fn=lambda batch: batch)
    trainer = L.Trainer(
        max_epochs=cfg.trainer.max_epochs,
        accumulate_grad_batches=cfg.trainer.get("accumulate_grad_batches", 1),
        gradient_clip_val=cfg.trainer.get("gradient_clip_val"),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[StopAfter(epochs)],
        use_distributed_sampler=False,
    )
    trainer.fit(fresh.train(), loader)  # it would keep the mode that scoring the fold before has left
    fresh.eval()
