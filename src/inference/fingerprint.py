"""What the rows of an output follow from, so that a later call can tell whether it would write the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from src.inference.photos import Photo


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(
    model: Path, photos: Sequence["Photo"], columns: Sequence[str], **settings: Any
) -> dict[str, Any]:
    """Return what the rows of an output follow from, as plain JSON.

    Args:
        model: the checkpoint; its content counts, not its name.
        photos: all photos in order; IDs and paths count, not the folder that they lie in.
        columns: of the output.
        settings: what else decides about rows, such as thresholds and the batch size.
    """
    named = hashlib.sha256()
    for begin in range(0, len(photos), 10_000):
        text = "".join(f"{photo.id}\0{photo.path}\n" for photo in photos[begin : begin + 10_000])
        named.update(text.encode("utf-8", "backslashreplace"))
    made = {
        "checkpoint": file_digest(model),
        "photos": named.hexdigest(),
        "number of photos": len(photos),
        "columns": list(columns),
        **settings,
    }
    return json.loads(json.dumps(made))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words what differs between two fingerprints; short values are shown."""
    said = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            said.append(differences(old, new))
        elif name in ("checkpoint", "photos", "columns"):
            said.append(name)
        else:
            said.append(f"{name} ({json.dumps(old)}, now {json.dumps(new)})")
    return ", ".join(said)
