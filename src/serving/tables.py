"""The tables of the service: photos, jobs, predictions, reviews."""

from sqlalchemy import JSON, Float, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Tables."""


class ImageRow(Base):
    """A photo; its file lies under its digest."""

    __tablename__ = "image"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    filename: Mapped[str] = mapped_column(Text)
    ground_truth: Mapped[str | None] = mapped_column(Text)
    format: Mapped[str] = mapped_column(String(8))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    bytes: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float)
    prediction_id: Mapped[int | None] = mapped_column(Integer, index=True)  # the latest one
    review_id: Mapped[int | None] = mapped_column(Integer, index=True)  # the latest one
    __table_args__ = ({"sqlite_autoincrement": True},)  # an id is never given twice


class JobRow(Base):
    """A prediction that somebody asked for; the row is the truth, all else a wake-up."""

    __tablename__ = "job"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    status: Mapped[str] = mapped_column(String(8))
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    key: Mapped[str | None] = mapped_column(String(256), unique=True)  # of the request
    worker: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float | None] = mapped_column(Float)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float)
    __table_args__ = (Index("ix_job_claim", "status", "lease_until", "created_at"),)


class PredictionRow(Base):
    """The prediction of one model for a photo; at most one for a job."""

    __tablename__ = "prediction"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), unique=True)
    model_id: Mapped[str] = mapped_column(String(16))
    preprocessing: Mapped[str] = mapped_column(String(16))
    task: Mapped[str] = mapped_column(String(16))
    prediction: Mapped[str] = mapped_column(Text)
    confidence: Mapped[float | None] = mapped_column(Float)
    labels: Mapped[dict[str, list[str]]] = mapped_column(JSON)
    probabilities: Mapped[dict[str, dict[str, float]]] = mapped_column(JSON)
    created_at: Mapped[float] = mapped_column(Float)


class ReviewRow(Base):
    """An inspector's decision on a photo; the last one counts, earlier ones stay."""

    __tablename__ = "review"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id", ondelete="CASCADE"), index=True)
    prediction_id: Mapped[int | None] = mapped_column(ForeignKey("prediction.id", ondelete="CASCADE"))
    decision: Mapped[str] = mapped_column(String(8))
    labels: Mapped[dict[str, list[str]]] = mapped_column(JSON)
    comment: Mapped[str] = mapped_column(Text, default="")
    reviewer: Mapped[str] = mapped_column(Text, default="")
    model_id: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[float] = mapped_column(Float)
