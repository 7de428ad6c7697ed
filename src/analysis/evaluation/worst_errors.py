"""The worst errors as pictures: the area that the model saw, and the training photos that are most alike."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image, ImageFilter
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor, nn

from src.analysis.evaluation.labelled import photos_of_split
from src.analysis.evaluation.mistakes import COLUMNS, TABLES, Mistake, error_rows
from src.analysis.explore.photo_figures import photo_grid_figure
from src.analysis.pages import label_names, thumbnail
from src.datamodules.inspection import inspect_photos
from src.datamodules.records import Record
from src.errors import InputError
from src.files import user_path
from src.images import open_image
from src.inference.batches import Backend
from src.inference.features import extract_features
from src.inference.heat_maps import as_heat, over_photo, spread
from src.inference.predictor import Predictor
from src.inference.torch_backend import TorchBackend
from src.models.checkpoint import load_model
from src.runs import BEST, run_of

SHARE, DRAWS = 0.2, 8  # of a photo is blurred; random areas of that size
NEAREST = 3
NEAR = [f"nearest_{n + 1}{part}" for n in range(NEAREST) for part in ("", "_labels", "_cosine")]
BLANK = np.full((1, 1, 3), 255, np.uint8)


class Explainer:
    """Explains errors of a model by its maps, and by the photos that its run was trained on.

    Of those, which lie in `root` or where the run noted it down, the changed ones do not count.

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
        blank = np.zeros(pixels.shape, np.uint8)
        if pixels.tiles or (not by_torch and backend.maps(blank[None])[1] is None):
            raise InputError(f"explain=: {checkpoint} has no map of the whole photo; leave it out")
        heat_of(backend, blank, 0)  # refuses a backbone without places
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

    def explain(self, found: Sequence[Mistake], count: int, root: Path) -> tuple[pd.DataFrame, Figure]:
        """Return a table and a figure of the first wrong labels; their photos lie below `root`."""
        table, pictures, predictor = [], [], self.predictor
        errors = error_rows(found)[TABLES[0]][:count]
        cosines = self._cosines([row[0] for row in errors], root) if errors else []
        for (path, true, said, sure, kind), similar in zip(errors, cosines, strict=True):
            pixels, label = predictor.preprocess(root / path), predictor.labels.position(said or true)
            heat = heat_of(predictor.backend, pixels, label)
            drop, by_chance = faithfulness(predictor.backend, pixels, label, heat)
            photo, row = self._picture(root, path), [path, true, said, sure, kind, drop, by_chance]
            over = over_photo(predictor.preprocess, Image.fromarray(photo), pixels, heat)
            pictures.append((photo, f"{true or 'nothing'}, said {said or 'nothing'} {sure:.2f}"))
            words = f"{said or true}: {-drop:+.2f} if blurred here, {-by_chance:+.2f} elsewhere"
            pictures.append((np.asarray(over), words))
            for near in np.argsort(-similar, kind="stable")[:NEAREST]:
                record, cosine = self.trained[near], similar[near]
                names = label_names(record.labels)
                row += [record.path, ";".join(names), cosine]
                words = f"{cosine:.2f} {', '.join(names) or 'nothing'}"
                pictures.append((self._picture(self.root, record.path), words))
            pictures += [(BLANK, "")] * (-len(pictures) % (2 + NEAREST))
            table.append(row)
        columns = [*COLUMNS, "faithfulness_drop", "random_drop", *NEAR]
        shown = photo_grid_figure(pictures, 2 + NEAREST, "no error")
        return pd.DataFrame([dict(zip(columns, row, strict=False)) for row in table], columns=columns), shown

    def _cosines(self, paths: Sequence[str], root: Path) -> np.ndarray:
        """Return the cosines of photos' features with those of the training photos, `[photos, trained]`."""
        own = [Record("", path, {}) for path in paths]
        known = extract_features(self.model, self.root, self.trained, self.device, None, self.cache)
        return cosine_similarity(extract_features(self.model, root, own, self.device), known)

    def _picture(self, root: Path, path: str) -> np.ndarray:
        content, _ = thumbnail(root, path, sample_bits=self.predictor.preprocess.sample_bits)
        return np.asarray(open_image(content)) if content else BLANK


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


def heat_of(backend: Backend, pixels: np.ndarray, label: int) -> np.ndarray:
    """Return where a photo, uint8 `[H, W, 3]`, speaks for a label, from 0 to 1; 0 everywhere if it does not.

    Of a checkpoint that is Grad-CAM (Selvaraju and others, 2017) of the last layer with several places, of
    an exported model its class activation map.
    """
    if not isinstance(backend, TorchBackend):
        return as_heat(backend.maps(pixels[None])[1][0, label])
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    image = torch.as_tensor(pixels[None]).permute(0, 3, 1, 2).to(backend.device)
    image = backend.model.normalised(image).requires_grad_()  # a frozen backbone would keep no gradients
    model = _Logits(backend.model)
    return GradCAM(model, [model.last_map(image)])(image, [ClassifierOutputTarget(label)])[0]


class _Logits(nn.Module):
    """A classifier as the library takes it: from normalised photos to logits `[B, labels]`."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat(list(self.model.classify(self.model.seen(image)).values()), 1)

    @torch.no_grad()
    def last_map(self, image: Tensor) -> nn.Module:
        """Return the last module that runs once and has several places in its output, `[B, C, h, w]`."""
        ran: list[nn.Module] = []

        def keep(module: nn.Module, _: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 3:
                ran.clear()  # tokens: the maps before them are those of a transformer's first layer
            elif isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] >= output.shape[3] > 1:
                ran.append(module)

        hooks = [module.register_forward_hook(keep) for module in self.model.backbone.modules()]
        self(image)
        for hook in hooks:
            hook.remove()
        if once := [module for module in ran if ran.count(module) == 1]:
            return once[-1]
        raise InputError(f"explain=: {self.model.hparams['backbone']} has no map of a photo; leave it out")
