"""Progress of long work: a bar on a terminal, and a line in the log every quarter of a minute."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
EVERY = 15.0  # seconds between lines


class ProgressLines:
    """Lines in the log about how far a piece of work is, at most one every `EVERY` seconds.

    Args:
        name: of the work.
        total: number of steps.
        unit: of a step, in the plural.
        done: steps that were done before.
    """

    def __init__(self, name: str, total: int, unit: str, done: int = 0):
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self.begun = self.last = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Count further steps; log how many are done, if the last line is old enough."""
        self.done += count
        now = time.monotonic()
        if now - self.last < EVERY or self.done >= self.total:
            return
        self.last = now
        share = 100 * self.done // max(1, self.total)
        with tqdm.external_write_mode(file=sys.stderr):
            log.info(
                "%s: %d of %d %s (%d %%), %.0f s",
                *(self.name, self.done, self.total, self.unit, share, now - self.begun),
            )


class ProgressBar(ProgressLines):
    """The same with a bar on a terminal; used as a context, which takes the bar away."""

    def __enter__(self) -> "ProgressBar":
        about = {"total": self.total, "initial": self.done, "desc": self.name, "unit": f" {self.unit}"}
        self.bar = tqdm(**about, disable=None, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def update(self, count: int = 1) -> None:
        """Count further steps."""
        self.bar.update(count)
        super().update(count)
