"""Workers that take jobs from the store, predict, and finish them."""

import json
import logging
import os
import threading
import uuid
from collections.abc import Callable

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from src.images import UnreadableImage, read_photo
from src.serving.engine import Engine
from src.serving.photos import photo_path
from src.serving.settings import Settings
from src.serving.store import Store

log = logging.getLogger(__name__)
IDLE = 1.0  # seconds between looks for a job that nobody announced
LEASE = 60.0  # seconds that a job belongs to a worker


class Workers:
    """Threads that work on jobs until they are told to stop; `finished` gets the labels that they kept."""

    def __init__(self, store: Store, engine: Engine, settings: Settings, finished: Callable[[dict], None]):
        self.store, self.engine, self.folder, self.finished = store, engine, settings.folder, finished
        self.wake, self._stop = threading.Event(), threading.Event()  # set where there is a job; at the end
        names = [f"{os.getpid()}-{uuid.uuid4().hex[:8]}" for _ in range(settings.workers)]
        self._threads = [threading.Thread(target=self._loop, args=(name,), name=name) for name in names]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Begin no further job, and wait for those at work."""
        self._stop.set()
        self.wake.set()
        for thread in self._threads:
            thread.join(seconds)

    def _loop(self, name: str) -> None:
        while not self._stop.is_set():
            job = None
            try:
                if job := self.store.claim(name, LEASE):
                    self._work(job, name)
            except SQLAlchemyError as error:  # the database is away; leases end, and jobs are taken again
                log.error("job %s: %s", job.id if job else "unknown", type(error).__name__)
                job = None
            if job is None:
                self.wake.wait(IDLE)
                self.wake.clear()

    def _work(self, job: Row, name: str) -> None:
        prediction = error = None
        try:
            model = self.engine.model  # one reference: it may be swapped meanwhile
            found = model.predict(read_photo(photo_path(self.folder, job.sha256, job.format)))
            prediction = {
                "task": model.predictor.task,
                "prediction": found.text,
                "confidence": found.confidence,
                "labels": found.labels,
                "probabilities": found.probabilities,
                "look_at": found.look_at,
                **model.origin,
            }
        except UnreadableImage as unreadable:
            error = str(unreadable)
        except Exception:  # any other error fails this job, not its worker
            log.exception("job %s", job.id)
            error = "the prediction failed; the log of the service says why"
        if self.store.finish(job, name, prediction, error) and prediction:
            self.finished(found.labels)
            record = {"job": job.id, "image_id": job.image_id} | model.record(found)
            log.info("%s", json.dumps(record, ensure_ascii=False))
