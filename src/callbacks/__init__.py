from src.callbacks.checkpointing import AtomicCheckpointIO, BestCheckpoint, StopEarly
from src.callbacks.figures import TensorBoardFigures
from src.callbacks.history import History
from src.callbacks.progress import Progress
from src.callbacks.quiet import quiet_lightning
from src.callbacks.tune_thresholds import TuneThresholds

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "History",
    "Progress",
    "StopEarly",
    "TensorBoardFigures",
    "TuneThresholds",
    "quiet_lightning",
]
