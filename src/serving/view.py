"""A photo with its label and the bars of its highest probabilities, as one picture."""

import io

from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from src.images import open_image
from src.serving.bodies import Image

WIDTH, BARS, LINE = 640, 10, 26
GREEN, RED, INK, PALE = "#1a7f37", "#c0362c", "#1f2933", "#cfe3f1"


def drawn_view(content: bytes, row: Image) -> bytes:
    """Return a JPEG: title with label and percent, the photo, and bars of the ten highest probabilities.

    The title is green where it agrees with the ground truth, letter case aside, and red where it does not.
    """
    photo = open_image(content, min_size=(WIDTH, WIDTH))
    photo.thumbnail((WIDTH, WIDTH), Picture.Resampling.BILINEAR)
    scores = list(row.predictions.items())[:BARS]
    canvas = Picture.new("RGB", (WIDTH, 48 + photo.height + LINE * len(scores) + 16), "white")
    draw, large, small = ImageDraw.Draw(canvas), ImageFont.load_default(20), ImageFont.load_default(14)
    labels = [name for names in row.labels.values() for name in names]
    title = " · ".join(labels) or "nothing found"
    if row.confidence is not None:
        title += f"  {row.confidence:.0%}"
    colour = INK
    if row.ground_truth:
        truth = row.ground_truth.casefold()
        agrees = truth in (name.casefold() for name in labels) or truth == "_".join(labels).casefold()
        colour = GREEN if agrees else RED
    draw.text((12, 12), title[:70], colour, large)
    canvas.paste(photo, ((WIDTH - photo.width) // 2, 48))
    top = 48 + photo.height + 8
    for i, (name, score) in enumerate(scores):
        y = top + i * LINE
        draw.rectangle((240, y + 4, 240 + round(320 * score), y + LINE - 6), PALE)
        draw.text((12, y + 4), name[:32], INK, small)
        draw.text((570, y + 4), f"{score:.1%}", INK, small)
    file = io.BytesIO()
    canvas.save(file, "JPEG", quality=88)
    return file.getvalue()
