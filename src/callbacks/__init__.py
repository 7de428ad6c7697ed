from src.callbacks.checkpointing import AtomicCheckpointIO, BestCheckpoint, StopEarly
from src.callbacks.history import History
from src.callbacks.progress import Progress
from src.callbacks.tensorboard import TensorBoardFigures
from src.callbacks.tune_thresholds import TuneThresholds

__all__ = [
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "History",
    "Progress",
    "StopEarly",
    "TensorBoardFigures",
    "TuneThresholds",
]
