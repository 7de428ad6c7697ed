"""Features of photos from a frozen backbone, computed once and kept in the row store."""

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision

from src.datamodules.dataset import TrainTransform, read_unchanged
from src.datamodules.photo_datamodule import PhotoDataModule
from src.datamodules.records import Record
from src.inference.batches import Batch, Result, batch_range, count_batches
from src.inference.torch_backend import ROWS, TorchBackend, choose_device
from src.models.backbones import builder_version
from src.models.classifiers import PhotoClassifier
from src.parallel import ProgressBar, bounded_map, cores
from src.preprocess import Preprocess, decoder
from src.row_store import Rows, RowStore, gigabytes

log = logging.getLogger(__name__)
BATCH = 16  # photos per forward pass; the last digits of features can depend on it
MIRRORED = "mirrored"
# None: the photo as it is; MIRRORED; or a random view: the augmentation, its seed, and the number
View = tuple[TrainTransform, int, int] | str | None
PhotoView = tuple[Record, View]  # the origin of one row of features
_DRAWING = threading.Lock()  # augmentation draws from torch's global generator


def extract_features(
    model: PhotoClassifier,
    root: Path,
    records: Sequence[Record],
    device: str = "auto",
    num_workers: int | None = None,
    cache_dir: str | Path | None = None,
) -> np.ndarray:
    """Return the features of the model's backbone, float32 `[records, features]`.

    The heads do not matter. Byte-identical photos (equal digests) are read once and have equal features. The
    same records give the same bytes on one kind of CPU; among other records, features agree to 1e-6. With
    `cache_dir` they are kept there, and looked for first, by the records' digests.

    Raises:
        InputError: for a photo that cannot be read any more, or a disk that refuses.
    """
    choose_device(device)
    if not records:
        return np.empty((0, 0), np.float32)
    if cache_dir:
        store = store_features(model, root, {None: records}, cache_dir, device, num_workers)[None]
        return store.rows([record.digest for record in records]).take(range(len(records)))
    keys = [record.digest or record.path for record in records]
    unique = {key: (record, None) for key, record in zip(keys, records, strict=True)}
    rows = _rows(model, root, list(unique.values()), device, num_workers)
    found = dict(zip(unique, rows, strict=True))
    return np.stack([found[key] for key in keys])


def store_features(
    model: PhotoClassifier,
    root: Path,
    records: Mapping[View, Sequence[Record]],
    cache_dir: str | Path,
    device: str = "auto",
    num_workers: int | None = None,
) -> dict[View, RowStore]:
    """Return the stores of these features by view, filled where rows are missing.

    A row is found by the photo's content, and its store by the backbone's weights, the preprocessing, the
    decoder, the kind of device and the view, so that none is used for anything else. A photo is decoded once
    for all of its views. `records` are the photos of each view, with their digests; the other arguments are
    those of `extract_features`.

    Raises:
        InputError: as `extract_features`, before any is computed where the disk cannot hold them all.
    """
    about, stores = _conditions(model, device), {}
    missing: dict[str, list[PhotoView]] = {}
    for view, photos in records.items():
        own = about | {"view": _view_key(view)}
        stores[view] = RowStore(cache_dir, "features", own, (model.num_features,), "float32")
        unique = {record.digest: record for record in photos}
        for digest in stores[view].missing(unique):
            missing.setdefault(digest, []).append((unique[digest], view))
    # photos with equally many views after each other: where these fill a batch, none is cut in two
    by_count = sorted(missing.values(), key=len, reverse=True)
    views = [view for of_a_photo in by_count for view in of_a_photo]
    if views:
        _check_room(stores, views)
        rows = _rows(model, root, views, device, num_workers)
        try:
            with closing(rows):
                for (record, view), row in zip(views, rows, strict=True):
                    stores[view].add(record.digest, row)
        finally:
            for store in stores.values():
                store.flush()
    return stores


def _check_room(stores: Mapping[View, RowStore], views: Sequence[PhotoView]) -> None:
    """Refuse rows for which the disk has no room, and log the work ahead."""
    counts = Counter(view for _, view in views)
    first, *rest = counts
    stores[first].check_room(len(views))  # of all of them
    for view in rest:
        stores[view].check_room(counts[view])
    photos = len({record.digest for record, _ in views})
    times = f"{len(views)} times in all" if len(views) > photos else "once"
    size, folder = gigabytes(len(views) * stores[first].row_bytes), stores[first].folder.parent
    log.info("Feature cache: %d photos to see %s, %s in %s", photos, times, size, folder)


