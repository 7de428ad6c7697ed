"""Backends: the same bytes from the same batches, the same scores from any, one line for what cannot run."""

import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from src.errors import InputError
from src.inference import batches
from src.inference.batches import Photo, run_batches
from src.inference.predictor import Predictor, load_backend
from src.inference.torch_backend import TorchBackend, check_precision
from src.models.classifiers import MultiLabelClassifier
from tests.made import REPOSITORY

PIXELS = {"image_size": 16, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
LABELS = {"component": ["Bolt", "Plate"], "defect": ["Crack", "Leaks", "Rust"]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MultiLabelClassifier(
        task="multilabel", labels=LABELS, preprocess=PIXELS, backbone="tiny", weights=None
    )


@pytest.fixture(scope="module")
def photos(make_tree, tmp_path_factory):
    """Eleven photos, of which the fourth cannot be read."""
    root = make_tree(tmp_path_factory.mktemp("photos"), *(f"{i:02d}.png" for i in range(11)))
    (root / "03.png").write_bytes(b"no photo")
    return [Photo(path.stem, path.name, path.parent) for path in sorted(root.iterdir())]


def all_scores(backend, photos, batch_size, workers):
    found = run_batches(backend, photos, batch_size, workers)
    return {photos[r.index].id: r.values for batch in found for r in batch}


def check_division(backend, photos, monkeypatch, tolerance=1e-6):
    """Scores are the same bits on any number of threads and for chunks by themselves, and agree elsewhere."""
    monkeypatch.setattr(batches, "CHUNK", 6)
    wanted = all_scores(backend, photos, 4, 0)
    assert list(wanted) == [photo.id for photo in photos] and wanted["03"] is None
    for workers, part in ((1, photos), (2, photos), (3, photos), (2, photos[:6]), (1, photos[6:])):
        found = all_scores(backend, part, 4, workers)
        assert [*found] == [photo.id for photo in part]
        assert all(np.array_equal(found[id_], wanted[id_]) for id_ in found), workers
    parts = [photos[i:] for i in range(1, 11)] + [photos[::-1], photos[5:6], photos[::3]]
    for size, part in [(1, photos), (5, photos), *((4, part) for part in parts)]:
        for id_, scores in all_scores(backend, part, size, 2).items():
            if id_ != "03":
                np.testing.assert_allclose(scores, wanted[id_], rtol=0, atol=tolerance)


def test_torch_scores_are_the_same_bits_in_the_same_batches(model, photos, monkeypatch):
    threads = torch.get_num_threads()
    check_division(TorchBackend(model, "cpu"), photos, monkeypatch)
    found = run_batches(TorchBackend(model, "cpu"), photos, 2, 2)
    next(found)
    found.close()  # nobody listens any more
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_that_decode_for_a_gpu_give_the_same_batches(model, photos, workers):
    backend = TorchBackend(model, "cpu")
    with backend.one_thread():
        wanted = all_scores(backend, photos, 4, 0)
        backend.on_gpu = True
        found = all_scores(backend, photos, 4, workers)
    assert list(found) == list(wanted)
    for id_, scores in wanted.items():
        assert np.array_equal(found[id_], scores) if scores is not None else found[id_] is None


@pytest.mark.parametrize("on_gpu", [False, True])
def test_files_of_other_sizes_get_no_digest(model, photos, on_gpu):
    backend = TorchBackend(model, "cpu")
    backend.on_gpu = on_gpu
    sizes = [photo.file.stat().st_size for photo in photos]
    found = [r for batch in run_batches(backend, photos, 4, 2, frozenset(sizes[:1])) for r in batch]
    assert [bool(r.digest) for r in found] == [size == sizes[0] and r.index != 3 for r, size in zip(
        found, sizes, strict=True)]  # fmt: skip
    every = [r.digest for batch in run_batches(backend, photos, 4, 2) for r in batch]
    assert len(set(every)) == 11 and every[3] == "" and every[0] == found[0].digest


def test_features_and_heads_make_up_the_scores(model):
    backend = TorchBackend(model, "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    features = backend.features(pixels)
    assert features.shape == (3, 108) and features.dtype == np.float32
    assert np.array_equal(backend.heads(features), backend.scores(pixels))
    assert model.training  # the backend's is a copy
    with torch.inference_mode():
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        wanted = model.eval().probabilities(model(image)).numpy()
    np.testing.assert_allclose(backend.scores(pixels), wanted, atol=1e-6)


def check_predictor(backend, photos, monkeypatch):
    """A list of photos, and one photo, get the scores of a CSV's rows, bit for bit, and its decisions."""
    monkeypatch.setattr(batches, "CHUNK", 6)
    predictor = Predictor(backend, batch_size=4, num_workers=2)
    readable = [photo for photo in photos if photo.id != "03"]
    rows = [row for batch in predictor.rows(readable, probabilities=True) for row in batch]
    for photo, row, listed in zip(readable, rows, predictor.predict([p.file for p in readable]), strict=True):
        assert [*map(";".join, listed.labels.values())] == [row["components"], row["defects"]]
        assert {n: f"{p:.6f}" for part in listed.probabilities.values() for n, p in part.items()} == {
            name.removeprefix("p:"): text for name, text in row.items() if name.startswith("p:")
        }
        alone = [p for part in predictor.predict(photo.file).probabilities.values() for p in part.values()]
        assert alone == all_scores(backend, [photo], 4, 1)[photo.id].tolist()
    many = [[p for part in one.probabilities.values() for p in part.values()] for one in
            predictor.predict([photo.file for photo in readable])]  # fmt: skip
    assert many == [scores.tolist() for scores in all_scores(backend, readable, 4, 2).values()]


def test_one_photo_and_a_list_get_the_scores_of_a_csv(model, photos, monkeypatch):
    model.thresholds.fill_(0.4)
    check_predictor(TorchBackend(model, "cpu"), photos, monkeypatch)
    with pytest.raises(InputError, match="batch_size=513: needs 1 to 512, the photos of a chunk"):
        Predictor(TorchBackend(model, "cpu"), batch_size=513)


def test_half_precision_is_refused_where_it_is_slow(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="precision=bf16: this CPU has no instructions"):
        check_precision("bf16", cpu)
    with pytest.raises(InputError, match="precision=16: this CPU has no instructions"):
        check_precision("16", cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert check_precision("bf16", cpu) is torch.bfloat16 and check_precision("32", cpu) is None


def test_compiling_without_a_compiler_is_one_line(model, monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    backend = TorchBackend(model, "cpu")
    monkeypatch.setattr(backend.model.backbone, "forward", Mock(side_effect=InvalidCxxCompiler()))
    with pytest.raises(InputError, match=r"compile=true: torch cannot compile this model \(No working C\+\+"):
        backend.scores(np.zeros((2, 16, 16, 3), np.uint8))


def test_options_that_do_not_fit(model, tmp_path):
    for options, words in (
        ({"device": "gpu"}, "device=gpu: did you mean"),
        ({"precision": "fp16"}, "precision=fp16"),
    ):
        with pytest.raises(InputError, match=words):
            TorchBackend(model, **options)
    (tmp_path / "a.ckpt").touch()
    for backend, words in (("tourch", "did you mean 'torch'"), ("onnx", "export it first: python")):
        with pytest.raises(InputError, match=words):
            load_backend(str(tmp_path / "a.ckpt"), backend)


def test_the_way_to_a_backend_imports_no_torch():
    code = (
        "import sys; import src.inference, src.inference.onnx_backend, src.inference.output\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'pandas', 'pyarrow', 'sklearn', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, timeout=60)
