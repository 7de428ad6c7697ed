"""Output of an analysis: its folder, and HTML pages from Jinja2 templates.

Pages are self-contained; all text is escaped, photos are embedded as thumbnails. A script of a page is known
to its policy by its digest, so that nothing else runs there.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from html import escape
from pathlib import Path, PurePath, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from src.errors import InputError, UnreadableImage, listed
from src.files import make_folder
from src.images import open_image

TEMPLATES = Path(__file__).parent / "templates"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
MARKS = re.compile(r"([\\`*\[\]|])")  # that mean something in Markdown
LISTED = 20  # names in a sentence; more are in a table
THUMBNAIL = 220  # pixels, the longer side
ABOUT_TASK = {
    "multilabel": "any combination of labels per photo",
    "dual_head": "one label of each kind per photo",
    "multiclass": "one label per photo",
}
Thumbnail = tuple[bytes | None, str]  # a JPEG, or None and the reason


def make_output(folder: Path, photos: Iterable[Path], names: Iterable[str]) -> None:
    """Make an output folder for files of these names.

    `photos` are folders that photos are read from: pictures written there would be photos the next time.

    Raises:
        InputError: for a folder that cannot be written, lies among photos, or holds such a file.
    """
    for root in photos:
        if folder.resolve().is_relative_to(root.resolve()):
            raise InputError(f"output={folder}: lies in the photos' folder {root}; name a folder outside")
    make_folder(folder)
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(f"output={folder}: it holds {listed(there, 3)} already; name another folder")


def label_names(labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the labels of all kinds in one list."""
    return [name for names in labels.values() for name in names]


def render(template: str, **content: object) -> bytes:
    """Return a page as UTF-8; control characters, which HTML forbids, become U+FFFD."""
    text = _environment().get_template(template).render(**content)
    return CONTROL.sub("\ufffd", text).encode("utf-8")


@cache
def _environment() -> Environment:
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    loader = FileSystemLoader(TEMPLATES)
    html = select_autoescape(["html", "css", "js"])  # Markdown has the filter `words`
    environment = Environment(loader=loader, autoescape=html, undefined=StrictUndefined, **layout)
    environment.tests["finite"] = is_number
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    environment.filters["digest"] = lambda text: hashlib.sha256(text.encode()).digest()
    environment.filters["shortlist"] = partial(listed, limit=LISTED)
    environment.filters["words"] = lambda text: MARKS.sub(r"\\\1", escape(" ".join(str(text).split()), False))
    return environment


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def folder_name(path: PurePath, generic: tuple[str, ...]) -> str:
    """Return a folder's name, together with its parent's where the name is one of the `generic` ones."""
    parts = path.parts[-2:]
    return "/".join(parts if parts[-1:] and parts[-1] in generic else parts[-1:])


def thumbnail(
    root: Path | None, path: str, size: int = THUMBNAIL, sample_bits: int | None = None
) -> Thumbnail:
    """Return a small JPEG of a photo, `size` pixels the longer side, or None and the reason.

    The path is relative to the data root; one that leads out of it is refused.
    """
    if root is None:
        return None, "the photos are not at hand"
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts or Path(path).is_absolute():
        return None, "its path does not lead into the data root"
    try:
        photo = open_image(root / parts, (size, size), sample_bits)
    except UnreadableImage as error:
        return None, f"cannot be read now: {error}"
    photo.thumbnail((size, size))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=82, optimize=True)
    return buffer.getvalue(), ""
