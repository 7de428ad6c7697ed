"""Jobs through Celery on Redis: a message carries a job's id, the row in the database is the truth.

A message may be lost, or come twice: rows are claimed once, and those without a message are published again.
`python scripts/worker.py`, or `celery -A src.serving.celery_app worker` with `CORBEL_*` variables.
"""

import logging
import os
import time
from typing import Any

import redis
from celery import Celery
from celery.signals import worker_process_init, worker_shutdown

from src.errors import InputError, first_line, leave
from src.serving.engine import Engine, load_served
from src.serving.jobs import Workers
from src.serving.settings import Settings, read_settings
from src.serving.storage import StorageAway, open_folder
from src.serving.store import Store, patiently

log = logging.getLogger(__name__)
QUEUE = "corbel"
AWAY = 5.0  # seconds after a failure in which nothing is sent
FIRST, SINGLE, BATCH = 0, 3, 6  # Redis has no priorities: Celery keeps a list for each
app = Celery(QUEUE, broker=os.environ.get("CORBEL_BROKER_URL"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # Redis may come back at any time
    broker_transport_options={
        "priority_steps": [FIRST, SINGLE, BATCH],
        "queue_order_strategy": "priority",
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        "socket_keepalive": True,
    },
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_publish_retry=False,  # the sweep publishes again
    worker_pool="solo",  # one job at a time: the model has its own threads, and does not survive a fork
    worker_prefetch_multiplier=1,
    worker_redirect_stdouts=False,
)
_at_work: dict[str, Any] = {}  # the settings and the workers of this process


class Broker:
    """The queue of jobs in Redis; an `InputError` where it does not answer within some seconds."""

    def __init__(self, url: str, patience: float):
        app.conf.broker_url = url
        self._away_until = 0.0  # on a clock, after a message that could not be sent
        try:
            client = redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5)
            patiently(client.ping, patience, _is_passing)
        except (redis.RedisError, ValueError) as error:
            raise InputError(f"broker_url: Redis cannot be used ({first_line(error)})") from error

    def publish(self, job_id: str, priority: int, is_late: bool = False) -> bool:
        """Send a job's id; return whether that worked. A job that lost its worker goes first.

        For some seconds after a failure nothing is sent, as each try holds a thread: the sweep does it later.
        """
        if time.monotonic() < self._away_until:
            return False
        step = FIRST if is_late else BATCH if priority else SINGLE
        try:
            predict.apply_async((job_id,), priority=step)
        except Exception as error:  # of kombu, redis or the network
            log.warning("job %s: not published (%s)", job_id, first_line(error))
            self._away_until = time.monotonic() + AWAY
            return False
        return True

    def length(self) -> int:
        """Return the number of messages that wait."""
        with app.pool.acquire(block=True) as connection:
            return connection.default_channel.queue_declare(QUEUE).message_count


def _is_passing(error: Exception) -> bool:
    refuses = (redis.AuthenticationError, redis.exceptions.NoPermissionError)
    return isinstance(error, redis.ConnectionError | redis.TimeoutError) and not isinstance(error, refuses)


@app.task(name="corbel.predict")
def predict(job_id: str) -> None:
    """Work on one job, if it is still to be done."""
    _at_work["workers"].work_on(job_id)


def work(settings: Settings) -> None:
    """Work on jobs until SIGTERM; the one at work is finished first."""
    _at_work["settings"] = settings
    app.conf.update(broker_url=settings.broker_url, worker_hijack_root_logger=False)
    calm = ("--without-gossip", "--without-mingle", "--without-heartbeat")  # workers need not know each other
    app.worker_main(["--quiet", "worker", "--loglevel=WARNING", *calm])


@worker_process_init.connect
def _begin(**_: Any) -> None:
    try:
        settings = _at_work.get("settings") or read_settings({})
        _at_work["workers"] = workers_of(settings)
    except InputError as error:
        leave(2, str(error))
    _at_work["workers"].start()


@worker_shutdown.connect
def _end(**_: Any) -> None:
    if workers := _at_work.pop("workers", None):
        workers.stop(5)


def workers_of(settings: Settings) -> Workers:
    """Return what works on a broker's jobs in this process, its model loaded; or raise an `InputError`."""
    if settings.broker_url is None or settings.is_alone:
        missing = "database_url" if settings.is_alone else "broker_url"
        raise InputError(f"a worker needs CORBEL_{missing.upper()}, of PostgreSQL and Redis")
    settings = settings.model_copy(update={"workers": 0})  # no threads: Celery brings the jobs
    folder, store = open_folder(settings.folder), Store(settings.database, settings.patience)
    broker = Broker(settings.broker_url, settings.patience)
    model = load_served(settings.ckpt, settings.backend, settings.runs, settings.miss, settings.device)
    try:
        patiently(folder.expect_mark, settings.patience, lambda error: isinstance(error, StorageAway))
    except StorageAway as error:
        raise InputError(f"folder={settings.folder}: {error}") from error
    log.info("working with %s", model.path)
    engine = Engine(model, settings.threads, settings.queue, settings.timeout)
    return Workers(store, engine, folder, settings, lambda _: None, broker)
