"""Photos as batches: `{"image": uint8 [B,3,H,W], "target": ..., "index": [B]}`, or `"features": [B,F]`."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from src.config_check import check_number
from src.datamodules.records import Record
from src.errors import InputError, UnreadableImage
from src.images import content_digest, read_photo
from src.labels import LabelSpace
from src.parallel import ProgressBar, bounded_map, cores, mixed_seed
from src.preprocess import Preprocess, decoder
from src.row_store import Rows, RowStore, gigabytes

log = logging.getLogger(__name__)


class LostPhoto(InputError):
    """A photo, or its row in the cache, that cannot be read any more.

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


class TrainTransform:
    """Random views of a uint8 image `[3, H, W]`; a pure function of (seed, epoch, index).

    Args:
        horizontal_flip: probability of a mirrored view.
        rotation: largest angle in degrees, either way; the corners that open are filled with mid-grey.
    """

    def __init__(self, horizontal_flip: float = 0.5, rotation: float = 10.0):
        check_number("data.augment.horizontal_flip", horizontal_flip)
        check_number("data.augment.rotation", rotation)
        self.arguments = {"horizontal_flip": horizontal_flip, "rotation": rotation}
        steps: list[torch.nn.Module] = []
        if horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(horizontal_flip))
        if rotation:
            bilinear = v2.InterpolationMode.BILINEAR
            steps.append(v2.RandomRotation(rotation, interpolation=bilinear, fill=[114.0]))
        self.steps = v2.Compose(steps) if steps else torch.nn.Identity()

    def __call__(self, image: torch.Tensor, seed: int, epoch: int, index: int) -> torch.Tensor:
        """Return the view of photo `index` in `epoch`."""
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would queue a call for a GPU that is not in use, and keep each of them
            torch.default_generator.manual_seed(mixed_seed(seed, epoch, index))
            return self.steps(image)


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
            image = self.transform(image, self.seed, epoch, index)
        return {"image": image, "target": self.targets[index], "index": index}

    def _read(self, index: int) -> np.ndarray:
        """Return a resized photo."""
        path = self.root / self.paths[index]
        try:
            return self.preprocess(path) if self.images is None else self.images[index]
        except UnreadableImage as error:
            raise LostPhoto(f"{path} cannot be read any more: {error}") from error
        except InputError as error:
            raise LostPhoto(str(error)) from error


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

    Lightning calls `set_epoch` before each epoch, but after a resume it starts the workers before that: a
    resumed fit gives its first epoch here.

    Args:
        size: photos of the split.
        seed: of the order.
        shuffle: whether the order is a random one.
        epoch: the first one.
        batch: photos of a global batch, of all processes together; a last one with a single photo, or with
            fewer than there are processes, is left out, unless it is the only one. None: the split is one
            batch, left whole.
        rank: number of this process, from 0.
        world: number of processes.
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
    ):
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, epoch
        self.batch, self.rank, self.world = batch or max(1, size), rank, world
        last = size % self.batch
        # a batch of one has no variance for BatchNorm to normalise by where the feature map is a single pixel
        self.kept = size - last if batch and size > batch and last < max(2, world) else size

    @property
    def smallest(self) -> int:
        """The photos of the smallest batch of any process."""
        return min(self.kept % self.batch or self.batch, self.kept) // self.world

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
            order = torch.randperm(self.size, generator=generator)
        epoch = self.epoch
        return ((epoch, int(index)) for start, end in self._parts() for index in order[start:end])


def image_store(cache_dir: str | Path, preprocess: Preprocess) -> RowStore:
    """Return the store of photos resized like this, uint8 `[H, W, 3]` each."""
    about = {"resize": preprocess.resize, "decoder": decoder(), **preprocess.samples}
    return RowStore(cache_dir, "images", about, (*preprocess.size, 3), "uint8")


def store_images(store: RowStore, root: Path, records: Sequence[Record], preprocess: Preprocess) -> None:
    """Decode and resize the photos that the store does not hold yet.

    Args:
        store: from `image_store`.
        root: the folder that the records' paths start from.
        records: the photos, with their digests.
        preprocess: opens and resizes.

    Raises:
        LostPhoto: for a photo that cannot be read any more, or that another one has replaced.
        InputError: if the disk is too small or refuses; what was written stays and is used next time.
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
