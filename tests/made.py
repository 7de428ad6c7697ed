"""Made data and the scripts, called in this process."""

import csv
import importlib.util
import io
import re
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torch import nn

from src.models import backbones

REPOSITORY = Path(__file__).resolve().parent.parent
COMPONENTS = {"Channel Bracket": (200, 60, 60), "Grout Hole": (60, 200, 60), "Radial Joint": (60, 60, 200)}
DEFECTS = {"Leaks": 40, "Corrosion-Heavy": 210, "Intact": 125}
FAST = ("model.backbone=tiny", "model.weights=null", "model.freeze_backbone=false", "model.lr=0.01",
        "model.backbone_lr_factor=1", "model.schedule=constant", "model.mixup=0", "data.batch_size=8",
        "preprocess.image_size=16", "data.num_workers=0", "trainer.accelerator=cpu",
        "callbacks.figures=null")  # fmt: skip


class Tiny(nn.Module):
    """A backbone with BatchNorm and dropout that trains in milliseconds."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 5, stride=2)
        self.norm = nn.BatchNorm2d(12)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(12 * 9, 10)

    def forward(self, image):
        pooled = nn.functional.adaptive_avg_pool2d(self.norm(self.conv(image)).relu(), 3)
        return self.fc(self.dropout(pooled.flatten(1)))


def tiny(weights=None) -> Tiny:
    return Tiny()


backbones.BACKBONES["tiny"] = backbones.Entry(tiny, None, "fc")


def photo(path: Path, component: str, defect: str, seed: int, size=(48, 36)) -> None:
    """Draw a photo whose left half shows the component and whose right half the defect."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), DEFECTS.get(defect, 0), np.uint8)
    pixels[:, : size[0] // 2] = COMPONENTS.get(component, (0, 0, 0))
    wall = Image.fromarray(rng.normal(0, 30, (6, 8)).astype(np.float32))
    pixels = pixels + np.asarray(wall.resize(size, Image.Resampling.BILINEAR))[..., None]  # no two look alike
    noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).save(path)


def make_folders(root: Path, each: int = 8) -> Path:
    """Make `Component_Defect` folders; file names carry an asset, two photos each."""
    for i, component in enumerate(COMPONENTS):
        for j, defect in enumerate(DEFECTS):
            for k in range(each):
                name = f"A{100 * i + 10 * j + k // 2:03d}_{k}.jpg"
                photo(root / f"{component}_{defect}" / name, component, defect, 1000 * i + 100 * j + k)
    return root


def make_table(root: Path, each: int = 8) -> Path:
    """Make `image_data.csv` and `images/`: one or two rows per photo, as annotation exports have them."""
    rows = ["ID,component,defect,asset"]
    for i, component in enumerate(COMPONENTS):
        for j, defect in enumerate(DEFECTS):
            for k in range(each):
                id_ = f"{i}{j}{k:03d}"
                photo(root / "images" / f"{id_}.jpg", component, defect, 1000 * i + 100 * j + k)
                rows.append(f"{id_},{component},nan,a{i}{j}{k // 2}")
                rows.append(f"{id_},component,{defect},a{i}{j}{k // 2}")
    (root / "image_data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def same_predictions(one: Path, other: Path) -> None:
    """Check that two CSVs have the same decisions, and confidences that differ by rounding at most."""
    tables = []
    for path in (one, other):
        with open(path, newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1])
    number = re.compile(r"\d\.\d+")
    for row, same in zip(*tables, strict=True):
        for name, text in row.items():
            assert number.sub("", text) == number.sub("", same[name]), name
            step = 0.0101 if name == "prediction" else 1.01e-4
            for a, b in zip(number.findall(text), number.findall(same[name]), strict=True):
                assert abs(float(a) - float(b)) < step, name


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def told(source) -> str:
    """Return the findings in a source, in one line."""
    return " | ".join(map(str, source.findings))


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", REPOSITORY / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int:
    """Call a script as the command line would; return its exit code."""
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *arguments])
    second = datetime.now()
    while any(Path("outputs").glob(f"*/{second:%Y-%m-%d_%H-%M-%S}*")):
        second += timedelta(seconds=1)  # a run's folder is named after the second it starts in
    monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda: second))
    try:
        load_script(name).main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def trained(home: Path, *arguments: str, figures: bool = False) -> Path:
    """Train in a folder that holds no run yet; return the run. Its PNG files take most of the time."""
    from src.training import evaluate

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(home)
        if not figures:
            monkeypatch.setattr(evaluate, "write_figures", lambda *_: None)
        assert run_script(monkeypatch, "train", *arguments) == 0
    return only_run(home)


def only_run(root: Path) -> Path:
    """Return the one run folder below `root/outputs`."""
    (best,) = root.glob("outputs/*/*/checkpoints/best.ckpt")
    return best.parent.parent
