import io
import os
import random
import struct
import sys
import warnings
import zlib
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFile

from src import images
from src.errors import InputError, UnreadableImage
from src.images import as_upright_rgb, open_image, read_header
from src.preprocess import Preprocess
from tests.made import encode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as src.images does
RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
CORNERS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right, as a person sees them
# Which of these lies at each corner of the stored pixels, by EXIF orientation.
STORED = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "1302", 7: "3120", 8: "2031"}
LOSSLESS = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
LOSSLESS |= {"PNG": {}, "TIFF": {}, "BMP": {}}


def four_corners(width, height, colours):
    image = Image.new("RGB", (width, height))
    for i, colour in enumerate(colours):
        x, y = (i % 2) * width // 2, (i // 2) * height // 2
        image.paste(colour, (x, y, x + width // 2, y + height // 2))
    return image


def corners(image):
    w, h = image.size
    return [image.getpixel(at) for at in ((2, 2), (w - 3, 2), (2, h - 3), (w - 3, h - 3))]


def near(left, right, tolerance):
    return np.abs(np.asarray(left, int) - np.asarray(right, int)).max() <= tolerance


def scenery(width, height, seed=0):
    """A smooth image with some detail, as a photo has."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def png(width, height, depth, colour, rows):
    """A PNG by hand, of filtered rows."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


def jpeg_of_size(width, height, **options):
    """A JPEG whose header claims another size than its data have."""
    data = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG", **options))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def reason(source, **options):
    with pytest.raises(UnreadableImage) as caught:
        open_image(source, **options)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("min_size", [None, (8, 8)])
def test_every_orientation_is_seen_upright(kind, orientation, min_size):
    width, height = (64, 32) if orientation < 5 else (32, 64)
    stored = four_corners(width, height, [CORNERS[int(i)] for i in STORED[orientation]])
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(stored, kind, exif=exif, **LOSSLESS[kind])
    image = open_image(data, min_size=min_size)
    scale = 2 if kind == "JPEG" and min_size else 1
    assert image.size == (64 // scale, 32 // scale)
    assert near(corners(image), CORNERS, 3 if kind == "JPEG" else 0)
    header = read_header(data)
    assert (header.width, header.height, header.exif["Orientation"]) == (64, 32, orientation)
    assert type(image) is Image.Image and not image.getexif() and not image.info


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_compressed_tiffs_are_turned_once(compression):
    exif = Image.Exif()
    exif[274] = 6
    stored = four_corners(32, 64, [CORNERS[int(i)] for i in STORED[6]])
    image = open_image(encode(stored, "TIFF", exif=exif, compression=compression))
    assert image.size == (64, 32) and near(corners(image), CORNERS, 3 if compression == "jpeg" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_malformed_exif_does_not_spoil_a_picture(kind):
    no_orientation = Image.Exif()
    no_orientation[274] = 77
    for exif in (no_orientation, b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
        image = encode(four_corners(64, 32, CORNERS), kind, exif=exif, **LOSSLESS[kind])
        assert near(corners(open_image(image)), CORNERS, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP"])
def test_modes_become_rgb(mode, kind):
    if (kind, mode) in {("BMP", "LA"), ("BMP", "RGBA")}:
        pytest.skip("not in this format")
    image = four_corners(32, 32, ((0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0))).convert(mode)
    opened = open_image(encode(image, kind, **LOSSLESS[kind]))
    assert opened.mode == "RGB" and corners(opened) == [(0,) * 3, (255,) * 3, (255,) * 3, (0,) * 3]


def test_16_bits_are_scaled_to_8():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    big_endian = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    for image, kind in (
        (Image.fromarray(values), "PNG"),
        (Image.fromarray(values), "TIFF"),
        (big_endian, "TIFF"),
    ):
        gray = np.asarray(open_image(encode(image, kind)))
        assert (gray == np.rint(values / 257).astype(np.uint8)[..., None]).all()
    colours = struct.pack(">6H", 0xFFFF, 0, 0x8000, 0x0100, 0x7FFF, 0xFF00)
    assert np.asarray(open_image(png(2, 1, 16, 2, b"\0" + colours))).tolist() == [
        [[255, 0, 128], [1, 127, 255]]
    ]


def test_other_colour_spaces():
    for mode, kind in (("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")):
        image = four_corners(32, 32, CORNERS).convert(mode)
        assert near(corners(open_image(encode(image, kind))), CORNERS, 4)
    white = Image.new("LAB", (32, 32), (255, 128, 128))
    assert near(corners(open_image(encode(white, "TIFF"))), (255,) * 3, 2)


def test_alpha_lies_on_white():
    image = Image.new("RGBA", (4, 1), (255, 0, 0, 255))
    for x, pixel in enumerate([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 128), (0, 0, 0, 0)]):
        image.putpixel((x, 0), pixel)
    expected = [[RED, (255,) * 3, (127,) * 3, (255,) * 3]]
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert near(np.asarray(open_image(encode(image, kind, **options))), expected, 1)
    gray = Image.merge("LA", (Image.new("L", (2, 1), 0), Image.fromarray(np.array([[255, 0]], np.uint8))))
    assert np.asarray(open_image(encode(gray)))[0, :, 0].tolist() == [0, 255]


def test_palettes():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert np.asarray(open_image(encode(image))).tolist() == [[list(RED), list(BLUE)]]
    assert np.asarray(open_image(encode(image, transparency=1))).tolist() == [[list(RED), [255] * 3]]
    half = np.asarray(open_image(encode(image, transparency=bytes([255, 0]))))
    assert half.tolist() == [[list(RED), [255] * 3]]


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_frames(kind):
    options = LOSSLESS["JPEG" if kind == "MPO" else kind]
    second = Image.new("RGB", (64, 32), "white")
    data = encode(four_corners(64, 32, CORNERS), kind, save_all=True, append_images=[second], **options)
    assert near(corners(open_image(data)), CORNERS, 3 if kind == "MPO" else 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs\n", "not an image (text?)"),
        (b"BMW, 7 photos of it", "not an image (text?)"),
        (encode(Image.new("P", (4, 4)), "GIF"), "GIF, none of JPEG, PNG, WebP, BMP, TIFF"),
        (b"%PDF-1.7\n\xe2", "PDF, none of"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isom", "video or other media, none of"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avif", "AVIF, none of"),
        (bytes(100), "not an image, or none of"),
        (b"\xff\xd8\xff", "broken JPEG"),
        (b"\xff\xd8\xff\xe0garbage, garbage", "truncated"),
        (b"BM" + bytes(60), "broken BMP"),
    ],
)
def test_other_bytes_are_named(tmp_path, data, words):
    path = tmp_path / "secret.jpg"
    path.write_bytes(data)
    assert reason(path).startswith(words) and reason(data).startswith(words)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "TIFF", "LZW", "BMP"])
def test_truncated_files_always_raise(kind):
    options = {"progressive": {"progressive": True}, "LZW": {"compression": "tiff_lzw"}}.get(kind, {})
    kind = {"progressive": "JPEG", "LZW": "TIFF"}.get(kind, kind)
    data = encode(scenery(200, 150), kind, **options)
    for share in (0.1, 0.5, 0.9):
        cut = data[: int(len(data) * share)]
        words = reason(cut)
        assert words == "truncated" or kind not in ("JPEG", "PNG", "BMP")
        assert reason(cut, min_size=(16, 16)) == words


def test_paths_that_are_no_photos(tmp_path, monkeypatch):
    assert reason(tmp_path / "nowhere.jpg") == "no such file"
    assert reason(tmp_path) == "a folder"
    assert reason("a\0b.jpg") == reason("\ud800.jpg") == "no such file"
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("L", (4, 4))))
    assert reason(path / "b.png") == "no such file"
    assert reason(tmp_path / ("x" * 300)) == "cannot open the file (File name too long)"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert reason(tmp_path / "pipe.jpg") == "not a regular file"

    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert reason(path) == "cannot open the file (Permission denied)"


