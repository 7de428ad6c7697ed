from src.inference.photos import Photo, find_images
from src.inference.predictor import Prediction, Predictor

__all__ = ["Photo", "Prediction", "Predictor", "find_images"]
