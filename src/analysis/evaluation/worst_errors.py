"""The worst errors as pictures: the area that the model saw, and the training photos that are most alike."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image, ImageFilter

from src.analysis.audit.suspects import NEAREST, unit_rows
from src.analysis.evaluation.labelled import photos_of_split
from src.analysis.evaluation.mistakes import COLUMNS, Row
from src.analysis.explore.photo_figures import photo_grid_figure
from src.analysis.pages import label_names, thumbnail
from src.datamodules.inspection import inspect_photos
from src.datamodules.records import Record
from src.errors import InputError
from src.files import user_path
from src.images import open_image
from src.inference.batches import Backend
from src.inference.features import extract_features
from src.inference.grad_cam import grad_cam
from src.inference.heat_maps import as_heat, over_photo, spread
from src.inference.predictor import Predictor
from src.inference.torch_backend import TorchBackend
from src.models.checkpoint import load_model
from src.runs import BEST, run_of

SHARE, DRAWS = 0.2, 8  # of a photo is blurred; random areas of that size
DROPS = ["faithfulness_drop", "random_drop"]
NEAR = [f"nearest_{n + 1}{part}" for n in range(NEAREST) for part in ("", "_labels", "_cosine")]


class Explainer:
    """Explains errors of a model by its maps, and by the photos that its run was trained on.

    Args:
        predictor: the model.
        checkpoint: its file, in a run.
        root: where the run's photos are now; None: as the run noted it down. Those that are gone, or have
            changed since, are left out.
        device: for the backbone.

    Raises:
        InputError: no run, none of its photos, no map of this model, or no library for it.
    """

    def __init__(self, predictor: Predictor, checkpoint: Path, root: str | None, device: str):
        self.predictor, self.device, run = predictor, device, run_of(checkpoint)
        backend, pixels = predictor.backend, predictor.preprocess
        by_torch = isinstance(backend, TorchBackend)
        if run is None:
            raise InputError(
                f"explain=: no run is around {checkpoint}, whose training photos it compares with"
            )
        if by_torch and find_spec("pytorch_grad_cam") is None:
            raise InputError('explain= needs Grad-CAM: python -m pip install -e ".[explain]"')
        no_map = not by_torch and backend.maps(np.zeros((1, *pixels.shape), np.uint8))[1] is None
        if pixels.tiles or no_map:
            raise InputError(f"explain=: {checkpoint} has no map of the whole photo; leave it out")
        self.model = load_model(checkpoint if by_torch else run / "checkpoints" / BEST)
        found, config = photos_of_split(run, "train", predictor, root), run / ".hydra" / "config.yaml"
        data = OmegaConf.load(config).data if config.is_file() else {}
        self.cache = user_path(data.cache_dir) if data.get("cache") == "features" else None
        self.root, paths = found.photos[0].root, [photo.path for photo in found.photos]
        stats = inspect_photos(self.root, paths, pixels.decode_size, self.cache, pixels.sample_bits)
        self.trained = [
            Record(photo.id, photo.path, labels, digest=known.digest)
            for photo, labels, known in zip(found.photos, found.labels, stats, strict=True)
            if known.digest and known.digest in (backend.trained_on or (known.digest,))
        ]
        if not self.trained:
            raise InputError(f"explain=: {self.root} holds no photo that the run was trained on: root=FOLDER")

    def explain(self, errors: Sequence[Row], root: Path) -> tuple[pd.DataFrame, Figure]:
        """Return a table and a figure of errors on photos below `root`: see docs/evaluation.md."""
        table, pictures, predictor = [], [], self.predictor
        nearest = self._nearest([row[0] for row in errors], root) if errors else []
        for row, near in zip(errors, nearest, strict=True):
            path, true, said, sure, _ = row
            pixels, label = predictor.preprocess(root / path), predictor.labels.position(said or true)
            if isinstance(predictor.backend, TorchBackend):
                heat = grad_cam(predictor.backend, pixels, label)
            else:
                heat = as_heat(predictor.backend.maps(pixels[None])[1][0, label])
            drops = faithfulness(predictor.backend, pixels, label, heat)
            photo = self._picture(root, path)
            over = over_photo(predictor.preprocess, Image.fromarray(photo), pixels, heat)
            here = "{}: {:+.2f} if blurred here, {:+.2f} elsewhere".format(said or true, *(-d for d in drops))
            pictures.append((photo, f"{true or 'nothing'}, said {said or 'nothing'} {sure:.2f}"))
            pictures.append((np.asarray(over), here if heat.any() else f"nothing speaks for {said or true}"))
            cells = []
            for record, cosine in near:
                names = label_names(record.labels)
                cells += [record.path, ";".join(names), cosine]
                words = f"{cosine:.2f} {', '.join(names) or 'nothing'}"
                pictures.append((self._picture(self.root, record.path), words))
            pictures += [(np.full((1, 1, 3), 255, np.uint8), "")] * (NEAREST - len(near))
            table.append((*row, *drops, *cells, *[None] * (len(NEAR) - len(cells))))
        figure = photo_grid_figure(pictures, 2 + NEAREST, "no error")
        return pd.DataFrame(table, columns=[*COLUMNS, *DROPS, *NEAR]), figure

    def _nearest(self, paths: Sequence[str], root: Path) -> list[list[tuple[Record, float]]]:
        """Return for each photo the training photos whose features have the highest cosine, nearest first."""
        own = [Record("", path, {}) for path in paths]
        seen = extract_features(self.model, root, own, self.device)
        known = extract_features(self.model, self.root, self.trained, self.device, None, self.cache)
        cosines = unit_rows(seen) @ unit_rows(known).T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :NEAREST]
        return [[(self.trained[i], float(row[i])) for i in at] for at, row in zip(best, cosines, strict=True)]

    def _picture(self, root: Path, path: str) -> np.ndarray:
        content, _ = thumbnail(root, path, sample_bits=self.predictor.preprocess.sample_bits)
        return np.asarray(open_image(content)) if content else np.full((1, 1, 3), 255, np.uint8)


def faithfulness(backend: Backend, pixels: np.ndarray, label: int, heat: np.ndarray) -> tuple[float, float]:
    """Return by how much a label's score falls when the hottest 20 % of a photo are blurred, and by chance.

    That is the mean over `DRAWS` random places of the same area, always the same ones. NaN without heat.
    """
    height, width = pixels.shape[:2]
    if not heat.any():
        return float("nan"), float("nan")
    order = np.argsort(-spread(heat, width, height), axis=None, kind="stable")
    hottest = np.zeros((height, width), bool)
    hottest.flat[order[: round(SHARE * len(order))]] = True
    moves = np.random.default_rng(0).integers((height, width), size=(DRAWS, 2))
    areas = np.stack([hottest, *(np.roll(hottest, move, (0, 1)) for move in moves)])[..., None]
    blurred = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(min(height, width) / 10))
    seen = np.concatenate([pixels[None], np.where(areas, np.asarray(blurred), pixels)])
    scores = backend.scores(seen)[:, label]
    return float(scores[0] - scores[1]), float(scores[0] - scores[2:].mean())