def test_the_byte_limit(tmp_path, monkeypatch):
    data = encode(scenery(64, 64))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        monkeypatch.setattr(images, "MAX_BYTES", len(data))
        assert open_image(source).size == (64, 64)
        monkeypatch.setattr(images, "MAX_BYTES", len(data) - 1)
        assert f"exceed the limit of {len(data) - 1:,} bytes" in reason(source)


def test_bombs_do_not_explode():
    one_bit = png(9000, 9000, 1, 0, bytes(9000 * 1126))
    assert len(one_bit) < 15_000
    huge = png(40000, 40000, 8, 2, b"")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert reason(one_bit) == "9000 x 9000 px exceed the limit of 50 MP"
        assert reason(huge) == "40000 x 40000 px exceed the limit of 50 MP"
        assert reason(png(13000, 13000, 1, 0, b"")) == "13000 x 13000 px exceed the limit of 50 MP"
        tiff = encode(Image.new("1", (12000, 9000)), "TIFF", compression="group4")
        assert reason(tiff) == "12000 x 9000 px exceed the limit of 50 MP"
    assert not heard


def test_the_pixel_limit_of_jpeg_counts_what_is_decoded():
    assert reason(jpeg_of_size(10000, 6000)) == "10000 x 6000 px exceed the limit of 50 MP"
    assert reason(jpeg_of_size(10000, 6000), min_size=(4000, 4000)).endswith("exceed the limit of 50 MP")
    assert (
        reason(jpeg_of_size(15000, 14000), min_size=(9, 9)) == "15000 x 14000 px exceed the limit of 200 MP"
    )
    progressive = jpeg_of_size(10000, 6000, progressive=True)
    assert reason(progressive, min_size=(9, 9)) == "10000 x 6000 px exceed the limit of 50 MP"
    large = encode(Image.new("L", (10000, 6000), 90), "JPEG")
    assert open_image(large, min_size=(224, 224)).size == (1250, 750)


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=MemoryError))
    assert reason(encode(Image.new("L", (4, 4)))) == "not enough memory to decode it"


