"""Samples as files have them: depths, white as zero, extra bands, alpha."""

import struct

import numpy as np
import pytest
from PIL import Image

from src.datamodules.inspection import inspect_photos, sample_range
from src.errors import InputError, UnreadableImage
from src.images import as_upright_rgb, open_image
from src.preprocess import Preprocess
from tests.made import FAST, encode, make_folders, only_run, run_script

RAMP = np.linspace(0, 255, 64).astype(int).reshape(8, 8)  # gray levels of a photo
COLOURS = np.stack([RAMP, 255 - RAMP, RAMP.T], 2)


def tiff(samples, bits, photometric, order="<", planar=1, **tags):
    """A TIFF by hand, uncompressed: `samples` `[height, width]` or `[height, width, bands]`."""
    samples = np.atleast_3d(samples)
    height, width, bands = samples.shape
    ordered = samples.transpose(2, 0, 1) if planar == 2 else samples
    kind = {8: "u1", 16: "u2", 32: "u4", 64: "u8"}
    raw = ordered.astype(order + kind[bits]).tobytes() if bits in kind else packed(ordered, bits)
    strips = bands if planar == 2 else 1
    size = len(raw) // strips
    known = {256: width, 257: height, 258: (bits,) * bands, 259: 1, 262: photometric}
    known |= {273: tuple(8 + i * size for i in range(strips)), 277: bands, 278: height, 279: (size,) * strips}
    known |= {284: planar, **{int(tag[1:]): value for tag, value in tags.items()}}
    entries, tail = [], b""
    after = 8 + len(raw) + 2 + 12 * len(known) + 4
    for tag in sorted(known):
        values = known[tag] if isinstance(known[tag], tuple) else (known[tag],)
        wide = tag in (273, 279)
        data = struct.pack(f"{order}{len(values)}{'IH'[not wide]}", *values)
        if len(data) > 4:
            data, tail = struct.pack(f"{order}I", after + len(tail)), tail + data
        entries.append(struct.pack(f"{order}HHI", tag, 4 if wide else 3, len(values)) + data.ljust(4, b"\0"))
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(raw))
    return head + raw + struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4) + tail


