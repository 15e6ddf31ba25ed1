"""The tables as the code of this version reads and writes them; the migrations create the very same."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    false,
    text,
)

from tale.storage.columns import DIGEST_CHARACTERS, id_column, metadata, number_column, text_column, word_column

SCHEMA_REVISION: Final = "0014"
"""The newest migration; a constant, so that a start on an up-to-date database need not import Alembic."""

HAS_ENDED: Final = text("ended_at IS NOT NULL")

meta = Table("meta", metadata, word_column("key", primary_key=True), text_column("value", nullable=False))

tasks = Table(
    "tasks",
    metadata,
    id_column("id", primary_key=True),
    text_column("text", nullable=False),
    word_column("status", nullable=False),
    number_column("created_at", nullable=False),
    Column("priority", Integer(), nullable=False),
    Column("timeout_s", Integer(), nullable=False),
    Column("max_output_tokens", Integer()),
    Column("attempt", Integer(), nullable=False),
    Column("failures", Integer(), nullable=False),
    text_column("conversation_id"),
    text_column("idempotency_key", unique=True),
    text_column("trace_id"),
    number_column("started_at"),
    number_column("ended_at"),
    number_column("cancel_requested_at"),
    text_column("model"),
    word_column("role"),
    text_column("route_reason"),
    text_column("result"),
    text_column("finish_reason"),
    text_column("error_class"),
    text_column("error"),
    text_column("expect"),  # JSON
    number_column("deadline_at"),
    Column("open_dependencies", Integer(), nullable=False, server_default="0"),
    Column("with_results", Boolean(), nullable=False, server_default=false()),
    Column("attached_files", Integer(), nullable=False, server_default="0"),
    text_column("key_name"),
    Index(None, "created_at", "id"),
    Index(None, "ended_at", sqlite_where=HAS_ENDED, postgresql_where=HAS_ENDED),
    Index(None, "status", "created_at", "id"),
    Index(None, "trace_id"),
    Index(
        "ix_tasks_of_conversations",
        "conversation_id",
        "created_at",
        sqlite_where=text("conversation_id IS NOT NULL"),
        postgresql_where=text("conversation_id IS NOT NULL"),
    ),
    # Small: only of the tasks that have a deadline and have not ended.
    Index(
        "ix_tasks_due",
        "deadline_at",
        sqlite_where=text("deadline_at IS NOT NULL AND ended_at IS NULL"),
        postgresql_where=text("deadline_at IS NOT NULL AND ended_at IS NULL"),
    ),
)

# Kept after they are met, because the results may be asked for.
task_dependencies = Table(
    "task_dependencies",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    id_column("after_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), nullable=False),
    Index(None, "after_id"),
)

# Apart from the tasks: lists of tasks must not load files.
attachments = Table(
    "attachments",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), primary_key=True, autoincrement=False),
    text_column("name", nullable=False),
    text_column("text", nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer(), primary_key=True, autoincrement=False),
    number_column("started_at", nullable=False),
    number_column("ended_at"),
    word_column("outcome"),
    text_column("model"),
    text_column("error_class"),
    text_column("error"),
)

# Calls carry the ids of tasks and conversations without foreign keys: another process may hold those, and a call
# that was made is accounted for even when its task is not there.
model_calls = Table(
    "model_calls",
    metadata,
    id_column("id", primary_key=True),
    number_column("started_at", nullable=False),
    word_column("role", nullable=False),
    word_column("operation", nullable=False),
    text_column("model", nullable=False),
    word_column("provider", nullable=False),
    Column("priority", SmallInteger()),
    text_column("task_id"),
    Column("attempt", Integer()),
    text_column("conversation_id"),
    text_column("trace_id"),
    text_column("requested_model"),
    text_column("route_reason"),
    Column("budget_tokens", Integer()),
    Column("input_tokens", Integer()),
    Column("output_tokens", Integer()),
    Column("cached_tokens", Integer()),
    Column("reasoning_tokens", Integer()),
    number_column("queue_s"),
    number_column("load_s"),
    number_column("prefill_s"),
    number_column("decode_s"),
    number_column("other_s"),
    number_column("time_to_first_token_s"),
    number_column("total_s"),
    number_column("ended_at"),
    text_column("finish_reason"),
    text_column("error_class"),
    text_column("error"),
    text_column("key_name"),
    text_column("engine"),
    text_column("owner"),
    Index(None, "started_at"),
    Index(None, "ended_at", sqlite_where=HAS_ENDED, postgresql_where=HAS_ENDED),
    Index(None, "task_id", "started_at"),
    Index(None, "conversation_id", "started_at"),
    Index(None, "trace_id"),
    # Small: only of the calls under way, which every start looks for.
    Index(
        "ix_model_calls_open",
        "started_at",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

# What closed minutes amount to, by the minute in which calls began; kept by rollups.py.
rollup_minute = Table(
    "rollup_minute",
    metadata,
    Column("minute", Integer(), primary_key=True, autoincrement=False),  # Unix time in minutes
    text_column("model", primary_key=True),
    word_column("role", primary_key=True),
    word_column("operation", primary_key=True),
    Column("calls", Integer(), nullable=False),
    Column("failed", Integer(), nullable=False),
    Column("cancelled", Integer(), nullable=False),
    Column("unreported", Integer(), nullable=False),
    Column("fallbacks", Integer(), nullable=False),
    Column("input_tokens", BigInteger()),
    Column("output_tokens", BigInteger()),
    Column("cached_tokens", BigInteger()),
    Column("reasoning_tokens", BigInteger()),
    number_column("queue_s"),
    number_column("load_s"),
    number_column("prefill_s"),
    number_column("decode_s"),
    number_column("other_s"),
    number_column("total_s"),
    text_column("first_token_histogram", nullable=False),
    text_column("total_histogram", nullable=False),
    text_column("decode_rate_histogram", nullable=False),
    Index("ix_rollup_minute_model", "model", "minute"),
    *(
        Index(f"ix_rollup_minute_{kind}", "minute", sqlite_where=(few := text(f"{kind} > 0")), postgresql_where=few)
        for kind in ("failed", "cancelled", "fallbacks", "load_s")
    ),
)

mcp_calls = Table(
    "mcp_calls",
    metadata,
    id_column("id", primary_key=True),
    number_column("started_at", nullable=False),
    word_column("server", nullable=False),
    text_column("method", nullable=False),
    number_column("latency_s", nullable=False),
    word_column("outcome", nullable=False),
    text_column("tool"),
    text_column("task_id"),
    text_column("trace_id"),
    text_column("error_class"),
    text_column("error"),
    text_column("key_name"),
    Index(None, "started_at"),
    Index(None, "trace_id"),
)

conversations = Table(
    "conversations",
    metadata,
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    number_column("updated_at", nullable=False),
    number_column("ended_at"),
    text_column("summary"),
    Column("summarized", Integer(), nullable=False, server_default="0"),
    word_column("answers", nullable=False, server_default="ux"),
    Index(None, "updated_at"),
)

messages = Table(
    "messages",
    metadata,
    id_column("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), primary_key=True, autoincrement=False),
    word_column("role", nullable=False),
    text_column("content", nullable=False),
    number_column("created_at", nullable=False),
    id_column("model_call_id"),
    word_column("kind"),
    id_column("task_id"),
    Column("tokens", Integer()),
    word_column("rating"),
    text_column("comment"),
    Index(
        "ix_messages_of_tasks",
        "conversation_id",
        "task_id",
        sqlite_where=text("task_id IS NOT NULL"),
        postgresql_where=text("task_id IS NOT NULL"),
    ),
)

corrections = Table(
    "corrections",
    metadata,
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    text_column("text", nullable=False),
    word_column("label", nullable=False),
    word_column("detected", nullable=False),
    id_column("conversation_id"),
    text_column("key_name"),
    Index(None, "created_at"),
)

feedback = Table(
    "feedback",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    word_column("rating", nullable=False),
    text_column("comment"),
    number_column("created_at", nullable=False),
    text_column("key_name"),  # of the key that rated; none where nobody was asked for one
)

access_keys = Table(
    "access_keys",
    metadata,
    word_column("id", primary_key=True),
    text_column("name", nullable=False),
    word_column("scope", nullable=False),
    Column("digest", String(DIGEST_CHARACTERS), nullable=False, unique=True),
    number_column("created_at", nullable=False),
    number_column("revoked_at"),
)

budgets = Table(
    "budgets",
    metadata,
    word_column("id", primary_key=True),
    word_column("scope", nullable=False),
    text_column("name", nullable=False),  # of the model or the key; empty where all calls count
    word_column("period", nullable=False),
    word_column("kind", nullable=False),
    Column("limit_tokens", BigInteger(), nullable=False),
    Column("alert_percent", Integer(), nullable=False),
    text_column("zone", nullable=False),
    number_column("created_at", nullable=False),
    UniqueConstraint("scope", "name", "period", "kind"),
)

# What is used of a budget in one period; kept by budgets.py in the transactions that write the calls.
budget_periods = Table(
    "budget_periods",
    metadata,
    word_column("budget_id", ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    number_column("starts_at", primary_key=True),
    Column("reported_tokens", BigInteger(), nullable=False),
    Column("assumed_tokens", BigInteger(), nullable=False),  # of calls whose engine reported none
    Column("reserved_tokens", BigInteger(), nullable=False),  # of calls under way
    Column("unreported", Integer(), nullable=False),  # calls of which not all tokens are known
)

budget_reservations = Table(
    "budget_reservations",
    metadata,
    id_column("call_id", primary_key=True),
    word_column("budget_id", ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    number_column("starts_at", nullable=False),
    Column("tokens", BigInteger(), nullable=False),
    text_column("owner", nullable=False),  # host and home of the process that makes the call
    number_column("made_at", nullable=False),
)

# Alerts tell of a budget as it was, and outlive it.
alerts = Table(
    "alerts",
    metadata,
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    word_column("budget_id", nullable=False),
    word_column("scope", nullable=False),
    text_column("name", nullable=False),
    word_column("period", nullable=False),
    word_column("kind", nullable=False),
    number_column("starts_at", nullable=False),
    number_column("resets_at", nullable=False),
    Column("percent", Integer(), nullable=False),
    Column("used_tokens", BigInteger(), nullable=False),
    Column("limit_tokens", BigInteger(), nullable=False),
    number_column("delivered_at"),
    number_column("acknowledged_at"),
    UniqueConstraint("budget_id", "starts_at", "percent"),
    Index(None, "created_at"),
)
