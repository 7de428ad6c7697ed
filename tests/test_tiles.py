"""Tiles: a small defect is found that the whole photo loses, and the tile that shows it is named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from src.analysis.report.run_report import write_report
from src.inference.predictor import Predictor
from src.preprocess import Preprocess
from tests.made import FAST, run_script, trained

TILES = ("model=multiclass", *FAST, "preprocess.image_size=24", "preprocess.tiles=2x3",
         "data.augment.rotation=0", "trainer.max_epochs=12", "model.lr=0.02",
         "callbacks.early_stopping=null")  # fmt: skip


@pytest.fixture(scope="module")
def spots(tmp_path_factory):
    """Photos with a bright spot in one tile of 2 x 3, or none; the name says where."""
    root, rng = tmp_path_factory.mktemp("spots") / "photos", np.random.default_rng(0)
    for number in range(96):
        pixels = rng.normal(110, 12, (96, 144, 3)).clip(0, 255).astype(np.uint8)
        name, label = f"{number:02}_none.png", "Clear"
        if number % 2:
            row, column = rng.integers(2), rng.integers(3)
            y, x = 48 * row + rng.integers(10, 30), 48 * column + rng.integers(10, 30)
            pixels[y : y + 8, x : x + 8] = (250, 40, 40)
            name, label = f"{number:02}_r{row + 1}c{column + 1}.png", "Spot"
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / label / name)
    return root


@pytest.fixture(scope="module")
def run(spots, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), f"data.root={spots}", *TILES)


def test_the_tile_with_the_defect_is_named(run):
    rows = pd.read_csv(run / "predictions.csv")
    assert json.loads((run / "metrics.json").read_text())["test"]["label"]["accuracy"] > 0.9
    found = rows[(rows["label"] == "Spot") & rows["path"].str.contains("_r")]
    where = found["path"].str.extract("_(r.c.)")[0]
    assert len(found) >= 5 and (found["tiles"] == "Spot:" + where).mean() > 0.9


def test_heat_maps_are_for_linear_heads(run, photos, tmp_path):
    pixels = np.zeros((1, 24, 24, 3), np.uint8)
    plain = trained(tmp_path, f"data.root={photos}", *FAST, "model.head=mlp", "trainer.max_epochs=1")
    scores, maps = Predictor.load(plain).backend.maps(pixels)
    assert maps is None and scores.shape == (1, 6)
    backend = Predictor.load(run).backend
    assert backend.maps(np.zeros((1, *backend.preprocess.shape), np.uint8))[0].shape == (1, 2)


def test_the_report_names_the_tile_of_a_wrong_label(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    rows = pd.read_csv(copy / "predictions.csv", dtype=str)
    clear = rows.index[rows["path"].str.startswith("Clear")][0]
    rows.loc[clear, ["label", "tiles"]] = "Spot", "Spot:r2c3"
    rows.to_csv(copy / "predictions.csv", index=False)
    page = write_report(copy).read_text()
    assert "seen in " in page and "Spot:r2c3" in page


def test_all_paths_agree_about_scores_and_tiles(run, spots, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = [f"images={spots}", "probabilities=true"]
    assert run_script(monkeypatch, "predict", f"ckpt={run}", *whole, "output=torch.csv") == 0
    assert run_script(monkeypatch, "export", f"ckpt={run}", "formats=[onnx]", "output=model") == 0
    assert run_script(monkeypatch, "predict", "ckpt=model", *whole, "output=onnx.csv") == 0
    ours, theirs = (pd.read_csv(name) for name in ("torch.csv", "onnx.csv"))
    assert (ours["label"] == theirs["label"]).all() and (ours["tiles"] == theirs["tiles"]).all()
    np.testing.assert_allclose(ours["p:Spot"], theirs["p:Spot"], atol=1e-4)
    photo = spots / ours["path"][0]
    one = Predictor.load(run, device="cpu").predict(photo)
    assert one.probabilities["label"]["Spot"] == pytest.approx(ours["p:Spot"][0], abs=1e-5)
    assert ";".join(f"{name}:{tile}" for name, tile in one.tiles.items()) == ours["tiles"][0]


def test_cached_features_and_pixels_of_tiles_train_like_photos(spots, tmp_path):
    """The view of an epoch is the same one where pixels are kept; features are those of a frozen backbone."""
    losses = {}
    for cache in ("null", "images", "features"):
        (tmp_path / cache).mkdir()
        given = (
            "model.freeze_backbone=true",
            "trainer.max_epochs=3",
            "data.augment=null",
            f"data.cache={cache}",
        )
        found = trained(tmp_path / cache, f"data.root={spots}", *TILES, *given)
        losses[cache] = pd.read_csv(found / "history.csv")["val_loss"].tolist()
    assert losses["null"] == losses["images"]
    assert losses["features"] == pytest.approx(losses["null"], abs=1e-4)


def test_tiles_cover_the_photo_and_overlap():
    preprocess = Preprocess(image_size=10, tiles="2x3", overlap=0.5)
    assert preprocess.shape == (70, 10, 3) and preprocess.decode_size == (15, 20)
    gradient = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).convert("RGB")
    pixels = preprocess.resize_image(gradient).reshape(7, 10, 10, 3)
    left, middle, right = (pixels[view, 5, :, 0].astype(int) for view in (1, 2, 3))
    assert (
        left[0] <= 5
        and right[-1] >= 194
        and abs(middle[0] - left[5]) <= 5
        and abs(middle[-1] - right[4]) <= 5
    )


@pytest.mark.parametrize("tiles", ["0x3", "2x30", "rows"])
def test_a_grid_that_is_none_is_refused(spots, tmp_path, monkeypatch, capsys, tiles):
    monkeypatch.chdir(tmp_path)
    assert run_script(monkeypatch, "train", f"data.root={spots}", *TILES, f"preprocess.tiles={tiles}") == 2
    assert "needs rows and columns" in capsys.readouterr().err.strip().splitlines()[-1]
