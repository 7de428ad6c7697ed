from src.inference.photos import Photo, claim, find_images, refuse_to_overwrite
from src.inference.predictor import Prediction, Predictor

__all__ = ["Photo", "Prediction", "Predictor", "claim", "find_images", "refuse_to_overwrite"]
