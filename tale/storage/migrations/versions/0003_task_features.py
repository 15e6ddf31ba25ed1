"""What a task may ask for: checks of its answer, a deadline, tasks to wait for, files as context."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add the columns to the tasks, and the tables of dependencies and attachments."""
    op.add_column("tasks", sa.Column("expect", sa.Text()))
    op.add_column("tasks", sa.Column("deadline_at", Seconds()))
    op.add_column("tasks", sa.Column("open_dependencies", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("tasks", sa.Column("with_results", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("tasks", sa.Column("attached_files", sa.Integer(), nullable=False, server_default="0"))
    due = sa.text("deadline_at IS NOT NULL AND ended_at IS NULL")
    op.create_index("ix_tasks_due", "tasks", ["deadline_at"], sqlite_where=due, postgresql_where=due)
    op.create_table(
        "task_dependencies",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("after_id", sa.String(36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "after_id", name="pk_task_dependencies"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_task_dependencies_task_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["after_id"], ["tasks.id"], name="fk_task_dependencies_after_id", ondelete="CASCADE"),
    )
    op.create_index("ix_task_dependencies_after_id", "task_dependencies", ["after_id"])
    op.create_table(
        "attachments",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "position", name="pk_attachments"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_attachments_task_id", ondelete="CASCADE"),
    )
