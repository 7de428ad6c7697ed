"""Files of tensors, read without running any code in them."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from src.errors import InputError


def read_pickled(path: Path, said: str, wanted: str) -> Any:
    """Return what `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        said: how the file was named, for the message.
        wanted: what it should be, for the message.

    Raises:
        InputError: for a file that is none of torch's, a damaged one, or one that could run code.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # on what else an odd pickle could be
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            plain = file.read(1) == pickle.PROTO
        if plain or "global" in str(error).lower():
            raise InputError(
                f"{said}: not {wanted}: pickled objects in it could run code, which is refused"
            ) from error
        raise InputError(f"{said}: not {wanted}, or a damaged one") from error
    except PermissionError as error:
        raise InputError(f"{said}: {error.strerror}") from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{said}: not {wanted}, or a damaged one") from error
