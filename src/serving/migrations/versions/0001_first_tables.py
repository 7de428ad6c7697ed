"""First tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _of(table: str) -> sa.ForeignKey:
    return sa.ForeignKey(f"{table}.id", ondelete="CASCADE")


def upgrade() -> None:
    """Bring the tables forward."""
    op.create_table(
        "image",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("ground_truth", sa.Text()),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("prediction_id", sa.Integer(), index=True),
        sa.Column("review_id", sa.Integer(), index=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("image_id", sa.Integer(), _of("image"), nullable=False, index=True),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(256), unique=True),
        sa.Column("worker", sa.String(64)),
        sa.Column("lease_until", sa.Float()),
        sa.Column("error", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("finished_at", sa.Float()),
    )
    op.create_index("ix_job_claim", "job", ["status", "lease_until", "created_at"])
    op.create_table(
        "prediction",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("image_id", sa.Integer(), _of("image"), nullable=False, index=True),
        sa.Column("job_id", sa.String(32), _of("job"), unique=True),
        sa.Column("model_id", sa.String(16), nullable=False),
        sa.Column("preprocessing", sa.String(16), nullable=False),
        sa.Column("task", sa.String(16), nullable=False),
        sa.Column("prediction", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Float()),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("probabilities", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "review",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("image_id", sa.Integer(), _of("image"), nullable=False, index=True),
        sa.Column("prediction_id", sa.Integer(), _of("prediction")),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("reviewer", sa.Text(), nullable=False),
        sa.Column("model_id", sa.String(16)),
        sa.Column("created_at", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    """Bring the tables back."""
    for table in ("review", "prediction", "job", "image"):
        op.drop_table(table)
