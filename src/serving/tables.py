"""The tables of the service: photos, jobs, predictions, reviews."""

from typing import Any, ClassVar

from sqlalchemy import JSON, Float, ForeignKey, Index, String, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement


class Base(DeclarativeBase):
    """Tables; a row takes the rows that refer to it with it."""

    type_annotation_map: ClassVar = {str: Text, float: Float}


class Now(FunctionElement):
    """The time of the database, in seconds since 1970: hosts' clocks may differ."""

    type, inherit_cache = Float(), True


@compiles(Now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(Now)
def _now(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


class ImageRow(Base):
    """A photo; its file lies under its digest."""

    __tablename__ = "image"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    filename: Mapped[str]
    ground_truth: Mapped[str | None]
    format: Mapped[str] = mapped_column(String(8))
    width: Mapped[int]
    height: Mapped[int]
    bytes: Mapped[int]
    created_at: Mapped[float]
    prediction_id: Mapped[int | None] = mapped_column(index=True)  # the latest one
    review_id: Mapped[int | None] = mapped_column(index=True)  # the latest one
    __table_args__ = ({"sqlite_autoincrement": True},)  # an id is never given twice


class JobRow(Base):
    """A prediction that somebody asked for; the row is the truth, all else a wake-up."""

    __tablename__ = "job"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(String(8))
    attempts: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(server_default="0")  # the lowest first
    key: Mapped[str | None] = mapped_column(String(256), unique=True)  # of the request
    worker: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float | None]
    error: Mapped[str | None]
    created_at: Mapped[float]
    published_at: Mapped[float | None]  # when the broker got it last; null: it did not
    finished_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_job_claim", "status", "lease_until", "created_at"),
        Index("ix_job_next", "status", "priority", "created_at"),
    )


class PredictionRow(Base):
    """The prediction of one model for a photo; at most one for a job."""

    __tablename__ = "prediction"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), unique=True)
    model_id: Mapped[str] = mapped_column(String(16))
    preprocessing: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(16))
    prediction: Mapped[str]
    confidence: Mapped[float | None]
    labels: Mapped[dict] = mapped_column(JSON)
    probabilities: Mapped[dict] = mapped_column(JSON)
    look_at: Mapped[dict | None] = mapped_column(JSON)
    created_at: Mapped[float]


class ReviewRow(Base):
    """An inspector's decision on a photo; the last one counts, earlier ones stay."""

    __tablename__ = "review"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    prediction_id: Mapped[int | None] = mapped_column(ForeignKey("prediction.id", ondelete="CASCADE"))
    decision: Mapped[str] = mapped_column(String(16))
    labels: Mapped[dict] = mapped_column(JSON)
    comment: Mapped[str]
    reviewer: Mapped[str]
    model_id: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[float]
