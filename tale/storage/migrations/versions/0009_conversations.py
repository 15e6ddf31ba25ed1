"""What a conversation knows of itself: its end, summary and kinds of messages; and what users put right."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

Seconds = sa.Double[float]


def upgrade() -> None:
    """Add the columns, an index for the tasks of a conversation, and the table of corrections."""
    op.add_column("conversations", sa.Column("ended_at", Seconds()))
    op.add_column("conversations", sa.Column("summary", sa.Text()))
    op.add_column("conversations", sa.Column("summarized", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("conversations", sa.Column("answers", sa.String(32), nullable=False, server_default="ux"))
    op.add_column("messages", sa.Column("kind", sa.String(32)))
    op.add_column("messages", sa.Column("task_id", sa.String(36)))
    op.add_column("messages", sa.Column("tokens", sa.Integer()))
    op.add_column("messages", sa.Column("rating", sa.String(32)))
    op.add_column("messages", sa.Column("comment", sa.Text()))
    of_tasks = sa.text("task_id IS NOT NULL")
    op.create_index(
        "ix_messages_of_tasks",
        "messages",
        ["conversation_id", "task_id"],
        sqlite_where=of_tasks,
        postgresql_where=of_tasks,
    )
    of_conversations = sa.text("conversation_id IS NOT NULL")
    op.create_index(
        "ix_tasks_of_conversations",
        "tasks",
        ["conversation_id", "created_at"],
        sqlite_where=of_conversations,
        postgresql_where=of_conversations,
    )
    op.create_table(
        "corrections",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("label", sa.String(32), nullable=False),
        sa.Column("detected", sa.String(32), nullable=False),
        sa.Column("conversation_id", sa.String(36)),
        sa.Column("key_name", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_corrections"),
    )
    op.create_index("ix_corrections_created_at", "corrections", ["created_at"])
