"""Indexes by which all that belongs to a trace is found."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add one to each table that names traces."""
    for table in ("tasks", "model_calls", "mcp_calls"):
        op.create_index(f"ix_{table}_trace_id", table, ["trace_id"])
