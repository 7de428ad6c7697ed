"""Photos, predictions, reviews and jobs in a database, SQLite or PostgreSQL, through SQLAlchemy."""

import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util.exc import CommandError
from sqlalchemy import Row, and_, cast, delete, event, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from src.errors import InputError, first_line
from src.serving.bodies import Wanted
from src.serving.photos import Checked
from src.serving.tables import Base, ImageRow, JobRow, Now, PredictionRow, ReviewRow

log = logging.getLogger(__name__)
MIGRATIONS = Path(__file__).parent / "migrations"
WAIT = 15.0  # seconds that a writer waits for another one
MAX_ATTEMPTS = 3
MIGRATING = 7_203_114  # the advisory lock of migrations
PASSING = ("starting up", "shutting down", "recovery mode", "too many")  # refusals that a server takes back
OPTIONS: dict[str, dict[str, Any]] = {
    "sqlite": {"connect_args": {"timeout": WAIT}},
    "postgresql": {
        "connect_args": {
            "connect_timeout": 5,
            "client_encoding": "utf8",
            "tcp_user_timeout": 10_000,
            # while an answer is waited for: a host that lost its power says nothing more
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # a host that lost its power in a transaction holds its locks no longer
            "options": "-c idle_in_transaction_session_timeout=60000 -c statement_timeout=20000 "
            "-c lock_timeout=10000",
        },
        "pool_pre_ping": True,  # a connection that the server closed is replaced
        "pool_size": 10,
        "pool_timeout": WAIT,
    },
}


def patiently(work: Callable[[], Any], seconds: float, is_passing: Callable[[Exception], bool]) -> Any:
    """Return what work returns; do it again, for some seconds, while it fails with an error that may pass."""
    until, pause = time.monotonic() + seconds, 0.5
    while True:
        try:
            return work()
        except Exception as error:
            if not is_passing(error) or time.monotonic() + pause > until:
                raise
            log.warning("%s: once more in %.1f s", first_line(getattr(error, "orig", None) or error), pause)
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _again(write: Callable[..., Any]) -> Callable[..., Any]:
    """Call a method once more where another process has just written the same: it finds that row."""

    @wraps(write)
    def twice(*given: Any, **named: Any) -> Any:
        try:
            return write(*given, **named)
        except IntegrityError:
            return write(*given, **named)

    return twice


