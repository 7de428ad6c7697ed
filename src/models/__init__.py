from src.deferred import deferred
from src.models.files import find_checkpoint

__all__ = [
    "REGISTRY",
    "DualHeadClassifier",
    "MultiLabelClassifier",
    "PhotoClassifier",
    "find_checkpoint",
    "init_from",
    "load_model",
]

__getattr__ = deferred(
    __name__,
    {
        "REGISTRY": "src.models.checkpoint",
        "DualHeadClassifier": "src.models.classifiers",
        "MultiLabelClassifier": "src.models.classifiers",
        "PhotoClassifier": "src.models.base",
        "init_from": "src.models.checkpoint",
        "load_model": "src.models.checkpoint",
    },
)
