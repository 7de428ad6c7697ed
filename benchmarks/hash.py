"""Near duplicates: hashing photos beside a full decode, finding pairs beside comparing all with all."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from benchmarks.harness import Work
from benchmarks.photos import drawn
from src.datamodules.near_duplicates import HASHED_SIZE, distances, near_pairs, perceptual_hash
from src.images import open_image

NEAR = 4  # bits, the default of data.near_duplicates
PHOTOS = 6


def in_full(paths: list[Path]) -> list[int]:
    """Hash photos that are decoded in full."""
    hashes = []
    for path in paths:
        gray = np.asarray(Image.open(path).convert("L").resize((32, 32), Image.Resampling.BILINEAR), float)
        low = dctn(gray, norm="ortho")[:8, :8]
        low[0, 0] = 0
        hashes.append(int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big"))
    return hashes


def scaled(paths: list[Path]) -> list[int]:
    """Hash photos as Corbel reads them."""
    return [perceptual_hash(open_image(path, min_size=HASHED_SIZE)) for path in paths]


def as_numbers(_: list[Path], hashes: list[int]) -> dict:
    """Return the hashes."""
    return {"hashes": [str(value) for value in hashes]}


def alike(naive: dict, ours: dict) -> bool:
    """Whether each photo's two hashes would count as near duplicates."""
    pairs = zip(naive["hashes"], ours["hashes"], strict=True)
    return all((int(one) ^ int(other)).bit_count() <= NEAR for one, other in pairs)


def made_hashes(count: int) -> np.ndarray:
    """Return random hashes, a hundredth of them near another one."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    for target, source in rng.choice(count, (count // 100, 2), replace=False).tolist():
        flips = rng.choice(64, rng.integers(1, 8), replace=False).astype(np.uint64)
        hashes[target] = hashes[source] ^ np.bitwise_or.reduce(np.uint64(1) << flips)
    return hashes


def all_with_all(hashes: np.ndarray, block: int = 256) -> np.ndarray:
    """Return the near pairs `[pairs, 2]` by comparing each hash with every later one."""
    found = []
    for begin in range(0, len(hashes), block):
        apart = np.bitwise_count(hashes[begin : begin + block, None] ^ hashes[begin:])
        i, j = np.nonzero(apart <= NEAR)
        found.append(np.column_stack([i, j])[i < j] + begin)
    return np.concatenate(found)


def in_bands(hashes: np.ndarray) -> np.ndarray:
    """Return the near pairs as Corbel finds them."""
    return near_pairs(hashes, NEAR)[0]


def as_pairs(hashes: np.ndarray, pairs: np.ndarray) -> dict:
    """Return how many pairs there are, and sums that tell whether they are the same ones."""
    return {
        "pairs": len(pairs),
        "positions": int(pairs.sum()),
        "distance": int(distances(hashes, pairs).sum()),
    }


def same(naive: dict, ours: dict) -> bool:
    """Whether both found the same pairs."""
    return naive == ours


WORKS = [
    Work(
        f"perceptual hash of {PHOTOS} photos {width} x {height}, beside a full decode",
        "within 4 bits of the full decode's",
        partial(drawn, width, height, PHOTOS), in_full, scaled, as_numbers, alike,
        packages=("numpy", "scipy", "pillow"),
    )
    for width, height in ((1600, 1200), (4000, 3000))
] + [
    Work(
        "near pairs among 1e5 hashes, beside all with all",
        "the same pairs",
        partial(made_hashes, 100_000), all_with_all, in_bands, as_pairs, same, rounds=3, most_cpu_s=30,
    )
]  # fmt: skip


def remarks(rows: list[dict]) -> list[str]:
    """Return how many photos a second are hashed on one thread."""
    return [
        f"{row['work'].split(',')[0]}: {PHOTOS / row['ours']['cpu_s']['median']:.0f} photos a CPU second"
        for row in rows[:2]
    ]
