"""What a typical script does: full decode of each photo in each epoch, no workers, eager torch."""

import csv
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

from src.datamodules.dataset import EpochSampler

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SIZE = 224

Read = Callable[[Path], np.ndarray]
Heads = dict[str, tuple[Tensor, Tensor]]


def decoded_in_full(path: Path) -> np.ndarray:
    """Return a photo of uint8 `[224, 224, 3]`, decoded in full and resized."""
    return np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


class Photos(Dataset):
    """Photos as normalised float32 `[3, 224, 224]`, with their targets if there are any."""

    def __init__(self, paths: list[Path], targets: Tensor | None = None, read: Read = decoded_in_full):
        self.paths, self.targets, self.read = paths, targets, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.array(self.read(self.paths[index])))
        image = (pixels.permute(2, 0, 1).float() / 255 - MEAN) / STD
        return image, torch.zeros(0) if self.targets is None else self.targets[index]


class Order(EpochSampler):
    """The order of Corbel's epochs, without the epoch in each item."""

    def __iter__(self):
        return (index for _, index in super().__iter__())


class Net(nn.Module):
    """A ResNet18 and a linear head per kind."""

    def __init__(self, weights: Path, heads: Mapping[str, tuple[Tensor, Tensor]]):
        super().__init__()
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        self.backbone.load_state_dict(torch.load(weights, weights_only=True))
        self.heads = nn.ModuleDict({kind: nn.Linear(512, len(bias)) for kind, (_, bias) in heads.items()})
        with torch.no_grad():
            for kind, (weight, bias) in heads.items():
                self.heads[kind].weight.copy_(weight)
                self.heads[kind].bias.copy_(bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return logits of each kind."""
        features = self.backbone(image)
        return [head(features) for head in self.heads.values()]


def split_of(root: Path, split: str) -> tuple[list[Path], Tensor, dict[str, list[str]]]:
    """Return the photos of a split's folder, class indices `[photos, 2]`, and the labels of each kind."""
    paths = sorted((root / split).glob("*/*.jpg"))
    pairs = [path.parent.name.split("_") for path in paths]
    labels = {kind: sorted({pair[k] for pair in pairs}) for k, kind in enumerate(("component", "defect"))}
    targets = [[names.index(pair[k]) for k, names in enumerate(labels.values())] for pair in pairs]
    return paths, torch.tensor(targets), labels


def first_heads(labels: Mapping[str, list[str]], seed: int) -> Heads:
    """Return random heads, the same for both ways."""
    generator = torch.Generator().manual_seed(seed)
    return {
        kind: (torch.randn(len(names), 512, generator=generator) / 100, torch.zeros(len(names)))
        for kind, names in labels.items()
    }


def train(
    root: Path,
    weights: Path,
    epochs: int,
    lr: float,
    seed: int,
    frozen: bool = True,
    read: Read = decoded_in_full,
    device: str = "cpu",
    workers: int = 0,
    batch_size: int = 8,
) -> dict:
    """Train, validate after each epoch, keep the best state.

    Returns:
        `history`, a row `[train loss, val loss, train accuracy, val accuracy]` per epoch, and `heads`, the
        last weights and biases.
    """
    (paths, targets, labels), (val_paths, val_targets, _) = (split_of(root, s) for s in ("train", "val"))
    net = Net(weights, first_heads(labels, seed)).to(device)
    net.backbone.requires_grad_(not frozen)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr)
    order = Order(len(paths), seed, shuffle=True)
    options = {"batch_size": batch_size, "num_workers": workers}
    batches = DataLoader(Photos(paths, targets, read), sampler=order, **options)
    val_batches = DataLoader(Photos(val_paths, val_targets, read), **options)
    history, best, kept = [], float("inf"), {}
    for epoch in range(epochs):
        order.set_epoch(epoch)
        net.train(not frozen)
        loss_sum, right = 0.0, 0
        for image, target in batches:
            image, target = image.to(device), target.to(device)
            logits = net(image)
            loss = sum(nnf.cross_entropy(one, target[:, k]) for k, one in enumerate(logits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(target)
            right += all_right(logits, target)
        net.eval()
        val_sum, val_right = 0.0, 0
        with torch.no_grad():
            for image, target in val_batches:
                image, target = image.to(device), target.to(device)
                logits = net(image)
                loss = sum(nnf.cross_entropy(one, target[:, k]) for k, one in enumerate(logits))
                val_sum += loss.item() * len(target)
                val_right += all_right(logits, target)
        n, m = len(paths), len(val_paths)
        history.append([loss_sum / n, val_sum / m, right / n, val_right / m])
        if val_sum / m < best:
            best, kept = val_sum / m, deepcopy(net.state_dict())
    heads = [net.heads[kind].weight for kind in labels] + [net.heads[kind].bias for kind in labels]
    return {"history": history, "heads": torch.cat([part.detach().flatten() for part in heads]), "kept": kept}


def all_right(logits: list[Tensor], target: Tensor) -> int:
    """Return for how many photos all kinds are right."""
    hits = [one.argmax(1) == target[:, k] for k, one in enumerate(logits)]
    return int(torch.stack(hits).all(0).sum())


def predict(
    forward: Callable[[Tensor], Tensor],
    labels: list[str],
    thresholds: np.ndarray,
    paths: list[Path],
    output: Path,
    read: Read = decoded_in_full,
    workers: int = 0,
) -> np.ndarray:
    """Write a CSV of the labels at or above their thresholds; return scores float32 `[photos, labels]`."""
    scores = []
    with open(output, "w", newline="", encoding="utf-8") as file, torch.no_grad():
        writer = csv.writer(file)
        writer.writerow(["path", "labels", "confidences"])
        done = 0
        for image, _ in DataLoader(Photos(paths, read=read), batch_size=16, num_workers=workers):
            batch = forward(image).numpy()
            for row in batch:
                chosen = [i for i, score in enumerate(row) if score >= thresholds[i]]
                said = ";".join(labels[i] for i in chosen)
                writer.writerow([paths[done], said, ";".join(f"{row[i]:.4f}" for i in chosen)])
                done += 1
            scores.append(batch)
    return np.concatenate(scores)
