"""The labels of a prediction that a person should look at."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring the table forward."""
    op.add_column("prediction", sa.Column("look_at", sa.JSON()))


def downgrade() -> None:
    """Bring the table back."""
    op.drop_column("prediction", "look_at")
