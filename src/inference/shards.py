"""Which part of the photos a process predicts: contiguous, balanced ranges of the sorted list."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from src.errors import InputError

MOST = 99_999  # shards of a job: their names have five digits


@dataclass(frozen=True)
class Shard:
    """One of `count` shares of a job, `index` counted from 0; shown and typed counted from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def range(self, total: int) -> tuple[int, int]:
        """Return the first photo of this shard and the one behind its last, of `total` photos.

        The ranges of all shards cover every photo once and differ in length by one at most.
        """
        return total * self.index // self.count, total * (self.index + 1) // self.count


WHOLE = Shard(0, 1)


def find_shard(given: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Return the shard that `shard=` means.

    Args:
        given: `3/16`, the third of sixteen; `auto`, from the environment: torchrun's `RANK` and `WORLD_SIZE`,
            else `SLURM_ARRAY_TASK_ID` of a job array, else `SLURM_PROCID` and `SLURM_NTASKS` of `srun`; null:
            None, all photos in one call.
        environment: the variables that `auto` reads.

    Raises:
        InputError: for anything else.
    """
    if given is None:
        return None
    if given == "auto":
        return _from_environment(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", given, re.ASCII)
    if not found:
        raise InputError(f"shard={given}: name one of many as 3/16, or auto")
    return _checked(int(found[1]) - 1, int(found[2]), f"shard={given}")


def _from_environment(environment: Mapping[str, str]) -> Shard:
    """Return the shard of this process among those that torchrun or SLURM started."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names, least = ("RANK", "WORLD_SIZE"), 0
    elif "SLURM_ARRAY_TASK_ID" in environment and "SLURM_ARRAY_TASK_COUNT" in environment:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
        least = _number(environment, "SLURM_ARRAY_TASK_MIN") if "SLURM_ARRAY_TASK_MIN" in environment else 0
    elif "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        names, least = ("SLURM_PROCID", "SLURM_NTASKS"), 0
    else:
        raise InputError(
            "shard=auto: neither torchrun nor SLURM started this process (no RANK and WORLD_SIZE, "
            "SLURM_ARRAY_TASK_ID or SLURM_PROCID): name the shard, as shard=3/16"
        )
    index, count = (_number(environment, name) for name in names)
    said = f"shard=auto: {names[0]}={index}, {names[1]}={count}"
    return _checked(index - least, count, said + (f", SLURM_ARRAY_TASK_MIN={least}" if least else ""))


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return the value of a variable that must be a whole number."""
    try:
        return int(environment[name])
    except ValueError:
        raise InputError(f"shard=auto: {name}={environment[name]} is no whole number") from None


def _checked(index: int, count: int, said: str) -> Shard:
    """Return the shard, or refuse one that is not among its job's."""
    if not 1 <= count <= MOST:
        raise InputError(f"{said}: a job has 1 to {MOST} shards")
    if not 0 <= index < count:
        raise InputError(f"{said}: the shards of this job are 1/{count} to {count}/{count}, without gaps")
    return Shard(index, count)
