"""Workers that take jobs from the store, predict, and finish them."""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from src.images import UnreadableImage
from src.inference.predictor import Prediction
from src.serving.engine import Engine, ServedModel
from src.serving.photos import read_stored
from src.serving.store import Store

log = logging.getLogger(__name__)
IDLE = 1.0  # seconds between looks for a job that nobody announced


def as_values(model: ServedModel, found: Prediction) -> dict[str, object]:
    """Return a prediction as the store keeps it."""
    return {
        "model_id": model.id,
        "preprocessing": model.preprocessing,
        "task": model.predictor.task,
        "prediction": found.text,
        "confidence": found.confidence,
        "labels": found.labels,
        "probabilities": found.probabilities,
    }


class Workers:
    """Threads that work on jobs until they are told to stop.

    Args:
        store: the jobs.
        engine: the model.
        folder: of the service, with its stored photos.
        count: threads.
        lease: seconds that a job belongs to a worker without a sign of life.
        finished: called with each prediction that was kept.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        folder: Path,
        count: int,
        lease: float,
        finished: Callable[[dict], None],
    ):
        self.store, self.engine, self.folder, self.lease = store, engine, folder, lease
        self.finished = finished
        self._wake, self._stop = threading.Event(), threading.Event()
        names = [f"{os.getpid()}-{uuid.uuid4().hex[:8]}" for _ in range(count)]
        self._threads = [threading.Thread(target=self._loop, args=(name,), name=name) for name in names]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Tell the workers that there is a job."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Begin no further job, and wait for those at work."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(seconds)

    def _loop(self, name: str) -> None:
        while not self._stop.is_set():
            try:
                job = self.store.claim(name, self.lease)
            except SQLAlchemyError as error:  # the database is away for a while
                log.error("no job can be taken: %s", type(error).__name__)
                job = None
            if job is None:
                self._wake.wait(IDLE)
                self._wake.clear()
                continue
            try:
                self._work(job, name)
            except SQLAlchemyError as error:  # its lease ends, and it is taken again
                log.error("job %s was not finished: %s", job.id, type(error).__name__)

    def _work(self, job: Row, name: str) -> None:
        """Predict one photo and finish its job."""
        prediction = error = None
        try:
            model, found = self.engine.predict(read_stored(self.folder, job.sha256, job.format))
            prediction = as_values(model, found)
        except UnreadableImage as unreadable:
            error = str(unreadable)
        except Exception:  # any other error fails this job, not its worker
            log.exception("job %s", job.id)
            error = "the prediction failed; the log of the service says why"
        if self.store.finish(job, name, prediction, error) and prediction:
            self.finished(prediction)