class Store:
    """The database of one service; an `InputError` if it cannot be opened, or is of a later version.

    A server that is away, or starts, is waited for with `patience`, in seconds.
    """

    def __init__(self, url: str | sa.URL, patience: float = 0.0):
        as_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)
        try:
            url = sa.make_url(url)
            if url.drivername in ("postgres", "postgresql"):
                url = url.set(drivername="postgresql+psycopg")
            options = OPTIONS.get(url.get_backend_name(), {})
            self.engine = sa.create_engine(url, json_serializer=as_json, hide_parameters=True, **options)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            patiently(self._migrate, patience, _is_passing)
        except (SQLAlchemyError, CommandError, ImportError, ValueError) as error:  # its driver; its port
            cause = first_line(getattr(error, "orig", None) or error)
            if isinstance(error.__cause__, ResolutionError):
                cause = "its tables are of a later version of Corbel: take that one"
            shown = url.set(query={}) if isinstance(url, sa.URL) else "..."  # it may hold a password
            raise InputError(f"database_url={shown}: cannot be used ({cause})") from error

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":  # where several processes may start at once
                connection.execute(select(func.pg_advisory_xact_lock(MIGRATING)))
                connection.execute(sa.text("set local statement_timeout = 0"))
                if (encoding := connection.scalar(sa.text("show server_encoding"))) != "UTF8":
                    raise ValueError(f"its encoding is {encoding}: make it with encoding 'UTF8'")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self.engine.connect().execution_options(reads=True) as connection, connection.begin():
            yield connection

    def check(self) -> None:
        """Ask the database for an answer; SQLAlchemy's errors where it gives none."""
        with self._reading() as db:
            db.execute(select(JobRow.id).limit(1))

    # Photos

    @_again
    def add_image(self, photo: Checked, filename: str, ground_truth: str | None) -> tuple[int, bool]:
        """Return the id of a photo and whether it is new; the same content has one row."""
        values = {"filename": filename, "ground_truth": ground_truth, "bytes": len(photo.content)}
        values |= {name: getattr(photo, name) for name in ("sha256", "format", "width", "height")}
        with self.engine.begin() as db:
            image_id = db.scalar(select(ImageRow.id).where(ImageRow.sha256 == photo.sha256).with_for_update())
            if image_id is None:
                added = db.execute(insert(ImageRow).values(created_at=Now(), **values))
                return added.inserted_primary_key[0], True
            if ground_truth is not None:
                db.execute(update(ImageRow).where(ImageRow.id == image_id).values(ground_truth=ground_truth))
            return image_id, False

    def used_bytes(self) -> int:
        """Return the bytes of all stored photos."""
        with self._reading() as db:
            return db.scalar(select(func.coalesce(func.sum(ImageRow.bytes), 0)))

    def image(self, image_id: int) -> Row | None:
        """Return a photo with its latest prediction and review, as `images` does."""
        with self._reading() as db:
            return db.execute(_joined().where(ImageRow.id == image_id)).first()

    def images(self, wanted: Wanted) -> tuple[int, Sequence[Row]]:
        """Return the number of photos that fit, and a page of them with their predictions and reviews."""
        found = _joined(wanted.reviewed)
        if wanted.label is not None:
            carried = sa.case((ReviewRow.id.is_(None), PredictionRow.labels), else_=ReviewRow.labels)
            text, name = cast(carried, sa.Text), json.dumps(wanted.label, ensure_ascii=False)
            ends = (text.contains(name + end, autoescape=True) for end in ",]")  # after a kind stands ":"
            found = found.where(or_(*ends))
        if wanted.text:
            found = found.where(ImageRow.filename.icontains(wanted.text, autoescape=True))
        order, page = [ImageRow.id.desc()], found
        beyond = ImageRow.id < (wanted.after or 0)
        if wanted.order == "unsure":
            rank = func.coalesce(PredictionRow.confidence, 2.0)  # what is not predicted comes last
            order.insert(0, rank)
            row = self.image(wanted.after or 0)
            last = -1.0 if row is None else 2.0 if row.confidence is None else row.confidence
            beyond = or_(rank > last, and_(rank == last, beyond))
        if wanted.after is not None:
            page = page.where(beyond)
        with self._reading() as db:
            total = db.scalar(found.with_only_columns(func.count(ImageRow.id)))
            page = page.order_by(*order).offset(wanted.offset).limit(wanted.limit)
            return total, db.execute(page).all()

    def all_images(self, reviewed: bool | None, page: int = 1000) -> Iterator[Row]:
        """Yield the photos by id; those that come or go meanwhile repeat or hide no other one."""
        last, rows = 0, True
        while rows:
            with self._reading() as db:
                found = _joined(reviewed).where(ImageRow.id > last)
                rows = db.execute(found.order_by(ImageRow.id).limit(page)).all()
            yield from rows
            last = rows[-1].id if rows else last

    def delete_image(self, image_id: int, remove: Callable[[str, str], None]) -> bool:
        """Delete a photo's rows; return whether there were some.

        `remove` gets its digest and format before others can write: so no new row of it lacks its file.
        """
        with self.engine.begin() as db:
            columns = select(ImageRow.sha256, ImageRow.format).with_for_update()
            if found := db.execute(columns.where(ImageRow.id == image_id)).first():
                db.execute(delete(ImageRow).where(ImageRow.id == image_id))
                remove(*found)
        return found is not None

    def add_review(self, image_id: int, **values: Any) -> bool:
        """Keep an inspector's decision on a photo; return whether the photo is there."""
        photo = ImageRow.id == image_id
        with self.engine.begin() as db:
            if db.scalar(select(ImageRow.id).where(photo).with_for_update()) is None:
                return False
            review = insert(ReviewRow).values(image_id=image_id, created_at=Now(), **values)
            (review_id,) = db.execute(review).inserted_primary_key
            db.execute(update(ImageRow).where(photo).values(review_id=review_id))
        return True

    def labels_in(self, *tables: type[Base]) -> dict[str, set[str]]:
        """Return the labels that reviews or predictions carry, of each kind."""
        found: dict[str, set[str]] = {}
        queries = [select(cast(table.labels, sa.Text)).distinct() for table in tables]
        with self._reading() as db:
            for labels in db.scalars(sa.union(*queries)):
                for kind, names in json.loads(labels).items():
                    found.setdefault(kind, set()).update(names)
        return found

    # Jobs

    @_again
    def add_job(self, image_id: int, key: str | None = None, priority: int = 0) -> str | None:
        """Queue a prediction; return its id, None for an unknown photo.

        A second request with a key gets the first one's job; a `KeyError` where that is of another photo.
        """
        values = {"id": uuid.uuid4().hex, "image_id": image_id, "key": key, "priority": priority}
        values |= {"status": "PENDING", "attempts": 0, "created_at": Now(), "published_at": Now()}
        with self.engine.begin() as db:
            photo = select(ImageRow.id).where(ImageRow.id == image_id)
            if db.scalar(photo.with_for_update(read=True, key_share=True)) is None:
                return None
            before = key and db.execute(select(JobRow).where(JobRow.key == key)).first()
            if before and before.image_id != image_id:
                raise KeyError(key)
            if not before:
                db.execute(insert(JobRow).values(values))
        return before.id if before else values["id"]

    def job(self, job_id: str) -> Row | None:
        """Return a job with its photo's digest and its prediction."""
        said = ("prediction", "labels", "probabilities", "confidence", "look_at", "model_id", "preprocessing")
        query = select(JobRow, ImageRow.sha256, *(getattr(PredictionRow, name) for name in said))
        query = query.select_from(JobRow).join(ImageRow, ImageRow.id == JobRow.image_id)
        query = query.outerjoin(PredictionRow, PredictionRow.job_id == JobRow.id)
        with self._reading() as db:
            return db.execute(query.where(JobRow.id == job_id)).first()

    def claim(self, worker: str, lease: float, job_id: str | None = None) -> Row | None:
        """Take a job that waits, or whose worker has been silent beyond its lease: this one, or the next one.

        A job that was begun `MAX_ATTEMPTS` times is given up as `DEAD`: it may well be what ends its workers.
        """
        lost = select(JobRow.id, JobRow.attempts).where(_silent()).order_by(JobRow.lease_until)
        waiting = select(JobRow.id, JobRow.attempts).where(JobRow.status == "PENDING")
        waiting = waiting.order_by(JobRow.priority, JobRow.created_at)
        with self.engine.begin() as db:
            for query in (lost, waiting):
                query = query.limit(1).with_for_update(skip_locked=True)  # without a meaning for SQLite
                query = query if job_id is None else query.where(JobRow.id == job_id)
                while found := db.execute(query).first():
                    if found.attempts < MAX_ATTEMPTS:
                        return self._taken(db, found.id, worker, lease)
                    why = f"given up after {MAX_ATTEMPTS} attempts, whose workers ended or stood still"
                    gone = {"status": "DEAD", "error": why, "finished_at": Now()}
                    db.execute(update(JobRow).where(JobRow.id == found.id).values(gone))
        return None

    def _taken(self, db: sa.Connection, job_id: str, worker: str, lease: float) -> Row:
        taken = {"status": "STARTED", "worker": worker, "lease_until": Now() + lease}
        taken["attempts"] = JobRow.attempts + 1
        db.execute(update(JobRow).where(JobRow.id == job_id).values(taken))
        query = select(JobRow.id, JobRow.image_id, JobRow.attempts, ImageRow.sha256, ImageRow.format)
        return db.execute(query.join(ImageRow).where(JobRow.id == job_id)).one()

    def keep(self, jobs: Iterable[tuple[str, str]], lease: float) -> None:
        """Lengthen the leases of jobs at work, each given with its worker."""
        for job_id, worker in jobs:  # one lock at a time: a deletion takes a photo's jobs in another order
            mine = (JobRow.id == job_id, JobRow.worker == worker, JobRow.status == "STARTED")
            with self.engine.begin() as db:
                db.execute(update(JobRow).where(*mine).values(lease_until=Now() + lease))

    def finish(self, job: Row, worker: str, prediction: dict | None = None, error: str | None = None) -> bool:
        """End a job with its prediction or error, if it is still this worker's; return whether it was."""
        mine = (JobRow.id == job.id, JobRow.worker == worker, JobRow.attempts == job.attempts)
        ended = update(JobRow).where(*mine, JobRow.status == "STARTED")
        status = "SUCCESS" if prediction else "FAILURE"
        photo = ImageRow.id == job.image_id
        with self.engine.begin() as db:
            db.execute(
                select(ImageRow.id).where(photo).with_for_update()
            )  # before the job, as a deletion does
            if db.execute(ended.values(status=status, error=error, finished_at=Now())).rowcount != 1:
                return False
            if prediction:
                values = {"image_id": job.image_id, "job_id": job.id, "created_at": Now(), **prediction}
                (latest,) = db.execute(insert(PredictionRow).values(values)).inserted_primary_key
                db.execute(update(ImageRow).where(photo).values(prediction_id=latest))
        return True

    def give_back(self, job: Row, worker: str) -> None:
        """Let a job wait again, as if it had not been begun: what it needs is away."""
        mine = (JobRow.id == job.id, JobRow.worker == worker, JobRow.status == "STARTED")
        values = {"status": "PENDING", "attempts": job.attempts - 1, "published_at": Now()}
        with self.engine.begin() as db:
            db.execute(update(JobRow).where(*mine).values(values))

    def release_all(self) -> None:
        """Give back the jobs of workers that ended: for a database that no other process uses."""
        with self.engine.begin() as db:
            db.execute(update(JobRow).where(JobRow.status == "STARTED").values(lease_until=0.0))

    def lost(self, age: float, room: int) -> list[Row]:
        """Return jobs to publish again, and note that they are.

        Those are of workers that are silent, the first time that this is seen, and at most `room` that wait
        and were published longer ago than `age`, in seconds.
        """
        unheard = or_(JobRow.published_at.is_(None), JobRow.published_at < Now() - age)
        silent = and_(_silent(), or_(unheard, JobRow.published_at < JobRow.lease_until))
        waiting = and_(JobRow.status == "PENDING", unheard)
        found: list[Row] = []
        with self.engine.begin() as db:
            for which, most in ((silent, 100), (waiting, room)):
                query = select(JobRow.id, JobRow.priority, JobRow.attempts).where(which)
                query = query.order_by(JobRow.priority, JobRow.created_at).limit(max(most, 0))
                found += db.execute(query.with_for_update(skip_locked=True)).all()
            if ids := [row.id for row in found]:
                db.execute(update(JobRow).where(JobRow.id.in_(ids)).values(published_at=Now()))
        return found

    def unpublished(self, job_id: str) -> None:
        """Note that the broker did not get a job: it is published at the next look."""
        with self.engine.begin() as db:
            db.execute(update(JobRow).where(JobRow.id == job_id).values(published_at=None))

    def waiting(self) -> int:
        """Return the number of jobs that wait."""
        with self._reading() as db:
            return db.scalar(select(func.count()).where(JobRow.status == "PENDING"))


