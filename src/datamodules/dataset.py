"""Photos as batches: `{"image": uint8 [B,3,H,W], "target": ..., "index": [B]}`, or `"features": [B,F]`."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from src.config_check import check_number
from src.datamodules.records import Record
from src.errors import InputError, UnreadableImage, did_you_mean
from src.images import content_digest, read_photo
from src.labels import LabelSpace
from src.parallel import ProgressBar, bounded_map, cores, mixed_seed
from src.preprocess import Preprocess, decoder
from src.row_store import Rows, RowStore, gigabytes

log = logging.getLogger(__name__)


class LostPhoto(InputError):
    """A photo that cannot be read any more.

    A loader's worker hands an exception over as the text of its traceback; only the message of it is kept.
    """

    def __init__(self, message: str):
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def encoded_targets(
    records: Sequence[Record], labels: LabelSpace, multilabel: bool, partial: bool = False
) -> torch.Tensor:
    """Return multi-hot float32 `[N, labels]`, or class indices int64 `[N, kinds]`, -1 for no label.

    With `partial` the multi-hot labels of a kind are -1 on a photo whose table says nothing of that kind, not
    even that nothing is wrong.
    """
    encode = labels.encode if multilabel else labels.encode_classes
    targets = [encode(record.labels) for record in records]
    if partial:
        for target, record in zip(targets, records, strict=True):
            for kind in set(labels.kinds).difference(record.labels):
                target[labels.slices[kind]] = -1
    return torch.from_numpy(np.stack(targets)) if targets else torch.empty(0)


PRESETS = ("none", "light", "color", "randaugment", "trivial")
GREY = [114.0]  # of the corners that a rotation opens
ZOOM = (0.5, 1.0)  # share of the photo's area that `color` shows


class RandomZoom(torch.nn.Module):
    """Shows a random part of an image at the image's size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the part of an image `[3, H, W]`, in the same shape."""
        return v2.RandomResizedCrop(image.shape[-2:], scale=ZOOM, antialias=True)(image)


class TrainTransform:
    """Random views of a uint8 image `[3, H, W]`; a pure function of (seed, epoch, index).

    Args:
        preset: `light`: the flip and the rotation; `color`: also a random part of half the area or more, with
            other brightness, contrast, saturation and hue; `randaugment` (Cubuk et al., 2020) or `trivial`
            (Mueller and Hutter, 2021) after the flip and the rotation; `none`: the image as it is.
        horizontal_flip: probability of a mirrored view.
        rotation: largest angle in degrees, either way; the corners that open are filled with mid-grey.
    """

    def __init__(self, preset: str = "light", horizontal_flip: float = 0.5, rotation: float = 10.0):
        if preset not in PRESETS:
            raise InputError(f"data.augment.preset={preset}: {did_you_mean(preset, PRESETS)}")
        check_number("data.augment.horizontal_flip", horizontal_flip)
        check_number("data.augment.rotation", rotation)
        if preset == "none":
            horizontal_flip = rotation = 0.0
        self.arguments = {"horizontal_flip": horizontal_flip, "rotation": rotation}
        bilinear = v2.InterpolationMode.BILINEAR
        steps: list[torch.nn.Module] = []
        if horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(horizontal_flip))
        if rotation:
            steps.append(v2.RandomRotation(rotation, interpolation=bilinear, fill=GREY))
        if preset == "color":
            steps += [RandomZoom(), v2.ColorJitter(0.2, 0.2, 0.2, 0.1)]
        elif preset == "randaugment":
            steps.append(v2.RandAugment(interpolation=bilinear, fill=GREY))
        elif preset == "trivial":
            steps.append(v2.TrivialAugmentWide(interpolation=bilinear, fill=GREY))
        self.steps = v2.Compose(steps) if steps else torch.nn.Identity()
        if preset not in ("none", "light"):
            self.arguments["preset"] = preset

    def __call__(
        self, image: torch.Tensor, seed: int, epoch: int, index: int, tiles: int = 1
    ) -> torch.Tensor:
        """Return the view of photo `index` in `epoch`; of a photo of several tiles, all turned alike."""
        if tiles > 1:
            parts = image.unflatten(1, (tiles, -1)).transpose(0, 1)
            return self(parts, seed, epoch, index).transpose(0, 1).flatten(1, 2)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would queue a call for a GPU that is not in use, and keep each of them
            torch.default_generator.manual_seed(mixed_seed(seed, epoch, index))
            return self.steps(image)


def balanced_weights(records: Sequence[Record]) -> torch.Tensor:
    """Return how often each photo has to come so that rare labels are seen as often as frequent ones.

    One over the number of photos with its rarest label; photos without any label are one more class.
    """
    carried = [[name for names in record.labels.values() for name in names] or [None] for record in records]
    count = Counter(name for names in carried for name in names)
    return torch.tensor([max(1 / count[name] for name in names) for names in carried], dtype=torch.float64)


