from src.datamodules.folders import FolderDataModule
from src.datamodules.photos import PhotoDataModule
from src.datamodules.table import TableDataModule

__all__ = ["FolderDataModule", "PhotoDataModule", "TableDataModule"]
