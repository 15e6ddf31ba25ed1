"""Tasks with their attempts and feedback, model and MCP calls, conversations, and the database's own id."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Seconds = sa.Double[float]


def upgrade() -> None:
    """Create the first tables."""
    _create_meta()
    _create_tasks()
    _create_model_calls()
    _create_mcp_calls()
    _create_conversations()


def _create_meta() -> None:
    meta = op.create_table(
        "meta",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.bulk_insert(meta, [{"key": "database_id", "value": str(uuid.uuid4())}])


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("timeout_s", sa.Integer(), nullable=False),
        sa.Column("max_output_tokens", sa.Integer()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("conversation_id", sa.Text()),
        sa.Column("idempotency_key", sa.Text()),
        sa.Column("trace_id", sa.Text()),
        sa.Column("started_at", Seconds()),
        sa.Column("ended_at", Seconds()),
        sa.Column("cancel_requested_at", Seconds()),
        sa.Column("model", sa.Text()),
        sa.Column("role", sa.String(32)),
        sa.Column("route_reason", sa.Text()),
        sa.Column("result", sa.Text()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        sa.UniqueConstraint("idempotency_key", name="uq_tasks_idempotency_key"),
    )
    op.create_index("ix_tasks_created_at_id", "tasks", ["created_at", "id"])
    op.create_index("ix_tasks_status_created_at_id", "tasks", ["status", "created_at", "id"])
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", Seconds(), nullable=False),
        sa.Column("ended_at", Seconds()),
        sa.Column("outcome", sa.String(32)),
        sa.Column("model", sa.Text()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("task_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_attempts_task_id", ondelete="CASCADE"),
    )
    op.create_table(
        "feedback",
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("rating", sa.String(32), nullable=False),
        sa.Column("comment", sa.Text()),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_feedback"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name="fk_feedback_task_id", ondelete="CASCADE"),
    )


def _create_model_calls() -> None:
    op.create_table(
        "model_calls",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("started_at", Seconds(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("priority", sa.SmallInteger()),
        sa.Column("task_id", sa.Text()),
        sa.Column("attempt", sa.Integer()),
        sa.Column("conversation_id", sa.Text()),
        sa.Column("trace_id", sa.Text()),
        sa.Column("requested_model", sa.Text()),
        sa.Column("route_reason", sa.Text()),
        sa.Column("budget_tokens", sa.Integer()),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("cached_tokens", sa.Integer()),
        sa.Column("reasoning_tokens", sa.Integer()),
        sa.Column("queue_s", Seconds()),
        sa.Column("load_s", Seconds()),
        sa.Column("prefill_s", Seconds()),
        sa.Column("decode_s", Seconds()),
        sa.Column("other_s", Seconds()),
        sa.Column("time_to_first_token_s", Seconds()),
        sa.Column("total_s", Seconds()),
        sa.Column("ended_at", Seconds()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_model_calls"),
    )
    op.create_index("ix_model_calls_started_at", "model_calls", ["started_at"])
    op.create_index("ix_model_calls_task_id_started_at", "model_calls", ["task_id", "started_at"])
    op.create_index("ix_model_calls_conversation_id_started_at", "model_calls", ["conversation_id", "started_at"])
    still_open = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_model_calls_open", "model_calls", ["started_at"], sqlite_where=still_open, postgresql_where=still_open
    )


def _create_mcp_calls() -> None:
    op.create_table(
        "mcp_calls",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("started_at", Seconds(), nullable=False),
        sa.Column("server", sa.String(32), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("latency_s", Seconds(), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("tool", sa.Text()),
        sa.Column("task_id", sa.Text()),
        sa.Column("trace_id", sa.Text()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_mcp_calls"),
    )
    op.create_index("ix_mcp_calls_started_at", "mcp_calls", ["started_at"])


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("updated_at", Seconds(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_updated_at", "conversations", ["updated_at"])
    op.create_table(
        "messages",
        sa.Column("conversation_id", sa.String(36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(32), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("created_at", Seconds(), nullable=False),
        sa.Column("model_call_id", sa.String(36)),
        sa.PrimaryKeyConstraint("conversation_id", "position", name="pk_messages"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_messages_conversation_id", ondelete="CASCADE"
        ),
    )
