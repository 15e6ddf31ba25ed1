"""What the monitor measured, which targets were missed, what was said of it; and the minutes that have rare calls."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

Seconds = sa.Double[float]
RARE = ("failed", "cancelled", "fallbacks", "load_s")


def upgrade() -> None:
    """Add three tables, and four small indexes of the minutes that have such calls at all."""
    op.create_table(
        "monitor_samples",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("at", Seconds(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger()),
        sa.Column("cpu_share", Seconds()),
        sa.Column("free_memory_bytes", sa.BigInteger()),
        sa.Column("queued", sa.Integer()),
        sa.Column("running", sa.Integer()),
        sa.Column("models_bytes", sa.BigInteger()),
        sa.Column("models", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_monitor_samples"),
    )
    op.create_index("ix_monitor_samples_at", "monitor_samples", ["at"])
    op.create_table(
        "target_violations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("target", sa.String(32), nullable=False),
        sa.Column("profile", sa.String(32), nullable=False),
        sa.Column("began_at", Seconds(), nullable=False),
        sa.Column("ended_at", Seconds()),
        sa.Column("limit_value", Seconds(), nullable=False),
        sa.Column("worst", Seconds(), nullable=False),
        sa.Column("measured", sa.Integer(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_target_violations"),
    )
    op.create_index("ix_target_violations_began_at", "target_violations", ["began_at"])
    op.create_table(
        "target_alerts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("violation_id", sa.String(36)),
        sa.Column("target", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("acknowledged_at", Seconds()),
        sa.PrimaryKeyConstraint("id", name="pk_target_alerts"),
    )
    op.create_index("ix_target_alerts_created_at", "target_alerts", ["created_at"])
    for name in RARE:
        some = sa.text(f"{name} > 0")
        op.create_index(
            f"ix_rollup_minute_{name}", "rollup_minute", ["minute"], sqlite_where=some, postgresql_where=some
        )
