"""Run setup: checks, folder lock, trainer, metadata."""

import logging
import platform
import re
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf

from src.callbacks.checkpointing import AtomicCheckpointIO, BestCheckpoint, epochs_done
from src.config import REPOSITORY, build, demo_root
from src.datamodules.photo_datamodule import PhotoDataModule
from src.errors import InputError, did_you_mean
from src.files import file_lock, write_json, write_whole
from src.inference.batches import trained_sizes
from src.inference.features import split_features
from src.inference.fusion_backend import fusion_features
from src.inference.text_backend import text_features
from src.models.checkpoint import init_from, load_model, read_checkpoint
from src.models.classifiers import PhotoClassifier
from src.overrides import save_config, typed
from src.process import is_main, launched
from src.runs import LAST, LOCK
from src.training.decide import check_thresholds
from src.training.distributed import OneRun, check_devices, inference_device
from src.training.trackers import MLflowRun, check_store, logger_nodes

log = logging.getLogger(__name__)
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")  # with weights in float32, as what predicts
WHOLE = "validation runs once after each epoch; leave it alone"
FIXED = {
    "limit_test_batches": (1.0, "a run is tested on its whole test split; leave it alone"),
    "overfit_batches": (0.0, "it would not shuffle; use +trainer.limit_train_batches"),
    "max_steps": (-1, "a run is counted in whole epochs; use trainer.max_epochs"),
    "check_val_every_n_epoch": (1, WHOLE),
    "val_check_interval": (1.0, WHOLE),
}
PATIENCE = 15.0  # seconds that the loader workers of a killed process need to end
PACKAGES = ("torch", "torchvision", "timm", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")


class NoAdverts(logging.Filter):
    """Drops Lightning's tips for its own products, and its notes on accelerators and signals."""

    PHRASES = re.compile(
        "💡|litlogger|litmodels|[GTH]PU available|Loaded model weights|Restor(ing|ed all) states|weights_only"
        "|stopped: `max_epochs|LOCAL_RANK|Initializing distributed|All distributed processes registered"
        "|to estimate number of stepping batches|Received SIGTERM|Detected KeyboardInterrupt"
    )

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record may pass."""
        return not (record.name.startswith("lightning") and self.PHRASES.search(record.getMessage()))


def quiet_lightning() -> None:
    """Let Lightning's messages pass through the script's own handlers once, without adverts."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, NoAdverts) for known in handler.filters):
            handler.addFilter(NoAdverts())
    for phrase in (
        "does not have many workers|Checkpoint directory .* exists and is not empty|pin_memory",
        "The number of training batches.*is smaller than the logging interval|You are using `torch.load`",
        "`isinstance.treespec, LeafSpec.` is deprecated|lr_scheduler.step.*before.*optimizer.step",
        "module.s. in eval mode at the start of training|have no .val_dataloader",
    ):
        warnings.filterwarnings("ignore", message=f".*({phrase}).*")


def check_plan(cfg: DictConfig) -> None:
    """Refuse settings that cannot work, before photos are read."""
    hydra = HydraConfig.get()
    sweep, multirun = hydra.runtime.choices.get("sweep"), hydra.mode == RunMode.MULTIRUN
    if sweep and not multirun:  # Hydra would ignore the search space
        raise InputError(f"sweep={sweep} needs -m: python scripts/train.py -m sweep={sweep} ...")
    if multirun and any(given.startswith("resume=") for given in hydra.overrides.task):
        raise InputError("resume= continues one run: leave out -m")
    if launched() > 1 and not cfg.resume and not any("run.dir=" in given for given in hydra.overrides.hydra):
        raise InputError("processes that torchrun or srun starts need one folder: add hydra.run.dir=FOLDER")
    if (epochs := cfg.trainer.get("max_epochs")) is None or epochs < 1:
        raise InputError(
            f"trainer.max_epochs={'null' if epochs is None else epochs}: needs at least one epoch"
        )
    precision = str(cfg.trainer.get("precision", "32-true"))
    if precision not in PRECISIONS:
        raise InputError(f"trainer.precision={precision}: {did_you_mean(precision, PRECISIONS)}")
    check_store(cfg.logger)
    model = cfg.model
    untrained = model.get("weights", "") is None and model.get("init_from") is None and not cfg.resume
    if model.get("freeze_backbone") and untrained:
        log.warning(
            "The frozen backbone has random weights (model.weights=null): its features tell little; take "
            "model.weights=DEFAULT, or model.freeze_backbone=false model.backbone_lr_factor=1"
        )
    heads = OmegaConf.select(cfg, "callbacks.finetuning.head_epochs")
    if heads and heads >= epochs:
        raise InputError(
            f"callbacks.finetuning.head_epochs={heads}: the backbone would never learn in "
            f"trainer.max_epochs={epochs}"
        )
    check_cache(cfg)


def check_cache(cfg: DictConfig) -> None:
    """Refuse cached features where the backbone learns, or where photos are needed."""
    if cfg.data.get("cache") != "features":
        return
    if not cfg.model.get("freeze_backbone"):
        raise InputError(
            "data.cache=features needs model.freeze_backbone=true: a backbone that learns sees something "
            "else in every step (data.cache=images works with any)"
        )
    if cfg.model.get("cutmix"):
        raise InputError(
            "model.cutmix mixes photos, which data.cache=features has no more: data.cache=images"
        )


@contextmanager
def alone_in(run: Path, resuming: bool) -> Iterator[None]:
    """Hold the lock of a run's folder; remove the temporary files of a killed process.

    Raises:
        InputError: if it holds another run, or another process has the lock; a resumed run waits for a while,
            as the workers of a killed one end later.
    """
    if not is_main():
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with file_lock(run / LOCK, PATIENCE if resuming else 0.0) as alone:
        if not alone:
            cure = "wait for it, or end it" if resuming else "start this one again"
            raise InputError(f"{run}: another process is training there, or not quite ended yet: {cure}")
        if not resuming and any(run.glob("checkpoints/*.ckpt")):
            go_on = typed("resume", run)
            raise InputError(f"{run} already holds a run: start this one again, or continue it with {go_on}")
        if resuming:
            for left in (*run.glob(f".*.{'[0-9a-f]' * 32}.tmp"), *(run / "checkpoints").glob(".*.tmp")):
                left.unlink()
        yield


def make_trainer(cfg: DictConfig, model: PhotoClassifier, since: int | None) -> L.Trainer:
    """Return the trainer of a run; `since` is the step that a resumed one goes on from."""
    loggers = []
    for node in logger_nodes(cfg.logger).values():
        purge = since is not None and str(node["_target_"]).endswith("TensorBoardLogger")
        loggers.append(build(node, **({"purge_step": since} if purge else {})))
    callbacks = [build(callback) for callback in cfg.callbacks.values() if callback]
    if not loggers:  # a rate that nothing takes
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    trainer = build(
        cfg.trainer,
        callbacks=[*callbacks, OneRun()],
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
    )
    if cfg.trainer.get("precision") == "16-mixed" and trainer.strategy.root_device.type == "cpu":
        raise InputError("trainer.precision=16-mixed needs a GPU: take bf16-mixed, or 32-true")
    check_trainer(trainer, model)
    return trainer


def check_trainer(trainer: L.Trainer, model: PhotoClassifier) -> None:
    """Refuse what the figures per epoch, the thresholds or the order of the photos could not follow."""
    if not isinstance(trainer.checkpoint_callback, BestCheckpoint) and not trainer.fast_dev_run:
        raise InputError("callbacks.checkpoint: a run needs src.callbacks.checkpointing.BestCheckpoint")
    known = [f"{split}/{name}" for split in ("val", "train") for name in model.logged]
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor and monitor not in known:
            raise InputError(f"{type(callback).__name__}.monitor={monitor}: {did_you_mean(monitor, known)}")
    for name in ("limit_train_batches", "limit_val_batches"):
        if not getattr(trainer, name):
            raise InputError(f"trainer.{name}=0: needs at least one batch")
    for name, (value, reason) in {} if trainer.fast_dev_run else FIXED.items():
        given = getattr(trainer, name)
        if given != value or type(given) is not type(value):  # 1.0 are all batches, 1 is one
            raise InputError(f"trainer.{name}={given}: {reason}")


def model_and_data(cfg: DictConfig) -> tuple[PhotoClassifier, PhotoDataModule]:
    """Return the model, with the weights it starts from, and the photos, read and split."""
    check_modality(cfg)
    demo_root(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = build(cfg.data)
    datamodule.setup()
    last = Path(cfg.output_dir) / "checkpoints" / LAST
    if cfg.resume and cfg.model.get("encoder") and last.is_file():  # which may be gone
        model = load_model(last).train()
    else:
        model = build(cfg.model, labels=datamodule.labels.as_dict(), class_weights=datamodule.class_weights())
    datamodule.partial = model.partial
    if model.reads == "text":
        model.learn_vocabulary([record.text for record in datamodule.splits["train"]])
    if model.init_from:
        init_from(model, model.init_from, [record.digest for record in datamodule.splits["test"]])
    return model, datamodule


def check_modality(cfg: DictConfig) -> None:
    """Refuse photos for a model of texts, and the reverse."""
    texts, of_photos = ".text." in str(cfg.data._target_), bool(cfg.preprocess)
    both = "PhotoNote" in str(cfg.data._target_)
    if both != str(cfg.model._target_).endswith("photo_and_note"):
        raise InputError(
            "model=photo_and_note brings its own data, which no other model takes: leave out data="
        )
    if cfg.data.get("balanced") and str(cfg.model._target_).endswith("text_tfidf"):
        raise InputError("data.balanced draws batches, and text_tfidf has none: take data.class_weights")
    if texts and of_photos:
        raise InputError("data=text needs a model of texts: model=text_tfidf or model=text_transformer")
    if not (texts or of_photos or both):
        raise InputError(f"{cfg.model._target_.rpartition('.')[2]} needs texts: data=text data.csv=notes.csv")


def prepare_run(cfg: DictConfig, model: PhotoClassifier, datamodule: PhotoDataModule) -> L.Trainer:
    """Fill the caches, take the run's folder, write its first files, and return its trainer."""
    run, since = Path(cfg.output_dir), None
    if cfg.resume:
        since = resume_point(run, model, datamodule, cfg.trainer.max_epochs)
    check_thresholds(cfg, model, datamodule)
    trainer = make_trainer(cfg, model, since)
    check_devices(cfg, trainer, datamodule)
    if model.reads == "text" and model.hparams["freeze_backbone"]:
        datamodule.features = text_features(model, datamodule)
    elif model.reads == "both":
        datamodule.features = fusion_features(model, datamodule, inference_device(cfg))
    elif datamodule.cache == "features":
        datamodule.features = split_features(model, datamodule, cfg.trainer.max_epochs, inference_device(cfg))
    if not trainer.is_global_zero:
        return trainer
    if launched() == trainer.num_nodes == 1:  # else Lightning does, and lets the others wait
        datamodule.prepare_data()
    save_config(cfg)
    begin_run(run, model, datamodule, resuming=bool(cfg.resume))
    for logger in trainer.loggers:
        if isinstance(logger, MLflowRun):
            logger.begin(OmegaConf.to_container(cfg, resolve=True))
    return trainer


def begin_run(run: Path, model: PhotoClassifier, datamodule: PhotoDataModule, resuming: bool) -> None:
    """Log the tables, write the split and the classes, and give the model its provenance."""
    datamodule.log_tables()
    if not resuming or not (run / "classes.json").is_file():  # else its split has been compared
        datamodule.write_metadata(run)
    (run / "metrics.json").unlink(missing_ok=True)  # of a resumed run: it is not finished any more
    write_json(run / "classes.json", datamodule.labels.as_dict())
    write_json(run / "split_certificate.json", datamodule.certificate)
    write_whole(run / ".hydra" / "data_root.txt", f"{datamodule.root.absolute()}\n".encode())
    model.provenance = {
        "versions": versions(),
        "git": git_commit(),
        "split_hash": datamodule.split_hash,
        "data_hash": datamodule.data_hash,
        **_trained_on(model, datamodule),
    }


def _trained_on(model: PhotoClassifier, datamodule: PhotoDataModule) -> dict[str, object]:
    """Return what tells the photos that the model is trained on, those of the run it starts from included."""
    before = model.provenance
    digests = {record.digest for record in datamodule.splits["train"]}
    sizes, earlier = datamodule.sizes(), trained_sizes(before)
    digests.discard("")
    return {
        "train_digests": sorted(digests.union(before.get("train_digests", ()))),
        "train_sizes": None if earlier is None else sorted(sizes | earlier),
        "initialised": model.init_from is not None or bool(before.get("initialised")),
        "backbone_trained": not model.hparams["freeze_backbone"] or bool(before.get("backbone_trained")),
    }


def resume_point(run: Path, model: PhotoClassifier, datamodule: PhotoDataModule, max_epochs: int) -> int:
    """Give the model the weights of `last.ckpt`, the datamodule its epochs; return the step to go on from.

    Raises:
        InputError: if photos, labels or split have changed.
    """
    last = run / "checkpoints" / LAST
    content = read_checkpoint(last)
    anew = f" with {typed('model.init_from', run)}" if model.reads == "photo" else ""
    for name in ("split_hash", "data_hash"):
        if content["provenance"].get(name) != getattr(datamodule, name):
            raise InputError(
                f"resume={run}: {datamodule.noun}s, labels or their split have changed ({name} differs), so "
                f"it cannot go on as it was; start a new run{anew}"
            )
    done = epochs_done(content)
    if done > max_epochs:
        raise InputError(f"resume={run}: {done} epochs are trained already, trainer.max_epochs={max_epochs}")
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])  # what features are computed with
    model.provenance = content["provenance"]
    datamodule.first_epoch = done
    return int(content["global_step"])


def versions() -> dict[str, str]:
    """Return the versions that figures can depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_commit() -> str | None:
    """Return the commit of this code, with `-dirty` where files have changed; None outside a repository."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
