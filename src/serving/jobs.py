"""Workers that take jobs from the store, predict, and finish them."""

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from src.errors import first_line
from src.images import UnreadableImage
from src.serving.engine import Engine, ServedModel
from src.serving.photos import photo_name
from src.serving.settings import Settings
from src.serving.storage import Folder, StorageAway
from src.serving.store import Store, patiently

log = logging.getLogger(__name__)
IDLE = 1.0  # seconds between looks for a job that nobody announced
WATCH = 5.0  # seconds, at most, between looks at leases
LONGEST = 10  # leases: a job that takes longer stands still, and is left to another worker
FULL = 1000  # messages in the broker's queue from which on no waiting job is published again


class Workers:
    """Threads that work on jobs until they are told to stop; `finished` gets the labels that they kept.

    One more thread keeps the leases of what is at work, and publishes again what a `celery_app.Broker` lost.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        folder: Folder,
        settings: Settings,
        finished: Callable[[dict], None],
        broker: Any = None,
    ):
        self.store, self.engine, self.folder, self.finished = store, engine, folder, finished
        self.lease, self.broker = settings.lease, broker
        self.wake, self._stop = threading.Event(), threading.Event()  # set where there is a job; at the end
        self._at_work: dict[str, tuple[str, float]] = {}  # of a worker: job, time by which it has to be done
        self.name = f"{platform.node()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        names = [f"{self.name}-{number}" for number in range(settings.workers)]
        self._threads = [threading.Thread(target=self._loop, args=(name,), name=name) for name in names]
        self._threads.append(threading.Thread(target=self._watch, name="leases", daemon=True))

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

    def announce(self, job_id: str, priority: int) -> None:
        """Tell workers of a new job, here and behind the broker."""
        self.wake.set()
        if self.broker and not self.broker.publish(job_id, priority):
            self.store.unpublished(job_id)

    def work_on(self, job_id: str) -> None:
        """Work on a job that a message named, if it is still to be done; wait for a database that is away."""
        claim = partial(self._claimed, self.name, job_id)
        if job := patiently(claim, self.lease, _is_of_database):
            self._work(job, self.name)

    def _loop(self, name: str) -> None:
        while not self._stop.is_set():
            job = None
            try:
                if job := self._claimed(name):
                    self._work(job, name)
            except SQLAlchemyError as error:  # the database is away; leases end, and jobs are taken again
                log.error("job %s: %s", job.id if job else "unknown", type(error).__name__)
                job = None
            if job is None:
                self.wake.wait(IDLE)
                self.wake.clear()

    def _claimed(self, name: str, job_id: str | None = None) -> Row | None:
        if job := self.store.claim(name, self.lease, job_id):
            self._at_work[name] = (job.id, time.monotonic() + LONGEST * self.lease)
        return job

    def _watch(self) -> None:
        while not self._stop.wait(min(self.lease / 3, WATCH)):
            now = time.monotonic()
            at_work = [(job, name) for name, (job, until) in list(self._at_work.items()) if now < until]
            try:
                if at_work:
                    self.store.keep(at_work, self.lease)
                if self.broker:
                    for job in self.store.lost(self.lease, FULL - self.broker.length()):
                        if not self.broker.publish(job.id, job.priority, is_late=job.attempts > 0):
                            break  # leases come first; the others follow a lease later
            except Exception as error:  # the database or the broker is away: at the next look
                log.warning("leases: %s", first_line(getattr(error, "orig", None) or error))

    def _work(self, job: Row, name: str) -> None:
        try:
            model = self.engine.model  # one reference: it may be swapped meanwhile
            prediction, error, record = self._predicted(job, model)
            end = partial(self.store.finish, job, name, prediction, error)
            if patiently(end, self.lease, _is_of_database) and prediction:
                self.finished(prediction["labels"])
                log.info("%s", json.dumps(record, ensure_ascii=False))
        except StorageAway as away:
            log.error("job %s: %s", job.id, away)
            self.store.give_back(job, name)
            self._stop.wait(IDLE)
        finally:
            del self._at_work[name]

    def _predicted(self, job: Row, model: ServedModel) -> tuple[dict | None, str | None, dict]:
        """Return the prediction or the error of a job, and a record for the log."""
        try:
            found = model.predict(self.folder.read(photo_name(job.sha256, job.format)))
        except UnreadableImage as unreadable:
            return None, str(unreadable), {}
        except StorageAway:
            raise
        except Exception:  # any other error fails this job, not its worker
            log.exception("job %s", job.id)
            return None, "the prediction failed; the log of the service says why", {}
        names = ("confidence", "labels", "probabilities", "look_at")
        prediction = {name: getattr(found, name) for name in names} | model.origin
        prediction |= {"task": model.predictor.task, "prediction": found.text}
        return prediction, None, {"job": job.id, "image_id": job.image_id} | model.record(found)


def _is_of_database(error: Exception) -> bool:
    return isinstance(error, SQLAlchemyError)
