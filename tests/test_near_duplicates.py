import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.datamodules import groups
from src.datamodules.groups import distances, near_pairs, nearest_across, perceptual_hash
from src.images import open_image


def wall(seed, size=(320, 240)):
    """A photo with structure at every scale, as those of concrete and steel have."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.normal(0, 60, (n, n + 2)).astype(np.float32)).resize(size) for n in (3, 7, 19, 60)
    ]
    gray = 120 + sum(np.asarray(layer) / (i + 1) for i, layer in enumerate(layers))
    return Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert("RGB")


def saved(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return open_image(buffer.getvalue(), min_size=(64, 64))


def apart(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_what_a_copy_goes_through_leaves_the_hash_nearly_as_it_was(seed):
    image = wall(seed)
    copies = [
        saved(image, quality=40),
        saved(image, "PNG"),
        saved(image.resize((160, 120))),
        saved(image.resize((1280, 960)), quality=90),
        saved(image.point(lambda value: value * 0.8 + 10)),
        saved(image.filter(ImageFilter.GaussianBlur(1))),
    ]
    assert max(apart(image, copy) for copy in copies) <= 4


def test_other_photos_and_turned_ones_are_far_away():
    images = [wall(seed) for seed in range(12)]
    assert min(apart(a, b) for i, a in enumerate(images) for b in images[:i]) > 12
    assert apart(images[0], images[0].rotate(180)) > 12


def test_a_photo_without_contrast_has_no_hash():
    noise = np.random.default_rng(0).integers(-3, 4, (64, 64))
    for value in (0, 128, 255):
        flat = Image.fromarray(np.clip(value + noise, 0, 255).astype(np.uint8))
        assert perceptual_hash(flat.convert("RGB")) is None


def brute_force(hashes, limit):
    apart = np.bitwise_count(hashes[:, None] ^ hashes)
    return {(i, j) for i, j in np.argwhere(apart <= limit).tolist() if i < j}


@pytest.mark.parametrize("limit", range(8))
def test_near_pairs_are_those_that_comparing_all_with_all_finds(limit):
    rng = np.random.default_rng(limit)
    hashes = rng.integers(0, 2**64, 150, dtype=np.uint64)
    near = hashes.copy()
    for i in range(len(near)):
        for bit in rng.choice(64, rng.integers(1, 10), replace=False):
            near[i] ^= np.uint64(1) << np.uint64(bit)
    dense = hashes[0] ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    hashes = np.unique(np.concatenate([hashes, near, dense]))
    pairs, found = near_pairs(hashes, limit)
    assert sorted(map(tuple, pairs.tolist())) == sorted(brute_force(hashes, limit))
    assert found.tolist() == distances(hashes, pairs).tolist()
    if limit > 1:
        assert len(pairs) and found.max() == limit


def test_equal_hashes_are_paired_with_the_first_alone():
    hashes = np.array([7, 1, 7, 7, 6], np.uint64)
    pairs, found = near_pairs(hashes, 1)
    assert pairs.tolist() == [[0, 2], [0, 3], [0, 4]]
    assert found.tolist() == [0, 0, 1]
    many = np.zeros(50_000, np.uint64)
    assert len(near_pairs(many, 4)[0]) == 49_999 and near_pairs(many[:0], 4)[0].shape == (0, 2)


def test_frames_of_a_fixed_camera_are_as_many_pairs_as_photos(monkeypatch):
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 2**64, 3, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (3, 120, 2)).astype(np.uint64)
    hashes = (scenes[:, None] ^ flips[..., 0] ^ flips[..., 1]).ravel()
    every, _ = near_pairs(hashes, 4)
    monkeypatch.setattr(groups, "MANY", 200)
    monkeypatch.setattr(groups, "PER_PHOTO", 0)
    few, apart = near_pairs(hashes, 4)
    assert len(every) > 20_000 and len(few) == 360 - 3 and apart.max() <= 4
    assert (few[:, 0] < few[:, 1]).all() and (apart == distances(hashes, few)).all()

    def sets(pairs):
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(360, 360))
        return connected_components(links, directed=False)[1]

    assert (sets(every) == sets(few)).all() and sets(few).max() == 2


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_across_is_that_of_all_comparisons(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    hashes, sides = rng.integers(0, 2**64, 60, dtype=np.uint64), rng.integers(0, 3, 60)
    monkeypatch.setattr(groups, "BLOCK", 7)
    i, j, distance = nearest_across(hashes, sides)
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[sides[:, None] != sides]
    assert distance == apart.min() and sides[i] != sides[j]
    assert int(np.bitwise_count(hashes[i] ^ hashes[j])) == distance
    assert nearest_across(hashes, np.zeros(60, int)) is None