def packed(samples, bits):
    """Samples of fewer than 8 bits, or of 12, side by side; rows start at a byte."""
    rows = samples.reshape(len(samples), -1)
    bit = (rows[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(bit.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def opened(content, **options):
    return np.asarray(open_image(content, **options)).astype(int)


def gray(content, **options):
    pixels = opened(content, **options)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def reason(content, **options):
    with pytest.raises(UnreadableImage) as caught:
        open_image(content, **options)
    assert len(str(caught.value)) < 160
    return str(caught.value)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_gray_of_every_depth(bits, white_is_zero, order):
    top = 2 ** min(bits, 16) - 1
    levels = np.rint(RAMP / 255 * top).astype(np.int64)
    expected = np.rint(levels / top * 255)
    content = tiff(top - levels if white_is_zero else levels, bits, 0 if white_is_zero else 1, order)
    if (bits, order) == (12, ">") or (white_is_zero and bits > 8):
        assert "save it as 8-bit RGB or gray" in reason(content)
    else:
        assert np.abs(gray(content) - expected).max() == 0


def test_32_bits_of_no_known_range_say_so():
    assert "save it as 8-bit" in reason(encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))
    assert "save it as 8-bit" in reason(encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    with pytest.raises(UnreadableImage, match="32-bit samples, which have no range"):
        as_upright_rgb(Image.fromarray(RAMP.astype(np.int32)))


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("bits", "extra", "declared"),
    [(8, 0, None), (8, 1, (0,)), (8, 1, None), (8, 2, (0, 0)), (8, 2, None), (8, 3, (0, 0, 0)),
     (16, 0, None), (16, 1, (0,)), (16, 1, None)],
)  # fmt: skip
def test_extra_bands_leave_the_colours(bits, extra, declared, order, planar):
    infrared = np.random.default_rng(0).integers(0, 256, (8, 8, extra))
    bands = np.concatenate([COLOURS, infrared], 2) * (257 if bits == 16 else 1)
    content = tiff(bands, bits, 2, order, planar, **({"t338": declared} if declared else {}))
    if (extra and not declared) or (planar == 2 and (extra or bits == 16)):
        assert "save it as 8-bit RGB or gray" in reason(content)
    else:
        assert np.array_equal(opened(content), COLOURS)


def test_other_bands_are_read_or_named():
    infrared = np.random.default_rng(0).integers(0, 256, (8, 8, 1))
    two = np.concatenate([RAMP[..., None], infrared], 2)
    assert np.array_equal(gray(tiff(two, 8, 1, t338=(0,))), RAMP)
    for declared in (1, 2):
        four = tiff(np.concatenate([COLOURS, infrared], 2), 8, 2, t338=(declared,))
        assert "declared as alpha and is no mask: save" in reason(four)
    many = np.repeat(RAMP[..., None], 9, 2)
    for content in (tiff(two, 8, 1), tiff(many, 8, 2), tiff(two, 16, 1), tiff(RAMP, 64, 1)):
        assert "save it as 8-bit RGB or gray" in reason(content)
    ink = np.concatenate([255 - COLOURS, np.zeros((8, 8, 1), int)], 2)
    for planar in (1, 2):
        assert np.array_equal(opened(tiff(ink, 8, 5, planar=planar)), COLOURS)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_of_0_everywhere_is_none(mode, kind):
    image = Image.fromarray(COLOURS.astype(np.uint8)).convert({"RGBA": "RGB", "LA": "L", "PA": "P"}[mode])
    expected = np.asarray(image.convert("RGB"))
    if mode == "PA":
        content = encode(image, "PNG", transparency=bytes(256))
    else:
        image.putalpha(0)
        content = encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.array_equal(opened(content), expected)


def test_a_windows_bitmap_without_opaque_pixels():
    bgra = np.dstack([COLOURS[..., ::-1], np.zeros((8, 8), int)])[::-1].astype(np.uint8)
    head = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 32, 3, 256, 2835, 2835, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    file = b"BM" + struct.pack("<IHHI", 14 + len(head) + 256, 0, 0, 14 + len(head)) + head + bgra.tobytes()
    assert np.array_equal(opened(file), COLOURS)


def test_sample_bits(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray((RAMP * 16).astype(np.uint16)).save(tmp_path / name)
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "c.png")
    content = (tmp_path / "a.png").read_bytes()
    assert gray(content).max() == 16
    assert np.array_equal(gray(content, sample_bits=12), np.rint(RAMP * 16 / 4095 * 255))
    assert gray(content, sample_bits=10).max() == 255  # clipped
    assert Preprocess(8, sample_bits=12)(content).max() == 254
    paths = ["a.png", "b.png", "c.png"]
    looks = inspect_photos(tmp_path, paths)
    assert [(look.bits, look.largest) for look in looks] == [(16, 4080), (16, 4080), (8, 0)]
    (found,) = sample_range(paths, looks)
    assert (found.count, found.paths, found.cure) == (2, ("a.png", "b.png"), "preprocess.sample_bits=12")
    assert found.text == "16-bit photos use only values up to 4,080 of 65,535 (2 photos)"
    assert not sample_range(paths, looks, 12) and "clipped" in str(sample_range(paths, looks, 8))
    assert not sample_range(paths[2:], looks[2:])
    colour = tiff(COLOURS * 16, 16, 2)
    (tmp_path / "d.tif").write_bytes(colour)
    found = str(sample_range(["d.tif"], inspect_photos(tmp_path, ["d.tif"])))
    assert "up to 4,095" in found and "scale these files to 8 bits" in found
    assert "16-bit colour" in reason(colour, sample_bits=12)
    for wrong in (7, 33, "12", True):
        with pytest.raises(InputError, match="sample_bits"):
            Preprocess(8, sample_bits=wrong)


def test_a_few_dark_photos_of_16_bits_are_no_finding(tmp_path):
    for i in range(5):
        Image.fromarray((RAMP * (257 if i else 16)).astype(np.uint16)).save(tmp_path / f"{i}.png")
    paths = [f"{i}.png" for i in range(5)]
    looks = inspect_photos(tmp_path, paths)
    assert not sample_range(paths, looks)
    assert "scale these files to 8 bits" in str(sample_range(paths[:2], looks[:2]))


def test_12_bit_photos_from_training_to_prediction(tmp_path, monkeypatch, capsys):
    for path in make_folders(tmp_path / "set", 4).rglob("*.jpg"):
        deep = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(deep).save(path.with_suffix(".png"))
        path.unlink()
    monkeypatch.chdir(tmp_path)
    common = (f"data.root={tmp_path / 'set'}", *FAST, "trainer.max_epochs=1", "data.cache_dir=cache")
    assert run_script(monkeypatch, "train", *common, "hydra.run.dir=first") == 0
    assert "36 photos); preprocess.sample_bits=12" in capsys.readouterr().err
    assert run_script(monkeypatch, "train", *common, "preprocess.sample_bits=12") == 0
    said = capsys.readouterr().err
    assert "use only" not in said and "preprocess.sample_bits=12 is the range of 36 photos" in said
    run = only_run(tmp_path)
    (photo,) = (tmp_path / "set").rglob("A000_0.png")
    from src.inference.predictor import Predictor

    predictor = Predictor.load(run)
    assert predictor.preprocess.sample_bits == 12
    assert predictor.predict(Image.open(photo)) == predictor.predict(photo)
