"""Sums and histograms by the minute, and the index by which calls and tasks that have ended are found."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add the table of rollups and two indexes."""
    op.create_table(
        "rollup_minute",
        sa.Column("minute", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("unreported", sa.Integer(), nullable=False),
        sa.Column("fallbacks", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("queue_s", Seconds()),
        sa.Column("load_s", Seconds()),
        sa.Column("prefill_s", Seconds()),
        sa.Column("decode_s", Seconds()),
        sa.Column("other_s", Seconds()),
        sa.Column("total_s", Seconds()),
        sa.Column("first_token_histogram", sa.Text(), nullable=False),
        sa.Column("total_histogram", sa.Text(), nullable=False),
        sa.Column("decode_rate_histogram", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "model", "role", "operation", name="pk_rollup_minute"),
    )
    over = sa.text("ended_at IS NOT NULL")
    for table in ("model_calls", "tasks"):
        op.create_index(f"ix_{table}_ended_at", table, ["ended_at"], sqlite_where=over, postgresql_where=over)
