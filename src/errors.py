"""The errors that a person, not the program, has to mend."""

import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NoReturn


class InputError(ValueError):
    """Bad input: the message is one line that says what, where and the cure.

    Raised anywhere, caught only at the top of a script, which prints the line and exits with code 2.
    """


class UnreadableImage(InputError):
    """A photo that cannot be read; the message is a short reason without the path, which the caller knows."""


def nearest(name: str, choices: Iterable[str]) -> list[str]:
    """Return the choices, those most like `name` first."""
    choices = [str(choice) for choice in choices]
    lowered = {choice.lower(): choice for choice in reversed(choices)}
    close = [lowered[match] for match in get_close_matches(name.lower(), lowered, n=3, cutoff=0.6)]
    return close + [choice for choice in choices if choice not in close]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'? choices: ...`, or only the choices where none is near."""
    choices = nearest(name, choices)
    near = get_close_matches(name.lower(), [choice.lower() for choice in choices[:1]], cutoff=0.6)
    hint = f"did you mean '{choices[0]}'? " if near else ""
    return f"{hint}choices: {listed(choices, 12)}"


def listed(items: Iterable[object], limit: int = 10) -> str:
    """Join `items` with commas; past `limit` say how many more there are."""
    items = [str(item) for item in items]
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def counted(counts: Mapping[str, int], limit: int = 10, unit: str = "") -> str:
    """Return names with their counts, `a (2), b (1)`; past `limit` say how many more there are."""
    return listed((f"{name} ({count}{unit})" for name, count in counts.items()), limit)


def reason(error: OSError) -> str:
    """Return why the disk refuses a file or folder."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "there is a file where a folder is needed"
    return error.strerror or str(error)


def first_line(error: BaseException) -> str:
    """Return the first line of a message that says something, or the name of the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def leave(code: int, message: str) -> NoReturn:
    """Print one line on stderr and end the script with an exit code."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
