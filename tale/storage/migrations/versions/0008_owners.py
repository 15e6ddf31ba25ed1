"""Which host and home makes a call."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add it to the calls; what is under way during the upgrade has none."""
    op.add_column("model_calls", sa.Column("owner", sa.Text()))
