"""Several devices as one run: checks, equal data in all processes; the end of training by error or signal."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig

from src.datamodules.photo_datamodule import PhotoDataModule
from src.errors import InputError
from src.overrides import typed
from src.process import exit_code, interruption, launched, sigterm_raises
from src.runs import LAST

log = logging.getLogger(__name__)


def check_devices(cfg: DictConfig, trainer: L.Trainer, datamodule: PhotoDataModule) -> None:
    """Refuse settings that several devices cannot train with as one run."""
    world, started = trainer.world_size, launched()
    # Lightning takes the number of processes that a launcher started, not `trainer.devices`
    if started > 1 and started != trainer.num_devices * trainer.num_nodes:
        raise InputError(
            f"{started} processes were started for trainer.devices={trainer.num_devices} on "
            f"trainer.num_nodes={trainer.num_nodes}: as many as devices are needed, with trainer=ddp"
        )
    if world == 1:
        return
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise InputError(f"a sweep (-m) trains on one device, not on {world}: leave out trainer=ddp")
    if cfg.data.get("cache") == "features":
        raise InputError("data.cache=features: heads on cached features train on one device")
    if not isinstance(trainer.strategy, DDPStrategy) or not isinstance(
        trainer.strategy.launcher, _SubprocessScriptLauncher
    ):
        raise InputError(f"trainer.strategy={cfg.trainer.get('strategy')}: several devices need trainer=ddp")
    if cfg.trainer.get("use_distributed_sampler", True):
        raise InputError("trainer.use_distributed_sampler=true: Corbel deals the photos out itself; leave it")
    if trainer.num_nodes > 1 and not cfg.resume and not any("run.dir=" in o for o in hydra.overrides.hydra):
        raise InputError(f"{trainer.num_nodes} machines need one folder: add hydra.run.dir=FOLDER")
    for split, records in datamodule.splits.items():
        if 0 < len(records) < world:
            raise InputError(f"{split} has {len(records)} {datamodule.noun}s, fewer than {world} devices")


def inference_device(cfg: DictConfig) -> str:
    """Return the device on which a run's features and predictions are computed: that of its training."""
    return "cpu" if cfg.trainer.accelerator == "cpu" else "auto"


class OneRun(L.Callback):
    """Checks that all processes have the same photos, and ends each at once on SIGTERM.

    Lightning's own answer to SIGTERM is a collective call inside the signal handler, which deadlocks where it
    interrupts another one. `last.ckpt` is whole at any time, so nothing is lost by ending at once.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse processes whose photos, labels or split differ, as on machines with different copies."""
        if trainer.world_size == 1 or stage != "fit":
            return
        data = trainer.datamodule
        found: list[tuple[str, str] | None] = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, (data.data_hash, data.split_hash))
        others = [rank for rank, hashes in enumerate(found) if hashes != found[0]]
        if others and not trainer.is_global_zero:
            raise SystemExit(2)
        if others:
            raise InputError(f"the data or labels that process {others[0]} sees are others than here")
        world = trainer.world_size
        log.info("Training on %d devices, %d photos a step", world, world * data.batch_size)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's handler, which is in place by now, or has been put back."""
        _end_at_once(trainer)

    on_validation_start = on_test_start = on_train_start


def _end_at_once(trainer: L.Trainer) -> None:

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one is enough
        trainer._signal_connector.received_sigterm = True
        raise SIGTERMException

    if trainer.world_size > 1:
        signal.signal(signal.SIGTERM, end)


@contextmanager
def ending_together(trainer: L.Trainer) -> Iterator[None]:
    """End the processes that Lightning started in this one when it fails; torchrun and srun end theirs."""
    try:
        yield
    except BaseException:
        launcher = trainer.strategy.launcher
        children = list(getattr(launcher, "procs", ()))
        if children:
            launcher.procs.clear()  # Lightning's observer would kill this process as well
        for child in children:
            child.kill()
        raise


@contextmanager
def ending_on_signals(trainer: L.Trainer) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end the script with its exit code and how to go on.

    Lightning answers SIGTERM itself in its loops, after the step.
    """
    code = None
    try:
        with ending_together(trainer), sigterm_raises(lambda: trainer.received_sigterm):
            yield
    except BaseException as error:
        interrupted = interruption(error)
        by_lightning = isinstance(error, SystemExit) and error.code == 1  # its answer to Ctrl-C
        if not (trainer.received_sigterm or interrupted or by_lightning):
            _log_how_to_go_on(trainer, "Stopped")
            raise
        code = 128 + signal.SIGTERM if trainer.received_sigterm else exit_code(interrupted or error)
    if code or trainer.received_sigterm:
        _log_how_to_go_on(trainer, "Interrupted")
        raise SystemExit(code or 128 + signal.SIGTERM)


def _log_how_to_go_on(trainer: L.Trainer, what: str) -> None:
    folder = getattr(trainer.checkpoint_callback, "dirpath", None)  # a dry run has none
    last = Path(folder or "") / LAST
    if folder and last.is_file():
        go_on = f"python scripts/train.py {typed('resume', last.parent.parent)}"
        log.warning("%s; %s is whole. Continue with: %s", what, last, go_on)
    elif folder and what == "Interrupted":
        log.warning("Interrupted before the first checkpoint: start again")
