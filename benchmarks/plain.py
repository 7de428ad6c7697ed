"""The naive side: full decode of each photo in each epoch, eager torch, a plain loop."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from src.datamodules.dataset import EpochSampler
from src.preprocess import Preprocess

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SIZE = 224
Read = Callable[[Path], np.ndarray]  # a photo as uint8 [SIZE, SIZE, 3]


def decoded_in_full(path: Path) -> np.ndarray:
    """Return a photo, decoded in full and resized."""
    return np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def our_decoder(path: Path) -> np.ndarray:
    """Return a photo, decoded and resized by Corbel."""
    return Preprocess(SIZE)(path)


class Photos(Dataset):
    """Photos as normalised float32 `[3, SIZE, SIZE]`, with their targets if there are any."""

    def __init__(self, paths: list[Path], targets: Tensor | None = None, read: Read = decoded_in_full):
        self.paths, self.targets, self.read = paths, targets, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(self.read(self.paths[index])))
        image = (pixels.permute(2, 0, 1).float() / 255 - MEAN) / STD
        return image, torch.zeros(0) if self.targets is None else self.targets[index]


def split_of(root: Path, split: str) -> tuple[list[Path], Tensor, dict[str, list[str]]]:
    """Return the photos of a split's folder, class indices `[photos, 2]`, and the labels of each kind."""
    paths = sorted((root / split).glob("*/*.jpg"))
    pairs = [path.parent.name.split("_") for path in paths]
    labels = {kind: sorted({pair[k] for pair in pairs}) for k, kind in enumerate(("component", "defect"))}
    targets = [[names.index(pair[k]) for k, names in enumerate(labels.values())] for pair in pairs]
    return paths, torch.tensor(targets), labels


def first_heads(root: Path, seed: int) -> dict[str, nn.Linear]:
    """Return random heads on 512 features, the same for both ways."""
    generator = torch.Generator().manual_seed(seed)
    heads = {}
    for kind, names in split_of(root, "train")[2].items():
        heads[kind] = nn.Linear(512, len(names))
        weight = torch.randn(len(names), 512, generator=generator) / 100
        heads[kind].load_state_dict({"weight": weight, "bias": torch.zeros(len(names))})
    return heads


def flat(heads: Iterable[nn.Linear]) -> np.ndarray:
    """Return all weights and biases of the heads."""
    return torch.cat([part.detach().flatten() for head in heads for part in head.parameters()]).numpy()


def train(
    root: Path, weights: Path, epochs: int, lr: float, seed: int, read: Read = decoded_in_full
) -> dict[str, np.ndarray]:
    """Train a linear head per kind on a frozen ResNet18, and validate after each epoch.

    Returns `_history`, rows of losses and accuracies of train and val, and `_heads`, all weights and biases.
    """
    (paths, targets, _), (val_paths, val_targets, _) = (split_of(root, s) for s in ("train", "val"))
    backbone = resnet18()
    backbone.fc = nn.Identity()
    backbone.load_state_dict(torch.load(weights, weights_only=True))
    heads = list(first_heads(root, seed).values())
    net = nn.ModuleList([backbone.requires_grad_(False), *heads]).eval()
    optimizer = torch.optim.Adam([p for head in heads for p in head.parameters()], lr=lr)
    photos = Photos(paths, targets, read)
    val_batches = DataLoader(Photos(val_paths, val_targets, read), batch_size=8)
    history = []
    for epoch in range(epochs):
        order = [index for _, index in EpochSampler(len(paths), seed, True, epoch)]  # Corbel's
        loss, accuracy = _epoch(net, DataLoader(photos, sampler=order, batch_size=8), optimizer)
        with torch.no_grad():
            val_loss, val_accuracy = _epoch(net, val_batches)
        history.append([loss, val_loss, accuracy, val_accuracy])
    return {"_history": np.array(history), "_heads": flat(heads)}


def _epoch(net: nn.ModuleList, batches: Iterable, optimizer=None) -> tuple[float, float]:
    """Go through all photos once, learning if there is an optimizer; return loss and accuracy."""
    loss_sum, right, count = 0.0, 0, 0
    for image, target in batches:
        features = net[0](image)
        logits = [head(features) for head in net[1:]]
        loss = sum(nnf.cross_entropy(one, target[:, k]) for k, one in enumerate(logits))
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss_sum += loss.item() * len(target)
        hits = [one.argmax(1) == target[:, k] for k, one in enumerate(logits)]
        right += int(torch.stack(hits).all(0).sum())
        count += len(target)
    return loss_sum / count, right / count


def predict(
    forward: Callable[[Tensor], Tensor], thresholds: np.ndarray, paths: list[Path], output: Path,
    read: Read = decoded_in_full, workers: int = 0,
) -> np.ndarray:  # fmt: skip
    """Write a CSV of the labels at or above their thresholds; return scores float32 `[photos, labels]`."""
    scores = []
    with open(output, "w", newline="", encoding="utf-8") as file, torch.no_grad():
        writer = csv.writer(file)
        writer.writerow(["path", "labels"])
        for image, _ in DataLoader(Photos(paths, read=read), batch_size=16, num_workers=workers):
            for row in forward(image).numpy():
                chosen = [f"{i}:{score:.4f}" for i, score in enumerate(row) if score >= thresholds[i]]
                writer.writerow([paths[len(scores)], ";".join(chosen)])
                scores.append(row)
    return np.stack(scores)
