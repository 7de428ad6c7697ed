"""The priority of a job, and when the broker got it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Bring the table forward."""
    op.add_column("job", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("job", sa.Column("published_at", sa.Float()))
    op.create_index("ix_job_next", "job", ["status", "priority", "created_at"])


def downgrade() -> None:
    """Bring the table back."""
    op.drop_index("ix_job_next", "job")
    op.drop_column("job", "published_at")
    op.drop_column("job", "priority")
