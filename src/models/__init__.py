from src.deferred import deferred

__all__ = [
    "REGISTRY",
    "DualHeadClassifier",
    "MultiLabelClassifier",
    "PhotoClassifier",
    "init_from",
    "load_model",
]

__getattr__ = deferred(
    __name__,
    {
        "REGISTRY": "src.models.checkpoint",
        "DualHeadClassifier": "src.models.classifiers",
        "MultiLabelClassifier": "src.models.classifiers",
        "PhotoClassifier": "src.models.image",
        "init_from": "src.models.checkpoint",
        "load_model": "src.models.checkpoint",
    },
)
