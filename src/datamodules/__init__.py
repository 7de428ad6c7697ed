from src.deferred import deferred

__all__ = ["FolderDataModule", "PhotoDataModule", "TableDataModule"]

__getattr__ = deferred(
    __name__,
    {
        "FolderDataModule": "src.datamodules.folders",
        "PhotoDataModule": "src.datamodules.photo_datamodule",
        "TableDataModule": "src.datamodules.table",
    },
)