def _silent() -> sa.ColumnElement[bool]:
    return and_(JobRow.status == "STARTED", JobRow.lease_until < Now())


def _is_passing(error: Exception) -> bool:
    """Whether a server may be there soon: it does not listen, or starts; not that it refuses us."""
    if not isinstance(error, OperationalError) or isinstance(error.orig, sqlite3.Error):
        return False
    told = str(error.orig)
    return "FATAL" not in told or any(words in told for words in PASSING)


def _joined(reviewed: bool | None = None) -> sa.Select:
    said = ("prediction", "confidence", "labels", "probabilities", "look_at", "model_id", "preprocessing")
    last = select(JobRow.status).where(JobRow.image_id == ImageRow.id).order_by(JobRow.created_at.desc())
    query = select(
        ImageRow,
        last.limit(1).correlate(ImageRow).scalar_subquery().label("status"),
        *(getattr(PredictionRow, name) for name in said),
        PredictionRow.created_at.label("predicted_at"),
        *(getattr(ReviewRow, name) for name in ("decision", "comment", "reviewer")),
        ReviewRow.labels.label("review_labels"),
        ReviewRow.created_at.label("reviewed_at"),
    )
    query = query.outerjoin(PredictionRow, PredictionRow.id == ImageRow.prediction_id)
    query = query.outerjoin(ReviewRow, ReviewRow.id == ImageRow.review_id)
    return query if reviewed is None else query.where(ImageRow.review_id.is_not(None) == reviewed)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Set up a connection: the transactions are ours to begin, readers do not stop writers."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    # SQLite's own knows the letters of ASCII alone; names are searched with it
    connection.create_function("lower", 1, lambda text: text and text.casefold(), deterministic=True)


def _begin_sqlite(connection: sa.Connection) -> None:
    """Begin a transaction; a writer takes its lock at once, since an upgrade of a reader fails at once."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