def _conditions(model: PhotoClassifier, device: str) -> dict[str, object]:
    """Return everything but the photo and its view that features depend on, as plain values."""
    preprocess = Preprocess.from_dict(model.hparams["preprocess"])
    shape = {name: getattr(preprocess, name) for name in ("resize", "mean", "std")}
    return {
        "backbone": model.hparams["backbone"],
        "weights": weights_digest(model),
        "preprocess": {"image_size": preprocess.size, **shape, **preprocess.further},
        "decoder": decoder(),
        "torch": torch.__version__,
        "builder": builder_version(model.hparams["backbone"]),
        "device": _device_name(choose_device(device)),
        "batch": [BATCH, ROWS],
        "batchnorm": "folded",
    }


def _view_key(view: View) -> object:
    """Return the key of a view in the store, as plain values."""
    if not isinstance(view, tuple):
        return view
    keys = ("augment", "seed", "number", "torchvision")
    return dict(zip(keys, (view[0].arguments, *view[1:], torchvision.__version__), strict=True))


def split_features(
    model: PhotoClassifier, datamodule: PhotoDataModule, epochs: int, device: str = "auto"
) -> dict[str, list[Rows]]:
    """Return the features of each split's photos for `data.cache=features`.

    Those of the training split are one for each view that the epochs show: the photo as it is, its
    mirror image where the augmentation mirrors, then random views.
    """
    views: list[View] = [None]
    if isinstance(datamodule.transform, TrainTransform):
        shown = min(datamodule.views, epochs)
        # a mirror image shows what the photo shows; the corners that a rotation opens are grey as no photo's
        if shown > 1 and datamodule.transform.arguments["horizontal_flip"]:
            views.append(MIRRORED)
        views += [(datamodule.transform, datamodule.seed, number) for number in range(len(views), shown)]
    splits = {split: records for split, records in datamodule.splits.items() if records}
    asked = {view: [split for split in splits if view is None or split == "train"] for view in views}
    records = {view: [r for split in names for r in splits[split]] for view, names in asked.items()}
    stores = store_features(
        model, datamodule.root, records, datamodule.cache_dir, device, datamodule.num_workers
    )
    digests = {split: [record.digest for record in photos] for split, photos in splits.items()}
    return {
        split: [stores[view].rows(digests[split]) for view in views if split in asked[view]]
        for split in splits
    }


def results_from_features(
    backend: TorchBackend, features: Rows, digests: Sequence[str], batch_size: int
) -> Iterator[list[Result]]:
    """Yield the results of `run_batches` from features `[photos, F]`, in the same batches.

    Scores agree to 1e-6. `digests` are those of the photos' contents.
    """
    for number in range(count_batches(len(digests), batch_size)):
        index = batch_range(len(digests), batch_size, number)
        rows = np.zeros((batch_size, *features.shape), np.float32)
        rows[: len(index)] = features.take(index)
        with backend.one_thread():
            scores = backend.heads(rows)
        yield [Result(i, row, digests[i]) for i, row in zip(index, scores, strict=False)]


def _device_name(device: torch.device) -> str:
    """Return the instructions of the CPU, or the GPU, which decide about last digits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def weights_digest(model: PhotoClassifier) -> str:
    """Return a digest of the backbone's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.backbone.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _rows(
    model: PhotoClassifier, root: Path, views: Sequence[PhotoView], device: str, num_workers: int | None
) -> Iterator[np.ndarray]:
    """Yield the features of each view in turn; the last batch is filled up with zeros."""
    backend = TorchBackend(model, device)
    read = partial(_read, root, views, backend.preprocess)
    count, workers = -(-len(views) // BATCH), cores() if num_workers is None else num_workers

    def see(number: int) -> np.ndarray:
        with backend.one_thread():
            return backend.features(read(number).pixels)

    if backend.on_gpu:
        found = (backend.features(batch.pixels) for batch in backend.loaded(read, count, workers))
    else:
        found = bounded_map(see, range(count), max(1, workers))
    bar = ProgressBar("Features", len(views), "views")
    with closing(found), bar:
        for number, rows in enumerate(found):
            rows = rows[: len(views) - number * BATCH]
            bar.update(len(rows))
            yield from rows


def _read(root: Path, views: Sequence[PhotoView], preprocess: Preprocess, number: int) -> Batch:
    """Return a batch of pixels; the last one is filled up with zeros."""
    pixels, last = np.zeros((BATCH, *preprocess.shape), np.uint8), None
    batch = views[number * BATCH : (number + 1) * BATCH]
    for place, (record, view) in zip(pixels, batch, strict=False):
        if record.path != last:
            whole, last = read_unchanged(root, record, preprocess), record.path
        place[:] = _seen(whole, record, view, len(preprocess.views))
    return Batch([], pixels)


def _seen(pixels: np.ndarray, record: Record, view: View, tiles: int) -> np.ndarray:
    """Return the view of a resized photo, uint8 `[H, W, 3]`."""
    if view is None:
        return pixels
    if view == MIRRORED:
        return pixels[:, ::-1]
    transform, seed, number = view
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    with _DRAWING:
        return transform(image, seed, number, int(record.digest, 16), tiles).permute(1, 2, 0).numpy()
