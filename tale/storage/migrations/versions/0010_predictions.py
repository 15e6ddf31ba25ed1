"""What is expected of tasks and what came of it, the versions of what was learned, and what happened to those."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add the three tables."""
    op.create_table(
        "predictions",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("made_at", Seconds(), nullable=False),
        sa.Column("version", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("complexity", sa.String(32)),
        sa.Column("complexity_shares", sa.Text(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("lower_tokens", sa.Integer(), nullable=False),
        sa.Column("upper_tokens", sa.Integer(), nullable=False),
        sa.Column("coverage", Seconds(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("stated_tokens", sa.Integer()),
        sa.Column("cap_tokens", sa.Integer()),
        sa.Column("gain", Seconds()),
        sa.Column("ux_success", Seconds()),
        sa.Column("task_success", Seconds()),
        sa.Column("explored", sa.Boolean(), nullable=False),
        sa.Column("neighbours", sa.Text(), nullable=False),
        sa.Column("took_s", Seconds()),
        sa.Column("ended_at", Seconds()),
        sa.Column("true_output_tokens", sa.Integer()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("was_cut", sa.Boolean()),
        sa.Column("succeeded", sa.Boolean()),
        sa.PrimaryKeyConstraint("task_id", "attempt", name="pk_predictions"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_predictions_task_id_tasks", ondelete="CASCADE"),
    )
    ended = sa.text("ended_at IS NOT NULL")
    op.create_index("ix_predictions_ended_at", "predictions", ["ended_at"], sqlite_where=ended, postgresql_where=ended)
    op.create_table(
        "engine_versions",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("trained_until", Seconds(), nullable=False),
        sa.Column("library", sa.String(32), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("artefact", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("id", name="pk_engine_versions"),
    )
    op.create_index("ix_engine_versions_created_at", "engine_versions", ["created_at"])
    op.create_table(
        "learning_events",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("version", sa.String(36)),
        sa.PrimaryKeyConstraint("id", name="pk_learning_events"),
    )
    op.create_index("ix_learning_events_created_at", "learning_events", ["created_at"])
