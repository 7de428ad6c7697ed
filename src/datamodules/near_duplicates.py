"""Photos that look alike: a perceptual hash per photo, and the pairs of hashes that lie close together."""

from itertools import combinations

import numpy as np
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

HASHED_SIZE = (64, 64)  # photos are decoded for it at no less, whatever size a model takes
BITS = 64
FAITHFUL = 7  # `near_pairs` finds every pair up to this distance
MANY = 100_000  # near pairs that are all kept; in sets of more than a quarter as many photos, four per photo
MIN_CONTRAST = 1.0  # gray levels of standard deviation in the low frequencies; below, the bits are noise


def perceptual_hash(image: Image.Image) -> int | None:
    """Return 64 bits that a copy of the photo shares but for a few, or None for one without contrast.

    The signs, about their median, of the 8 x 8 lowest frequencies of a cosine transform of the photo's 32 x
    32 gray levels, without the mean (Zauner, 2010, Implementation and benchmarking of perceptual image hash
    functions). It withstands another size, compression and brightness; not cropping, mirroring, turning.
    """
    gray = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), np.float64)
    low = dctn(gray, norm="ortho")[:8, :8]
    low[0, 0] = 0
    if np.sqrt((low**2).sum()) / 32 < MIN_CONTRAST:
        return None
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def near_pairs(
    hashes: np.ndarray, max_distance: int, many: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of hashes that differ in at most `max_distance` bits.

    Exact: the bits are cut into more bands than `max_distance`, so that two such hashes agree in a few whole
    bands, and only hashes that do are compared. Of equal hashes each is paired with the first one alone, and
    only that one with others: a thousand copies are a thousand pairs, not a million. Hashes that differ by a
    few bits, as a fixed camera's may, do make as many pairs as there are; past `many`, only those are kept
    that hold the same photos together, the closest first: a thousand frames are a thousand pairs then too.

    Args:
        hashes: uint64 `[photos]`.
        max_distance: 0 to 7.
        many: pairs of unequal hashes up to which all are kept; None: `MANY`, or four per photo.

    Returns:
        pairs int64 `[pairs, 2]`, the lower position first, sorted; and their distances int64 `[pairs]`.
    """
    if not 0 <= max_distance <= FAITHFUL:
        raise ValueError(f"max_distance={max_distance}: 0 to {FAITHFUL}")
    values, first, which = np.unique(np.asarray(hashes, np.uint64), return_index=True, return_inverse=True)
    copies = np.flatnonzero(first[which] != np.arange(len(which)))
    equal = np.column_stack([first[which[copies]], copies])
    shared = 2 if max_distance <= 5 else 3  # bands that two near hashes have in common
    bands = np.array_split(np.arange(BITS, dtype=np.uint64), max_distance + shared)
    masks = [np.bitwise_or.reduce(np.uint64(1) << band) for band in bands]
    many = max(MANY, 4 * len(hashes)) if many is None else many
    keys = np.empty(0, np.int64)  # of a pair: one number for both positions
    for chosen in combinations(masks, shared) if max_distance else ():
        found = _within_buckets(values, np.bitwise_or.reduce(chosen), max_distance, many)
        keys = np.union1d(keys, found[:, 0] * len(values) + found[:, 1])
        if len(keys) > many:
            kept = _holding_together(values, np.column_stack(np.divmod(keys, len(values))))
            keys = np.unique(kept[:, 0] * len(values) + kept[:, 1])
    near = first[np.column_stack(np.divmod(keys, max(len(values), 1)))]
    pairs = np.sort(np.concatenate([equal, near]), axis=1).astype(np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    return pairs, distances(hashes, pairs)


def _within_buckets(values: np.ndarray, mask: np.uint64, max_distance: int, many: int) -> np.ndarray:
    """Return the near pairs `[pairs, 2]`, the lower position first, among values that agree under `mask`.

    Past `many` of them, those that hold the same values together.
    """
    keys = values & mask
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    found = [np.empty((0, 2), np.int64)]
    start, lag, held = np.arange(len(keys)), 0, 0
    while len(start):
        lag += 1
        start = start[start + lag < len(keys)]
        start = start[keys[start] == keys[start + lag]]
        pairs = np.sort(np.column_stack([order[start], order[start + lag]]), axis=1)
        found.append(pairs[distances(values, pairs) <= max_distance])
        held += len(found[-1])
        if held > many:
            found = [_holding_together(values, np.concatenate(found))]
            held = len(found[0])
    return np.concatenate(found)


def _holding_together(values: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return a minimum spanning forest of `pairs` `[pairs, 2]`, lower position first: no set falls apart."""
    links = coo_array((distances(values, pairs), (pairs[:, 0], pairs[:, 1])), shape=(len(values),) * 2)
    return np.sort(np.column_stack(minimum_spanning_tree(links.tocsr()).nonzero()), axis=1).astype(np.int64)


def distances(hashes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return in how many bits the hashes of each pair `[pairs, 2]` differ, int64 `[pairs]`."""
    hashes = np.asarray(hashes, np.uint64)
    return np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).astype(np.int64)


def nearest_across(hashes: np.ndarray, sides: np.ndarray, block: int = 256) -> tuple[int, int, int] | None:
    """Return the closest pair of hashes on different sides: `(position, position, distance)`.

    Args:
        hashes: uint64 `[photos]`.
        sides: int `[photos]`.
        block: how many hashes are compared with all others at once.
    """
    hashes, best = np.asarray(hashes, np.uint64), None
    for begin in range(0, len(hashes), block):
        part = slice(begin, begin + block)
        apart = np.bitwise_count(hashes[part, None] ^ hashes)
        apart[sides[part, None] == sides] = BITS + 1
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        if apart[i, j] < (best[2] if best else BITS + 1):
            best = (*sorted((begin + int(i), int(j))), int(apart[i, j]))
    return best
