"""What a frozen backbone sees in each photo."""

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from tqdm import tqdm

from src.datamodules.cache import Rows, RowStore, decoder, gigabytes
from src.datamodules.image_cache import read_unchanged
from src.datamodules.photos import PhotoDataModule
from src.datamodules.records import Record
from src.datamodules.transforms import TrainTransform
from src.inference.batches import Batch, Result
from src.inference.torch_backend import TorchBackend, choose_device
from src.models import PhotoClassifier
from src.overlap import cores, in_order
from src.preprocess import Preprocess

log = logging.getLogger(__name__)
BATCH = 16  # photos per forward pass; the last digits of features can depend on it
VIEWS_AT_ONCE = 4  # of a photo from one decode; the memory that decoded photos take grows with it
View = tuple[TrainTransform, int, int]  # the augmentation, its seed, and the number of the view
Lacking = tuple[RowStore, list[Record]]  # a store, and the photos that it has no row of, one of each content
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

    The heads do not matter. The same photo gives the same bytes on a CPU, whatever stands beside it;
    byte-identical photos (equal digests) are read once.

    Args:
        model: of a checkpoint (`load_model`), or newly built; it normalises photos itself.
        root: the folder that the records' paths start from.
        records: the photos.
        device: `auto`, `cpu`, `cuda` or `mps`.
        num_workers: threads that decode and infer (on a GPU: processes that decode); null: one per core, 16
            at most.
        cache_dir: where features are kept, and looked for first; null: nowhere.

    Raises:
        InputError: for a photo that cannot be read any more, or a disk that refuses.
    """
    choose_device(device)
    if not records:
        return np.empty((0, 0), np.float32)
    if cache_dir:
        store = store_features(model, root, records, cache_dir, device, num_workers)
        return store.rows([record.digest for record in records]).take(range(len(records)))
    contents = [record.digest or f"/{record.path}" for record in records]
    first = {content: record for content, record in zip(reversed(contents), reversed(records), strict=True)}
    found = list(_rows(model, root, list(first.values()), [None], device, num_workers))
    place = {content: i for i, content in enumerate(first)}
    return np.concatenate(found)[[place[content] for content in contents]]


def store_features(
    model: PhotoClassifier,
    root: Path,
    records: Sequence[Record],
    cache_dir: str | Path,
    device: str = "auto",
    num_workers: int | None = None,
    view: View | None = None,
) -> RowStore:
    """Return the part of the cache that holds these features, computed first where it lacks them.

    A row is found by the photo's content, and its store by the backbone's weights, the preprocessing, the
    decoder, the kind of device and the view, so that none is used for anything else.

    Args:
        model: see `extract_features`, as for the others but the last.
        root: likewise.
        records: likewise; with their digests.
        cache_dir: likewise.
        device: likewise.
        num_workers: likewise.
        view: an augmented view of each photo; None: the photo as it is.

    Raises:
        InputError: as `extract_features`.
    """
    lacking = _lacking(model, records, cache_dir, device, view, weights_digest(model))
    _fill({view: lacking}, model, root, device, num_workers)
    return lacking[0]


def _lacking(
    model: PhotoClassifier,
    records: Sequence[Record],
    cache_dir: str | Path,
    device: str,
    view: View | None,
    weights: str,
) -> Lacking:
    """Return the store of these features, and what it lacks of them."""
    preprocess = Preprocess.from_dict(model.hparams["preprocess"])
    on = choose_device(device)
    about = {
        "backbone": model.hparams["backbone"],
        "weights": weights,
        "preprocess": {**vars(preprocess), "image_size": preprocess.size},
        "decoder": decoder(),
        "torch": torch.__version__,
        "device": _device_name(on),
        "batch": BATCH,
        "batchnorm": "folded",
        "view": view
        and {
            "augment": view[0].arguments,
            "seed": view[1],
            "number": view[2],
            "torchvision": torchvision.__version__,
        },
    }
    store = RowStore(cache_dir, "features", about, (model.num_features,), "float32")
    absent = set(store.missing(record.digest for record in records))
    return store, list({record.digest: record for record in records if record.digest in absent}.values())


def split_features(
    model: PhotoClassifier, datamodule: PhotoDataModule, epochs: int, device: str = "auto"
) -> dict[str, list[Rows]]:
    """Return the features of each split's photos for `data.cache=features`.

    Those of the training split are one for each view that so many epochs show.

    Raises:
        InputError: as `extract_features`, before any is computed where the disk cannot hold them all.
    """
    views: list[View | None] = [None]
    if isinstance(datamodule.transform, TrainTransform):
        shown = range(min(datamodule.views, epochs))
        views = [(datamodule.transform, datamodule.seed, number) for number in shown]
    found: dict[str, list[Rows]] = {split: [] for split, records in datamodule.splits.items() if records}
    asked = {
        view: [split for split in found if view in (views if split == "train" else [None])]
        for view in dict.fromkeys([None, *views])
    }
    stores, weights = {}, weights_digest(model)
    for view, splits in asked.items():
        records = [record for split in splits for record in datamodule.splits[split]]
        stores[view] = _lacking(model, records, datamodule.cache_dir, device, view, weights)
    _fill(stores, model, datamodule.root, device, datamodule.num_workers)
    for view, (store, _) in stores.items():
        for split in asked[view]:
            found[split].append(store.rows([record.digest for record in datamodule.splits[split]]))
    return found


def results_from_features(
    backend: TorchBackend, features: Rows, digests: Sequence[str], batch_size: int
) -> Iterator[list[Result]]:
    """Yield the results that `run_batches` gives for these photos; with batches of `BATCH` bit for bit.

    Args:
        backend: whose backbone gave the features.
        features: float32 `[photos, F]`.
        digests: of the photos' contents.
        batch_size: photos a batch.
    """
    for begin in range(0, len(digests), batch_size):
        index = range(begin, min(begin + batch_size, len(digests)))
        rows = np.zeros((batch_size, *features.shape), np.float32)
        rows[: len(index)] = features.take(index)
        with backend.one_thread():
            scores = backend.heads(rows)
        yield [Result(i, row, digests[i]) for i, row in zip(index, scores, strict=False)]


def _device_name(device: torch.device) -> str:
    """Return what the last digits of a forward pass depend on: the instructions, or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def weights_digest(model: PhotoClassifier) -> str:
    """Return what tells the backbone's weights from any others."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.backbone.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fill(
    stores: Mapping[View | None, Lacking],
    model: PhotoClassifier,
    root: Path,
    device: str,
    num_workers: int | None,
) -> None:
    """Compute and keep what the stores lack; a photo is decoded once for all of its views, up to four."""
    _prepare(list(stores.values()))
    try:
        for views, records in _by_views(stores):
            found = _rows(model, root, records, views, device, num_workers)
            for record, rows in zip(records, found, strict=True):
                for view, row in zip(views, rows, strict=True):
                    stores[view][0].add(record.digest, row)
    finally:
        for store, _ in stores.values():
            store.flush()


def _by_views(stores: Mapping[View | None, Lacking]) -> list[tuple[list[View | None], list[Record]]]:
    """Return the photos that stores lack, by the views that they lack of them."""
    views: dict[str, list[View | None]] = {}
    for view, (_, left) in stores.items():
        for record in left:
            views.setdefault(record.digest, []).append(view)
    records = {record.digest: record for _, left in stores.values() for record in left}
    work: dict[tuple[View | None, ...], list[Record]] = {}
    for digest, lacking in views.items():
        for begin in range(0, len(lacking), VIEWS_AT_ONCE):
            work.setdefault(tuple(lacking[begin : begin + VIEWS_AT_ONCE]), []).append(records[digest])
    return [(list(together), photos) for together, photos in work.items()]


def _prepare(stores: Sequence[Lacking]) -> None:
    """Refuse what the disk cannot hold all of, and say what is to be done."""
    first, rows = stores[0][0], sum(len(left) for _, left in stores)
    first.check_room(rows)
    for store, left in stores:
        store.check_room(len(left))
    if rows:
        photos = len({record.digest for _, left in stores for record in left})
        views = f" in {rows} views" if rows > photos else ""
        size, folder = gigabytes(rows * first.row_bytes), first.folder.parent
        log.info("Feature cache: %d photos to see once%s, %s in %s", photos, views, size, folder)


def _rows(
    model: PhotoClassifier,
    root: Path,
    records: Sequence[Record],
    views: Sequence[View | None],
    device: str,
    num_workers: int | None,
) -> Iterator[np.ndarray]:
    """Yield the features `[views, F]` of each photo; the last batch is filled up, for the same digits."""
    backend = TorchBackend(model, device)
    read = partial(_read, root, records, views, backend.preprocess)
    count, workers = -(-len(records) // BATCH), cores() if num_workers is None else num_workers

    def forward(batch: Batch) -> np.ndarray:
        return np.stack([backend.features(pixels) for pixels in batch.pixels], axis=1)

    def see(number: int) -> np.ndarray:
        with backend.one_thread():
            return forward(read(number))

    if backend.on_gpu:
        found = (forward(batch) for batch in backend.loaded(read, count, workers))
    else:
        found = in_order(see, range(count), max(1, workers))
    bar = tqdm(total=len(records), desc="Features", unit="photo", disable=None)
    with backend.threads_kept(), closing(found), bar:
        for number, rows in enumerate(found):
            rows = rows[: len(records) - number * BATCH]
            bar.update(len(rows))
            yield from rows


def _read(
    root: Path, records: Sequence[Record], views: Sequence[View | None], preprocess: Preprocess, number: int
) -> Batch:
    """Return a batch's pixels uint8 `[views, BATCH, H, W, 3]`; the last one is filled up with zeros."""
    pixels = np.zeros((len(views), BATCH, *preprocess.size, 3), np.uint8)
    for row, record in enumerate(records[number * BATCH : (number + 1) * BATCH]):
        whole = read_unchanged(root, record, preprocess)
        for place, view in zip(pixels, views, strict=True):
            place[row] = _seen(whole, record, view)
    return Batch([], pixels)


def _seen(pixels: np.ndarray, record: Record, view: View | None) -> np.ndarray:
    """Return the view of a resized photo, uint8 `[H, W, 3]`."""
    if view is None:
        return pixels
    transform, seed, number = view
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    with _DRAWING:
        return transform(image, seed, number, int(record.digest, 16)).permute(1, 2, 0).numpy()
