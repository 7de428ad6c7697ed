from src.inference.batches import Photo, find_images, refuse_to_overwrite
from src.inference.predictor import Prediction, Predictor

__all__ = ["Photo", "Prediction", "Predictor", "find_images", "refuse_to_overwrite"]
