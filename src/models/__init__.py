from src.models.base import PhotoClassifier
from src.models.checkpoint import REGISTRY, find_checkpoint, init_from, load_model
from src.models.classifiers import DualHeadClassifier, MultiLabelClassifier

__all__ = [
    "REGISTRY",
    "DualHeadClassifier",
    "MultiLabelClassifier",
    "PhotoClassifier",
    "find_checkpoint",
    "init_from",
    "load_model",
]
