"""What a finished CSV is made of, noted beside it. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.inference.durable import read_json, write_durably
from src.inference.fingerprint import differences, file_digest

ANEW = "leave out resume=true to replace it, or name another output="


def made_file(output: Path) -> Path:
    """Return the file that says what a finished CSV is made of."""
    return output.with_name(f".{output.name}.made")


def note_made(output: Path, made_of: Mapping[str, Any], beside: Path) -> None:
    """Say of a finished CSV, and of no other content of that name, what it is made of.

    `beside` is written first and then renamed; a kill can leave it.
    """
    said = {"sha256": file_digest(output), "made_of": made_of}
    write_durably(made_file(output), json.dumps(said, indent=1).encode(), beside)


def said_of(output: Path) -> Any:
    """Return what is noted of a CSV of this name, whatever it holds now; None where nothing is."""
    return _noted(output).get("made_of")


def made_before(output: Path) -> Mapping[str, Any] | None:
    """Return what a finished CSV is made of; None for one that is not as it was when it was finished."""
    said = _noted(output)
    known = said.get("sha256") == file_digest(output) and isinstance(said.get("made_of"), dict)
    return said["made_of"] if known else None


def _noted(output: Path) -> dict[str, Any]:
    """Return what stands in the file beside a finished CSV, nothing where there is none."""
    made = made_file(output)
    return read_json(made) if made.is_file() else {}


def refuse_other(output: Path, before: Mapping[str, Any] | None, made_of: Mapping[str, Any]) -> None:
    """Refuse to take a finished CSV for the output of a call that would write something else.

    Args:
        output: the CSV.
        before: of `made_before`.
        made_of: from `fingerprint`.

    Raises:
        InputError: if it is known to be made of something else.
    """
    if before not in (None, made_of):
        raise InputError(
            f"resume=true: {output} is finished, and made of other {differences(before, made_of)}: {ANEW}"
        )


def refuse_unknown(output: Path, before: Mapping[str, Any] | None) -> None:
    """Refuse a CSV with all rows of which nothing says what it is made of; for `before` see `refuse_other`.

    Raises:
        InputError: likewise.
    """
    if before is None:
        made = made_file(output).name
        raise InputError(f"resume=true: {output} is finished, and {made} does not know it: {ANEW}")
