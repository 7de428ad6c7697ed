"""Noise that looks like concrete, rust and sensor grain: made once per process, then only sampled."""

from functools import lru_cache

import numpy as np
from PIL import Image

TILE = 1024  # texels; every tile repeats without a seam


def spectral(size: int, exponent: float, seed: int, low: float = 1.0, high: float = 1e9) -> np.ndarray:
    """Return seamless noise, [size, size] float32 of mean 0 and deviation 1, with a 1/f**exponent spectrum.

    Args:
        size: texels along each side.
        exponent: 0 is white, 1 is mottled, 2 is cloudy.
        seed: of the noise.
        low: frequencies below it (waves per tile) are left out.
        high: frequencies above it are left out.
    """
    white = np.fft.rfft2(np.random.default_rng(seed).standard_normal((size, size)))
    fy, fx = np.fft.fftfreq(size)[:, None] * size, np.fft.rfftfreq(size)[None] * size
    radius = np.hypot(fx, fy)
    gain = np.where((radius >= low) & (radius <= high), 1 / np.maximum(radius, 1) ** exponent, 0)
    noise = np.fft.irfft2(white * gain, (size, size))
    return (noise / noise.std()).astype(np.float32)


def to_byte(noise: np.ndarray, spread: float = 42.0) -> np.ndarray:
    """Map noise of deviation 1 to bytes around 128."""
    return np.clip(128 + spread * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def concrete() -> Image.Image:
    """Return the concrete bank, an RGB image of 2 x 2 tiles: R tone, G relief with pores, B clouds."""
    tone = 0.75 * spectral(TILE, 1.0, 11, low=6) + 0.55 * spectral(TILE, 0.3, 12, low=90, high=420)
    pores = spectral(TILE, 1.6, 14, low=38, high=330)
    holes = np.clip((pores - 2.15) / 0.5, 0, 1)  # the little holes that air leaves at the formwork
    relief = 0.5 * spectral(TILE, 1.1, 13, low=12, high=400) - 3.0 * holes
    tone = tone - 2.2 * holes
    clouds = spectral(TILE, 1.9, 15, low=2, high=60)
    bank = np.dstack([to_byte(tone, 36), to_byte(relief, 36), to_byte(clouds)])
    return Image.fromarray(np.tile(bank, (2, 2, 1)))


@lru_cache(maxsize=8)
def bank(kind: str) -> Image.Image:
    """Return one bank of bytes, an L image of 2 x 2 tiles: `cloud`, `mottle`, `flake`, `drip` or `grain`."""
    if kind == "drip":  # stretched downwards: streaks of water and rust
        flat = spectral(TILE, 0.9, 21, low=14, high=300)
        noise = np.fft.irfft(np.fft.rfft(flat, axis=0)[:8], TILE, axis=0)
        noise /= noise.std()
    elif kind == "flake":
        noise = np.abs(spectral(TILE, 1.5, 22, low=14, high=300)) * 1.9 - 1.5
    else:
        exponent, low, high = {"cloud": (1.8, 5, 90), "mottle": (1.25, 14, 400), "grain": (0.35, 60, 500)}[
            kind
        ]
        noise = spectral(TILE, exponent, 23 + len(kind), low, high)
    return Image.fromarray(np.tile(to_byte(noise), (2, 2)))


def sample(kind: str, size: tuple[int, int], rng: np.random.Generator, zoom: float = 1.0) -> Image.Image:
    """Cut a random piece of a bank.

    Args:
        kind: as in `bank`.
        size: width and height of the piece, pixels.
        rng: where from.
        zoom: pixels per texel; more makes the structures larger.
    """
    x, y = (int(value) for value in rng.integers(0, TILE, 2))
    zoom = max(zoom, max(size) / TILE)  # the piece must fit into the bank
    box = (x, y, x + max(2, round(size[0] / zoom)), y + max(2, round(size[1] / zoom)))
    return bank(kind).resize(size, Image.Resampling.BILINEAR, box=box)


@lru_cache(maxsize=1)
def sensor() -> np.ndarray:
    """Return sensor noise, [512, 512, 3] float32 of deviation 1: mostly brightness, a little colour."""
    rng = np.random.default_rng(31)
    grey, colour = rng.standard_normal((512, 512, 1)), rng.standard_normal((512, 512, 3))
    noise = 0.8 * grey + 0.6 * colour
    return ((noise + np.roll(noise, 1, 1)) / 1.41).astype(np.float32)  # neighbours share: demosaicing


def add_noise(pixels: np.ndarray, amount: float, rng: np.random.Generator) -> None:
    """Add sensor noise in place to [height, width, 3] float32 pixels, tile by tile."""
    noise = sensor() * np.float32(amount)
    dy, dx = rng.integers(0, 512, 2)
    noise = np.roll(noise, (int(dy), int(dx)), (0, 1))
    for top in range(0, pixels.shape[0], 512):
        for left in range(0, pixels.shape[1], 512):
            part = pixels[top : top + 512, left : left + 512]
            part += noise[: part.shape[0], : part.shape[1]]