class PhotoDataset(Dataset):
    """The photos of one split.

    An item is asked for by (epoch, index), so that its augmented view depends on nothing else. Without
    `images`, their resized pixels uint8 `[H, W, 3]`, photos are decoded.
    """

    def __init__(
        self,
        records: Sequence[Record],
        root: Path,
        targets: torch.Tensor,
        preprocess: Preprocess,
        transform: TrainTransform | None,
        seed: int,
        images: Rows | None = None,
    ):
        self.paths, self.root, self.targets = [record.path for record in records], root, targets
        self.preprocess, self.transform, self.seed, self.images = preprocess, transform, seed, images

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor | int]:
        epoch, index = key
        image = torch.from_numpy(self._read(index)).permute(2, 0, 1).contiguous()
        if self.transform:
            tiles = len(self.preprocess.views)
            image = self.transform(image, self.seed, epoch, index, tiles)
        return {"image": image, "target": self.targets[index], "index": index}

    def _read(self, index: int) -> np.ndarray:
        path = self.root / self.paths[index]
        try:
            return self.preprocess(path) if self.images is None else self.images[index]
        except UnreadableImage as error:
            raise LostPhoto(f"{path} cannot be read any more: {error}") from error


class HeldRows:
    """Rows in memory, with the interface of `row_store.Rows`: an array, or a sparse one made dense."""

    def __init__(self, values: np.ndarray | csr_array):
        self.values, self.shape = values, values.shape[1:]

    def __len__(self) -> int:
        return self.values.shape[0]

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """Return some of the rows, dense float32."""
        rows = self.values[np.asarray(indices, np.int64)]
        return rows.toarray() if issparse(rows) else rows


class FeatureDataset(Dataset):
    """The features of the photos of one split: batches of `{"features", "target", "index"}`.

    Args:
        views: the features `[photos, F]` of each view of the photos; an epoch takes its view in turn.
        targets: as of `PhotoDataset`.
    """

    def __init__(self, views: Sequence[Rows], targets: torch.Tensor):
        self.views, self.targets = views, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return the batch of (epoch, index) pairs of one epoch."""
        index = torch.tensor([index for _, index in keys])
        rows = self.views[keys[0][0] % len(self.views)].take(index.numpy())
        return {"features": torch.from_numpy(rows), "target": self.targets[index], "index": index}


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index); the order is a pure function of (seed, epoch).

    Several processes take their parts of one order: of each global batch in training, of the whole split in
    evaluation. Parts of one batch differ by a photo at most, and every photo is in exactly one.

    Args:
        epoch: the first one; after a resume Lightning starts the workers before it calls `set_epoch`.
        batch: photos of a global batch, of all processes together; a last one with a single photo, or with
            fewer than there are processes, is left out, unless it is the only one. None: the split is one
            batch, left whole.
        weights: how often a photo comes, `[photos]`, drawn with replacement; None: each once an epoch.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        shuffle: bool,
        epoch: int = 0,
        batch: int | None = None,
        rank: int = 0,
        world: int = 1,
        weights: torch.Tensor | None = None,
    ):
        self.weights = weights
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, epoch
        self.batch, self.rank, self.world = batch or max(1, size), rank, world
        last = size % self.batch
        # a batch of one has no variance for BatchNorm to normalise by where the feature map is a single pixel
        self.kept = size - last if batch and size > batch and last < max(2, world) else size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(end - start for start, end in self._parts())

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield where this process's part of each global batch begins and ends in the order."""
        for start in range(0, self.kept, self.batch):
            count = min(self.batch, self.kept - start)
            yield start + count * self.rank // self.world, start + count * (self.rank + 1) // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
            if self.weights is None:
                order = torch.randperm(self.size, generator=generator)
            else:
                order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
        epoch = self.epoch
        return ((epoch, int(index)) for start, end in self._parts() for index in order[start:end])


def image_store(cache_dir: str | Path, preprocess: Preprocess) -> RowStore:
    """Return the store of photos resized like this, uint8 `[H, W, 3]` each."""
    about = {"resize": preprocess.resize, "decoder": decoder(), **preprocess.further}
    return RowStore(cache_dir, "images", about, preprocess.shape, "uint8")


def store_images(store: RowStore, root: Path, records: Sequence[Record], preprocess: Preprocess) -> None:
    """Decode and resize the photos that the store does not hold yet.

    What was written before an error stays and is used next time.
    """
    absent = set(store.missing(record.digest for record in records))
    by_digest = {record.digest: record for record in records if record.digest in absent}
    store.check_room(len(absent))
    if absent:
        size = gigabytes(len(absent) * store.row_bytes)
        log.info("Image cache: %d photos to decode once, %s in %s", len(absent), size, store.folder)
    try:
        found = bounded_map(lambda r: (r, read_unchanged(root, r, preprocess)), by_digest.values(), cores())
        with closing(found), ProgressBar("Decoding", len(absent), "photos") as bar:
            for record, pixels in found:
                store.add(record.digest, pixels)
                bar.update()
    finally:
        store.flush()


def read_unchanged(root: Path, record: Record, preprocess: Preprocess) -> np.ndarray:
    """Return a resized photo; refuse one whose content is not that of its record any more."""
    try:
        content = read_photo(root / record.path)
        pixels = preprocess(content)
    except UnreadableImage as error:
        raise LostPhoto(f"{root / record.path} cannot be read any more: {error}") from error
    if record.digest and content_digest(content) != record.digest:
        raise LostPhoto(
            f"{root / record.path} has been replaced since this run began: start again "
            "(for good, if nobody did: delete inspected/ in data.cache_dir)"
        )
    return pixels
