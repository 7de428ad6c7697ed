"""What a finished CSV is made of, noted beside it. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from src.errors import InputError
from src.inference.durable import read_json, write_durably
from src.inference.fingerprint import differences, file_digest


def made_file(output: Path) -> Path:
    """Return the file that says what a finished CSV is made of."""
    return output.with_name(f".{output.name}.made")


def note_made(output: Path, made_of: Mapping[str, Any]) -> None:
    """Say of a finished CSV, and of no other content of that name, what it is made of."""
    said = {"sha256": file_digest(output), "made_of": made_of}
    write_durably(made_file(output), json.dumps(said, indent=1).encode())


def said_of(output: Path) -> Any:
    """Return what a CSV of this name was made of when it was finished; None where nothing says so."""
    made = made_file(output)
    return read_json(made).get("made_of") if made.is_file() else None


def check_made(output: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse to take a finished CSV for the output of a call that would write something else.

    Raises:
        InputError: if it is made of something else, or nothing beside it says of what.
    """
    made = made_file(output)
    said = read_json(made) if made.is_file() else {}
    before = said.get("made_of") if said.get("sha256") == file_digest(output) else None
    if before != made_of:
        known = isinstance(before, dict)
        other = f"made of other {differences(before, made_of)}" if known else f"{made.name} does not know it"
        raise InputError(
            f"resume=true: {output} is finished, and {other}: leave out resume=true to replace it, "
            "or name another output="
        )