def test_mutants_raise_nothing_else(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 10**6)
    pick = random.Random(0)
    image = scenery(48, 40)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    seeds = [encode(image, kind, exif=exif, **LOSSLESS[kind]) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    seeds += [encode(image, "BMP"), encode(image, "JPEG", progressive=True, exif=exif)]
    seeds += [encode(image, "TIFF", compression="tiff_lzw"), encode(image.quantize(9), transparency=3)]
    opened = 0
    for data in seeds:
        for _ in range(60):
            mutant = bytearray(data)
            for _ in range(pick.choice((1, 2, 8, 40))):
                where = pick.randrange(4, len(mutant) if pick.random() < 0.4 else min(200, len(mutant)))
                mutant[where] = pick.randrange(256)
            if pick.random() < 0.2:
                del mutant[pick.randrange(8, len(mutant)) :]
            try:
                result = open_image(bytes(mutant), min_size=pick.choice((None, (8, 8))))
            except UnreadableImage as error:
                assert 3 < len(str(error)) < 120 and "\n" not in str(error)
            else:
                assert result.mode == "RGB"
                opened += 1
    assert opened > 50


def test_sources(tmp_path):
    image = scenery(30, 20)
    data = encode(image)
    path = tmp_path / "Br\u00fccke 7 \u6a4b.weird.JPG"  # a PNG, whatever it is called
    path.write_bytes(data)
    stream = io.BytesIO(data)
    stream.read(9)
    for source in (path, str(path), data, memoryview(data), stream):
        assert np.array_equal(np.asarray(open_image(source)), np.asarray(image))
    assert not stream.closed


def test_heic(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(four_corners(64, 32, CORNERS)).save(buffer, quality=-1, chroma=444)
    data = buffer.getvalue()
    assert near(corners(open_image(data)), CORNERS, 6)
    reason(data[: len(data) // 2])
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert reason(data) == "64 x 32 px exceed the limit of 0.001 MP"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert reason(data) == "HEIC photo: install the extra `heic` (python -m pip install -e '.[heic]')"


@pytest.mark.parametrize(
    ("min_size", "scale"),
    [(None, 1), ((400, 400), 1), ((224, 224), 2), ((150, 200), 4), ((80, 80), 8), ((8, 8), 8), ((1, 500), 1)],
)
def test_jpeg_is_decoded_at_a_smaller_scale(min_size, scale):
    image = open_image(encode(Image.new("RGB", (1600, 1280)), "JPEG"), min_size=min_size)
    assert image.size == (1600 // scale, 1280 // scale)
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(Image.new("RGB", (1600, 400)), "JPEG", exif=exif)  # seen as 400 wide, 1600 high
    assert open_image(turned, min_size=(400, 100)).size == (200, 800)
    assert open_image(turned, min_size=(100, 400)).size == (400, 1600)


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("size", [32, (24, 40), (40, 24)])
def test_preprocess_gives_the_size_asked_for(resize, size):
    preprocess = Preprocess(size, resize)
    for width, height in ((64, 48), (48, 64), (7, 5), (1, 300), (300, 1)):
        pixels = preprocess(encode(Image.new("RGB", (width, height), RED)))
        assert pixels.shape == (*preprocess.size, 3) and pixels.dtype == np.uint8
        assert pixels.flags.writeable and pixels.flags.c_contiguous
        red = (pixels == RED).all(axis=2)
        assert red.any() and (red | (pixels == 114).all(axis=2)).all()
        assert red.all() or resize == "letterbox"


def test_squash_is_pillow_s_letterbox_pads_and_crop_takes_the_centre():
    image = scenery(90, 70)
    squashed = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR))
    assert np.array_equal(Preprocess((24, 32))(encode(image)), squashed)
    pixels = Preprocess(32, "letterbox")(encode(Image.new("RGB", (64, 32), RED)))
    assert (pixels[8:24] == RED).all() and (pixels[:8] == 114).all() and (pixels[24:] == 114).all()
    for size in ((96, 64), (64, 96)):
        image = scenery(*size)
        resized = image.resize((size[0] // 4, size[1] // 4), Image.Resampling.BILINEAR)
        left, top = (resized.width - 16) // 2, (resized.height - 16) // 2
        expected = np.asarray(resized.crop((left, top, left + 16, top + 16)))
        assert near(Preprocess(16, "crop")(encode(image)), expected, 1)


def test_preprocess_is_built_from_a_mapping():
    given = {"image_size": [24, 40], "resize": "crop", "mean": [0, 0, 0], "std": [1, 1, 1]}
    preprocess = Preprocess.from_dict(given)
    assert preprocess == Preprocess(**given) and hash(preprocess)
    assert preprocess.size == (24, 40) and preprocess.mean == (0.0, 0.0, 0.0)
    assert Preprocess(np.int64(9)).size == (9, 9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resize": "squach"}, "did you mean 'squash'"),
        ({"image_size": 0}, "image_size 0"),
        ({"image_size": True}, "image_size: True"),
        ({"image_size": (1, 2, 3)}, "image_size"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": "abc"}, "mean"),
        ({"std": (1, 1, float("nan"))}, "std"),
        ({"std": (1, 1, 0)}, "above 0"),
        ({"imagesize": 7}, "did you mean 'image_size'"),
    ],
)
def test_preprocess_refuses(arguments, words):
    with pytest.raises(InputError, match=words):
        Preprocess.from_dict(arguments)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_image_that_somebody_opened_comes_out_as_its_file(kind, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4 if kind == "PNG" else 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(Image.fromarray(pixels), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(as_upright_rgb(opened), open_image(data))
