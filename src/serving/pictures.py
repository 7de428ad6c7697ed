"""Pictures that explain a prediction: the heat map of a label, the bars of the highest probabilities."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from src.images import open_image
from src.inference.heat_maps import as_heat, over_photo
from src.inference.predictor import Predictor
from src.serving.bodies import ImageBody
from src.serving.photos import encoded

WIDTH, BARS, LINE = 640, 10, 26
GREEN, RED, INK, PALE = "#1a7f37", "#c0362c", "#1f2933", "#cfe3f1"


def heat_map(predictor: Predictor, content: bytes, label: str | None) -> tuple[bytes, dict[str, Any]] | None:
    """Return a photo with the class activation map of a label, or of the most probable one, over it, as PNG.

    With a linear head on averaged features, which is what is exported, the map (Zhou and others, 2016) is the
    one that Grad-CAM gives (Selvaraju and others, 2017): the head's weights applied to the features at each
    place. With it label, probability, and whether an area speaks for it. None for a model without maps.
    """
    pixels = predictor.preprocess(content)
    scores, maps = predictor.backend.maps(pixels[None])
    if maps is None:
        return None
    position = int(scores[0].argmax()) if label is None else predictor.labels.position(label)
    heat = as_heat(maps[0, position])
    about = {"label": predictor.labels.names[position], "probability": round(float(scores[0, position]), 4)}
    about["area"] = bool(heat.any())
    drawn = over_photo(predictor.preprocess, _shrunk(content), pixels, heat)
    return encoded(drawn, "PNG", compress_level=3), about


def drawn_view(content: bytes, row: ImageBody) -> bytes:
    """Return a JPEG: title with label and percent, the photo, and bars of the ten highest probabilities.

    The title is green where it agrees with the ground truth, letter case aside, and red where it does not.
    """
    photo = _shrunk(content)
    scores = list(row.predictions.items())[:BARS]
    canvas = Image.new("RGB", (WIDTH, 48 + photo.height + LINE * len(scores) + 16), "white")
    draw, font = ImageDraw.Draw(canvas), _font("".join(row.predictions))
    labels = [name for names in row.labels.values() for name in names]
    sure = "" if row.confidence is None else f"  {row.confidence:.0%}"
    title = _fitting(" · ".join(labels) or "nothing found", sure, font(20), WIDTH - 24)
    colour = INK
    if row.ground_truth:
        truth = row.ground_truth.casefold()
        agrees = truth in (name.casefold() for name in labels) or truth == "_".join(labels).casefold()
        colour = GREEN if agrees else RED
    draw.text((12, 12), title, colour, font(20))
    canvas.paste(photo, ((WIDTH - photo.width) // 2, 48))
    for y, (name, score) in enumerate(scores):
        y = 48 + photo.height + 8 + y * LINE
        draw.rectangle((240, y + 4, 240 + round(320 * score), y + LINE - 6), PALE)
        draw.text((12, y + 4), _fitting(name, "", font(14), 220), INK, font(14))
        draw.text((570, y + 4), f"{score:.1%}", INK, font(14))
    return encoded(canvas, "JPEG", quality=88)


def _font(letters: str) -> Callable[[int], ImageFont.FreeTypeFont]:
    """Return the font of a size: Pillow's; beyond Latin letters an installed one that matplotlib finds."""
    if max(letters) > "\u00ff" and find_spec("matplotlib"):
        from src.analysis.drawing import font_file

        return partial(ImageFont.truetype, font_file(letters))
    return ImageFont.load_default


def _fitting(text: str, end: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    short = text
    while text and font.getlength(short + end) > width:
        text = text[:-1]
        short = f"{text}…"
    return short + end


def _shrunk(content: bytes) -> Image.Image:
    photo = open_image(content, min_size=(WIDTH, WIDTH))
    photo.thumbnail((WIDTH, WIDTH), Image.Resampling.BILINEAR)
    return photo
