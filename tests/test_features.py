from dataclasses import replace

import numpy as np
import pytest
import torch

from src.datamodules.dataset import TrainTransform
from src.datamodules.records import Record
from src.errors import InputError
from src.images import content_digest
from src.inference import features
from src.inference.features import extract_features, store_features
from src.inference.torch_backend import threads
from src.models.classifiers import MultiLabelClassifier
from src.preprocess import Preprocess

PIXELS = {"image_size": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MultiLabelClassifier(
        task="multilabel", labels={"label": ["a", "b"]}, preprocess=PIXELS, backbone="tiny", weights=None
    )


def records(root, *names: str) -> list[Record]:
    return [Record(name, name, {}, digest=content_digest((root / name).read_bytes())) for name in names]


def test_rows_are_what_the_backbone_sees_in_eval_mode(model, make_tree, tmp_path):
    root = make_tree(tmp_path, "a.png", "b.png", "c.png")
    model.train()
    found = extract_features(model, root, records(root, "c.png", "a.png", "b.png"), "cpu")
    read = Preprocess.from_dict(PIXELS)
    pixels = np.stack([read(root / name) for name in ("c.png", "a.png", "b.png")]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        wanted = model.eval().features(torch.from_numpy(pixels)).numpy()
    assert found.dtype == np.float32 and found.shape == (3, 108)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_one_content_is_read_once_and_photos_without_digest_are_not_mixed_up(model, make_tree, tmp_path):
    root = make_tree(tmp_path, "a.png", "c.png")
    (root / "b.png").write_bytes((root / "a.png").read_bytes())
    copies = records(root, "a.png", "b.png", "c.png")
    (root / "a.png").unlink()  # a copy of b.png, as its digest says: nobody opens it
    found = extract_features(model, root, copies, "cpu")
    assert (found[0] == found[1]).all() and not np.allclose(found[0], found[2])
    unknown = [replace(record, digest="") for record in copies[1:]]
    assert extract_features(model, root, unknown, "cpu").tobytes() == found[1:].tobytes()


def test_a_photos_features_are_the_same_among_others(model, make_tree, tmp_path):
    names = [f"{i}.png" for i in range(40)]
    root = make_tree(tmp_path, *names)
    whole = extract_features(model, root, records(root, *names), "cpu", num_workers=2)
    again = extract_features(model, root, records(root, *names), "cpu", num_workers=1)
    assert whole.tobytes() == again.tobytes()
    some = extract_features(model, root, records(root, *names[17:22]), "cpu", num_workers=1)
    np.testing.assert_allclose(some, whole[17:22], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_decode_for_a_gpu_give_the_same_rows(model, make_tree, tmp_path, monkeypatch, workers):
    names = [f"{i}.png" for i in range(21)]
    root = make_tree(tmp_path / "photos", *names)
    known = records(root, *names)
    view = (TrainTransform(horizontal_flip=0.5, rotation=20.0), 7, 1)

    def found(folder):
        with threads(1):
            plain = extract_features(model, root, known, "cpu", workers)
            return plain.tobytes(), rows_by_view(model, root, known, tmp_path / folder, [view])[0].tobytes()

    def as_on_a_gpu(backend, *arguments, make=features.TorchBackend.__init__):
        make(backend, *arguments)
        backend.on_gpu = True

    wanted = found("threads")
    monkeypatch.setattr(features.TorchBackend, "__init__", as_on_a_gpu)
    assert found("processes") == wanted and wanted[0] != wanted[1]
    (root / "20.png").unlink()
    with pytest.raises(InputError, match=r"20\.png cannot be read any more"):
        extract_features(model, root, known, "cpu", workers)


def test_no_photos_are_no_rows(model, tmp_path):
    assert extract_features(model, tmp_path, [], "cpu").shape == (0, 0)


VIEWS = [(TrainTransform(horizontal_flip=0.5, rotation=20.0), 7, number) for number in range(6)]


def rows_by_view(model, root, known, cache, views, workers=2):
    stores = store_features(model, root, dict.fromkeys(views, known), cache, "cpu", workers)
    digests = [record.digest for record in known]
    return [stores[view].rows(digests).take(range(len(known))) for view in views]


def test_many_views_from_one_decode_are_what_each_of_them_gives(model, make_tree, tmp_path):
    names = [f"{i}.png" for i in range(21)]
    root = make_tree(tmp_path / "photos", *names)
    known, views = records(root, *names), [*VIEWS, None]
    wanted = [rows_by_view(model, root, known, tmp_path / "each", [view])[0] for view in views]
    rows_by_view(model, root, known[3:9], tmp_path / "together", views[1:3])
    found = rows_by_view(model, root, known, tmp_path / "together", views)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert len({rows.tobytes() for rows in wanted}) == 7


def test_what_was_seen_before_a_photo_is_lost_is_kept_of_all_views(model, make_tree, tmp_path, monkeypatch):
    names = [f"{i:02}.png" for i in range(21)]
    root = make_tree(tmp_path / "photos", *names)
    known = records(root, *names)
    (root / "20.png").unlink()
    with pytest.raises(InputError, match=r"20\.png cannot be read any more"):
        rows_by_view(model, root, known, tmp_path / "cache", VIEWS[:4])
    monkeypatch.setattr(features, "_rows", None)
    rows_by_view(model, root, known[:20], tmp_path / "cache", VIEWS[:4])
