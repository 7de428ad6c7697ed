"""Tensor files, read without running code in them."""

import pickle
from pathlib import Path
from typing import Any

import torch

from src.errors import InputError


def read_pickled(path: Path, name: str, wanted: str) -> Any:
    """Return what `torch.save` wrote, on the CPU.

    Args:
        path: the file.
        name: of the file in messages.
        wanted: the expected content, for messages.

    Raises:
        InputError: for a file that is none of torch's, a damaged one, or one that could run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{name}: {error.strerror}") from error
    except Exception as error:  # on damaged bytes torch's readers raise nearly every type there is
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            reason = f"not {wanted}: pickled objects in it could run code, which is refused"
        elif isinstance(error, pickle.UnpicklingError) and "Unsupported operand" in str(error):
            reason = f"not {wanted}: damaged, or a pickle that torch did not write and that could run code"
        else:
            reason = f"not {wanted}, or a damaged one"
        raise InputError(f"{name}: {reason}") from error
