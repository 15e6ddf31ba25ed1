"""Which engine served a call."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add its address to the calls."""
    op.add_column("model_calls", sa.Column("engine", sa.Text()))
