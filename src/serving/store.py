"""Photos, predictions, reviews and jobs in a database; SQLite, or later PostgreSQL, through SQLAlchemy."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    Text,
    and_,
    case,
    cast,
    create_engine,
    delete,
    event,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from src.errors import InputError, first_line
from src.serving.photos import Checked
from src.serving.tables import ImageRow, JobRow, PredictionRow, ReviewRow

MIGRATIONS = Path(__file__).parent / "migrations"
WAIT = 15.0  # seconds that a writer waits for another one
MAX_ATTEMPTS = 3


class Store:
    """The database of one service.

    Args:
        url: of SQLAlchemy, as `sqlite:///corbel.db`.

    Raises:
        InputError: for a database that cannot be opened or brought to this version's tables.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            self.engine = create_engine(
                url,
                json_serializer=_json,
                connect_args={"timeout": WAIT} if url.startswith("sqlite") else {},
            )
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _prepare_sqlite)
                event.listen(self.engine, "begin", _begin_sqlite)
            migrate(self.engine)
        except (SQLAlchemyError, CommandError) as error:
            cause = first_line(getattr(error, "orig", None) or error)
            raise InputError(f"database_url={url}: cannot be used ({cause})") from error

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(reads=True) as connection, connection.begin():
            yield connection

    def check(self) -> None:
        """Ask the database for an answer; SQLAlchemy's errors where it gives none."""
        with self._reading() as db:
            db.execute(select(func.count()).select_from(JobRow).where(JobRow.status == "none"))

    # Photos

    def add_image(self, photo: Checked, filename: str, ground_truth: str | None) -> tuple[Row, bool]:
        """Return the row of a photo and whether it is new; the same content has one row."""
        values = {"sha256": photo.sha256, "filename": filename, "ground_truth": ground_truth,
                  "format": photo.format, "width": photo.width, "height": photo.height,
                  "bytes": len(photo.content), "created_at": time.time()}  # fmt: skip
        with self.engine.begin() as db:
            found = db.execute(select(ImageRow).where(ImageRow.sha256 == photo.sha256)).first()
            if found is None:
                db.execute(insert(ImageRow).values(values))
            elif ground_truth is not None:
                db.execute(update(ImageRow).where(ImageRow.id == found.id).values(ground_truth=ground_truth))
            return db.execute(select(ImageRow).where(ImageRow.sha256 == photo.sha256)).one(), found is None

    def image(self, image_id: int) -> Row | None:
        """Return a photo with its latest prediction and review, as `images` does."""
        with self._reading() as db:
            return db.execute(_joined().where(ImageRow.id == image_id)).first()

    def images(
        self,
        offset: int = 0,
        limit: int = 50,
        label: str | None = None,
        reviewed: bool | None = None,
        text: str | None = None,
        order: str = "newest",
    ) -> tuple[int, Sequence[Row]]:
        """Return the number of photos that fit, and a page of them with their predictions and reviews.

        Args:
            offset: of the page's first photo.
            limit: photos of the page.
            label: on the photo by its review, else by its prediction.
            reviewed: whether somebody has decided on it.
            text: a part of the file name.
            order: `newest`, or `unsure`: the least confident first.
        """
        found = _joined()
        if label is not None:
            carried = case((ReviewRow.id.is_(None), PredictionRow.labels), else_=ReviewRow.labels)
            quoted = json.dumps(label, ensure_ascii=False)
            found = found.where(cast(carried, Text).contains(quoted, autoescape=True))
        if reviewed is not None:
            found = found.where(ImageRow.review_id.is_not(None) if reviewed else ImageRow.review_id.is_(None))
        if text:
            found = found.where(ImageRow.filename.icontains(text, autoescape=True))
        first = [PredictionRow.confidence.asc().nulls_last()] if order == "unsure" else []
        with self._reading() as db:
            total = db.execute(select(func.count()).select_from(found.subquery())).scalar_one()
            page = found.order_by(*first, ImageRow.id.desc()).offset(offset).limit(limit)
            return total, db.execute(page).all()

    def delete_image(self, image_id: int) -> str | None:
        """Delete a photo's rows; return its digest, None for an unknown photo."""
        with self.engine.begin() as db:
            found = db.execute(select(ImageRow.sha256).where(ImageRow.id == image_id)).scalar()
            for table in (ReviewRow, PredictionRow, JobRow):
                db.execute(delete(table).where(table.image_id == image_id))
            db.execute(delete(ImageRow).where(ImageRow.id == image_id))
            return found

    def add_review(self, image_id: int, **values: Any) -> bool:
        """Keep an inspector's decision on a photo; return whether the photo is there."""
        with self.engine.begin() as db:
            row = db.execute(_joined().where(ImageRow.id == image_id)).first()
            if row is None:
                return False
            added = db.execute(
                insert(ReviewRow).values(
                    image_id=image_id, prediction_id=row.prediction_id, model_id=row.model_id,
                    created_at=time.time(), **values,
                )
            )  # fmt: skip
            latest = {"review_id": added.inserted_primary_key[0]}
            db.execute(update(ImageRow).where(ImageRow.id == image_id).values(latest))
            return True

    def reviewed_labels(self) -> set[str]:
        """Return the labels that reviews carry."""
        with self._reading() as db:
            found = db.execute(select(ReviewRow.labels).distinct()).scalars()
            return {name for labels in found for names in labels.values() for name in names}

    # Jobs

    def add_job(self, image_id: int, key: str | None = None) -> str | None:
        """Queue a prediction; return its id, None for an unknown photo.

        Args:
            image_id: the photo.
            key: of the request; a second request with it gets the first one's job.

        Raises:
            KeyError: for a key that came with another photo.
        """
        job_id = uuid.uuid4().hex
        with self.engine.begin() as db:
            if db.execute(select(ImageRow.id).where(ImageRow.id == image_id)).first() is None:
                return None
            before = key and db.execute(select(JobRow).where(JobRow.key == key)).first()
            if before:
                if before.image_id != image_id:
                    raise KeyError(key)
                return before.id
            values = {"id": job_id, "image_id": image_id, "status": "PENDING", "created_at": time.time()}
            db.execute(insert(JobRow).values(attempts=0, key=key, **values))
        return job_id

    def job(self, job_id: str) -> Row | None:
        """Return a job with its prediction."""
        result = ("prediction", "labels", "probabilities", "confidence", "model_id", "preprocessing")
        query = select(JobRow, *(getattr(PredictionRow, name) for name in result))
        query = query.outerjoin(PredictionRow, PredictionRow.job_id == JobRow.id)
        with self._reading() as db:
            return db.execute(query.where(JobRow.id == job_id)).first()

    def claim(self, worker: str, lease: float) -> Row | None:
        """Take the oldest job that waits, or whose worker has been silent beyond its lease.

        A job that was begun `MAX_ATTEMPTS` times is given up as `DEAD`: it may well be what ends its workers.

        Returns:
            `id, image_id, attempts, sha256` of the job; None where there is none.
        """
        now = time.time()
        free = or_(JobRow.status == "PENDING", and_(JobRow.status == "STARTED", JobRow.lease_until < now))
        oldest = select(JobRow.id).where(free).order_by(JobRow.created_at).limit(1)
        if self.engine.dialect.name == "postgresql":
            oldest = oldest.with_for_update(skip_locked=True)
        with self.engine.begin() as db:
            gone = and_(free, JobRow.attempts >= MAX_ATTEMPTS)
            why = f"given up after {MAX_ATTEMPTS} attempts, whose workers ended or stood still"
            db.execute(update(JobRow).where(gone).values(status="DEAD", error=why, finished_at=now))
            if (job_id := db.execute(oldest).scalar()) is None:
                return None
            taken = {"status": "STARTED", "worker": worker, "lease_until": now + lease}
            db.execute(
                update(JobRow).where(JobRow.id == job_id).values(attempts=JobRow.attempts + 1, **taken)
            )
            query = select(JobRow.id, JobRow.image_id, JobRow.attempts, ImageRow.sha256, ImageRow.format)
            return db.execute(query.join(ImageRow).where(JobRow.id == job_id)).one()

    def finish(
        self, job: Row, worker: str, prediction: Mapping[str, Any] | None = None, error: str | None = None
    ) -> bool:
        """End a job with its prediction or error, if it is still this worker's; return whether it was."""
        status = "FAILURE" if prediction is None else "SUCCESS"
        mine = and_(
            JobRow.id == job.id, JobRow.worker == worker, JobRow.attempts == job.attempts,
            JobRow.status == "STARTED",
        )  # fmt: skip
        with self.engine.begin() as db:
            ended = update(JobRow).where(mine).values(status=status, error=error, finished_at=time.time())
            if db.execute(ended).rowcount != 1:
                return False
            if prediction is not None:
                _add_prediction(db, job.image_id, prediction, job.id)
        return True

    def release_all(self) -> None:
        """Give back the jobs of workers that ended: for a database that no other process uses."""
        with self.engine.begin() as db:
            db.execute(update(JobRow).where(JobRow.status == "STARTED").values(lease_until=0.0))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _add_prediction(db: Connection, image_id: int, prediction: Mapping[str, Any], job_id: str | None) -> None:
    """Insert a prediction as the photo's latest one."""
    values = {"image_id": image_id, "job_id": job_id, "created_at": time.time(), **prediction}
    added = db.execute(insert(PredictionRow).values(values))
    latest = {"prediction_id": added.inserted_primary_key[0]}
    db.execute(update(ImageRow).where(ImageRow.id == image_id).values(latest))


def _joined() -> Select:
    """Return the query of photos with their latest prediction and review."""
    said = (PredictionRow.task, PredictionRow.prediction, PredictionRow.confidence, PredictionRow.labels,
            PredictionRow.probabilities, PredictionRow.model_id, PredictionRow.preprocessing,
            PredictionRow.created_at.label("predicted_at"))  # fmt: skip
    decided = (ReviewRow.decision, ReviewRow.labels.label("review_labels"), ReviewRow.comment,
               ReviewRow.reviewer, ReviewRow.created_at.label("reviewed_at"))  # fmt: skip
    query = select(ImageRow, *said, *decided)
    query = query.outerjoin(PredictionRow, PredictionRow.id == ImageRow.prediction_id)
    return query.outerjoin(ReviewRow, ReviewRow.id == ImageRow.review_id)


def migrate(engine: Engine) -> None:
    """Bring the database's tables to this version."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Set up a connection: the transactions are ours to begin, readers do not stop writers."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction; a writer takes its lock at once, since an upgrade of a reader fails at once."""
    reads = connection.get_execution_options().get("reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
