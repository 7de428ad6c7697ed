import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from src.datamodules.near_duplicates import distances, near_pairs
from src.datamodules.records import PhotoIndex
from src.datamodules.table import TableReader


def test_frames_of_a_fixed_camera_are_as_many_pairs_as_photos():
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 2**64, 3, np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (3, 120, 2)).astype(np.uint64)
    hashes = (scenes[:, None] ^ flips[..., 0] ^ flips[..., 1]).ravel()
    every, _ = near_pairs(hashes, 4)
    few, apart = near_pairs(hashes, 4, many=200)
    assert len(every) > 20_000 and len(few) == 360 - 3 and apart.max() <= 4
    assert (few[:, 0] < few[:, 1]).all() and (apart == distances(hashes, few)).all()

    def sets(pairs):
        links = coo_array((np.ones(len(pairs)), pairs.T), shape=(360, 360))
        return connected_components(links, directed=False)[1]

    assert (sets(every) == sets(few)).all() and sets(few).max() == 2


def test_rows_of_the_same_cells_are_counted_each():
    reader = TableReader({"component": "component"}, ";", {"component": ["Bolt"]}, (), "multilabel")
    assert reader.labels({"component": "Bolt;Nut"}, times=3) == {"component": ["Bolt"]}
    assert reader.unknown == {"Nut": 3}


def test_an_id_that_names_several_photos_gives_all_of_them(tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = PhotoIndex(tmp_path)
    assert index.find("x") == ["a/x.jpg", "b/x.jpg"] and index.find("b/x") == ["b/x.jpg"]
    assert index.find("Y.jpg") == ["b/y.jpg"] and index.find("z") == []
