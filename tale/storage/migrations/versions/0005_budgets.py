"""Budgets, what is used of them by the period, what calls under way hold of them, and alerts; whose key a task has."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add four tables, and the name of the key to the tasks."""
    op.add_column("tasks", sa.Column("key_name", sa.Text()))
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("period", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("limit_tokens", sa.BigInteger(), nullable=False),
        sa.Column("alert_percent", sa.Integer(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        sa.UniqueConstraint("scope", "name", "period", "kind", name="uq_budgets_scope"),
    )
    op.create_table(
        "budget_periods",
        sa.Column("budget_id", sa.String(32), nullable=False),
        sa.Column("starts_at", Seconds(), nullable=False),
        sa.Column("reported_tokens", sa.BigInteger(), nullable=False),
        sa.Column("assumed_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=False),
        sa.Column("unreported", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("budget_id", "starts_at", name="pk_budget_periods"),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name="fk_budget_periods_budget_id", ondelete="CASCADE"),
    )
    op.create_table(
        "budget_reservations",
        sa.Column("call_id", sa.String(36), nullable=False),
        sa.Column("budget_id", sa.String(32), nullable=False),
        sa.Column("starts_at", Seconds(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("made_at", Seconds(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "budget_id", name="pk_budget_reservations"),
        sa.ForeignKeyConstraint(
            ["budget_id"], ["budgets.id"], name="fk_budget_reservations_budget_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("budget_id", sa.String(32), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("period", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("starts_at", Seconds(), nullable=False),
        sa.Column("resets_at", Seconds(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("used_tokens", sa.BigInteger(), nullable=False),
        sa.Column("limit_tokens", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", Seconds()),
        sa.Column("acknowledged_at", Seconds()),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
        sa.UniqueConstraint("budget_id", "starts_at", "percent", name="uq_alerts_budget_id"),
    )
    op.create_index("ix_alerts_created_at", "alerts", ["created_at"])
