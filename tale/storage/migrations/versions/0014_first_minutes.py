"""An index by which the models are found in the order in which they came."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add it to the rollups."""
    op.create_index("ix_rollup_minute_model", "rollup_minute", ["model", "minute"])
