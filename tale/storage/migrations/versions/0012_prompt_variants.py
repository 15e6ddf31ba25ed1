"""Which instructions a task went out with, what the task model would have written, and runs that verify savings."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add two columns of predictions and a table."""
    op.add_column("predictions", sa.Column("variant", sa.String(32), server_default="default", nullable=False))
    op.add_column("predictions", sa.Column("task_output_tokens", sa.Integer()))
    op.create_table(
        "shadows",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("made_at", Seconds(), nullable=False),
        sa.Column("small_tokens", sa.Integer()),
        sa.Column("large_tokens", sa.Integer()),
        sa.Column("succeeded", sa.Boolean(), nullable=False),
        sa.Column("naive_tokens", sa.Integer()),
        sa.Column("naive_succeeded", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_shadows"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_shadows_task_id_tasks", ondelete="CASCADE"),
    )
    op.create_index("ix_shadows_made_at", "shadows", ["made_at"])
