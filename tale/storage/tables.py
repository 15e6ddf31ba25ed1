"""The tables as the code of this version reads and writes them; the migrations create the very same."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

SCHEMA_REVISION: Final = "0011"
"""The newest migration; a constant, so that a start on an up-to-date database need not import Alembic."""

ID_CHARACTERS: Final = 36
WORD_CHARACTERS: Final = 32
DIGEST_CHARACTERS: Final = 64
HAS_ENDED: Final = text("ended_at IS NOT NULL")


class StoredText(TypeDecorator[str]):
    """Text from models and people, of any length.

    Engines cut their streams anywhere, and no database keeps half a surrogate pair; PostgreSQL keeps no NUL either.
    Halves that belong together are joined, other such characters are replaced by U+FFFD, so that the row is kept.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Make the text storable."""
        if value is None:
            return None
        try:
            value.encode()
        except UnicodeEncodeError:
            value = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return value.replace("\x00", "\ufffd")


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _id(name: str, *arguments: Any, **options: Any) -> Column[str]:
    return Column(name, String(ID_CHARACTERS), *arguments, **options)


def _word(name: str, *arguments: Any, **options: Any) -> Column[str]:
    return Column(name, String(WORD_CHARACTERS), *arguments, **options)


def _text(name: str, **options: Any) -> Column[str]:
    return Column(name, StoredText(), **options)


def _time(name: str, **options: Any) -> Column[float]:
    """A column of seconds: Unix time (`_at`) or a duration (`_s`)."""
    return Column(name, Double[float](), **options)


meta = Table("meta", metadata, _word("key", primary_key=True), _text("value", nullable=False))

tasks = Table(
    "tasks",
    metadata,
    _id("id", primary_key=True),
    _text("text", nullable=False),
    _word("status", nullable=False),
    _time("created_at", nullable=False),
    Column("priority", Integer(), nullable=False),
    Column("timeout_s", Integer(), nullable=False),
    Column("max_output_tokens", Integer()),
    Column("attempt", Integer(), nullable=False),
    Column("failures", Integer(), nullable=False),
    _text("conversation_id"),
    _text("idempotency_key", unique=True),
    _text("trace_id"),
    _time("started_at"),
    _time("ended_at"),
    _time("cancel_requested_at"),
    _text("model"),
    _word("role"),
    _text("route_reason"),
    _text("result"),
    _text("finish_reason"),
    _text("error_class"),
    _text("error"),
    _text("expect"),  # JSON
    _time("deadline_at"),
    Column("open_dependencies", Integer(), nullable=False, server_default="0"),
    Column("with_results", Boolean(), nullable=False, server_default=false()),
    Column("attached_files", Integer(), nullable=False, server_default="0"),
    _text("key_name"),
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
    _id("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    _id("after_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), nullable=False),
    Index(None, "after_id"),
)

# Apart from the tasks: lists of tasks must not load files.
attachments = Table(
    "attachments",
    metadata,
    _id("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), primary_key=True, autoincrement=False),
    _text("name", nullable=False),
    _text("text", nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    _id("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer(), primary_key=True, autoincrement=False),
    _time("started_at", nullable=False),
    _time("ended_at"),
    _word("outcome"),
    _text("model"),
    _text("error_class"),
    _text("error"),
)

# Calls carry the ids of tasks and conversations without foreign keys: another process may hold those, and a call
# that was made is accounted for even when its task is not there.
model_calls = Table(
    "model_calls",
    metadata,
    _id("id", primary_key=True),
    _time("started_at", nullable=False),
    _word("role", nullable=False),
    _word("operation", nullable=False),
    _text("model", nullable=False),
    _word("provider", nullable=False),
    Column("priority", SmallInteger()),
    _text("task_id"),
    Column("attempt", Integer()),
    _text("conversation_id"),
    _text("trace_id"),
    _text("requested_model"),
    _text("route_reason"),
    Column("budget_tokens", Integer()),
    Column("input_tokens", Integer()),
    Column("output_tokens", Integer()),
    Column("cached_tokens", Integer()),
    Column("reasoning_tokens", Integer()),
    _time("queue_s"),
    _time("load_s"),
    _time("prefill_s"),
    _time("decode_s"),
    _time("other_s"),
    _time("time_to_first_token_s"),
    _time("total_s"),
    _time("ended_at"),
    _text("finish_reason"),
    _text("error_class"),
    _text("error"),
    _text("key_name"),
    _text("engine"),
    _text("owner"),
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
    _text("model", primary_key=True),
    _word("role", primary_key=True),
    _word("operation", primary_key=True),
    Column("calls", Integer(), nullable=False),
    Column("failed", Integer(), nullable=False),
    Column("cancelled", Integer(), nullable=False),
    Column("unreported", Integer(), nullable=False),
    Column("fallbacks", Integer(), nullable=False),
    Column("input_tokens", BigInteger()),
    Column("output_tokens", BigInteger()),
    Column("cached_tokens", BigInteger()),
    Column("reasoning_tokens", BigInteger()),
    _time("queue_s"),
    _time("load_s"),
    _time("prefill_s"),
    _time("decode_s"),
    _time("other_s"),
    _time("total_s"),
    _text("first_token_histogram", nullable=False),
    _text("total_histogram", nullable=False),
    _text("decode_rate_histogram", nullable=False),
    *(
        Index(f"ix_rollup_minute_{kind}", "minute", sqlite_where=(few := text(f"{kind} > 0")), postgresql_where=few)
        for kind in ("failed", "cancelled", "fallbacks", "load_s")
    ),
)

mcp_calls = Table(
    "mcp_calls",
    metadata,
    _id("id", primary_key=True),
    _time("started_at", nullable=False),
    _word("server", nullable=False),
    _text("method", nullable=False),
    _time("latency_s", nullable=False),
    _word("outcome", nullable=False),
    _text("tool"),
    _text("task_id"),
    _text("trace_id"),
    _text("error_class"),
    _text("error"),
    _text("key_name"),
    Index(None, "started_at"),
    Index(None, "trace_id"),
)

conversations = Table(
    "conversations",
    metadata,
    _id("id", primary_key=True),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("ended_at"),
    _text("summary"),
    Column("summarized", Integer(), nullable=False, server_default="0"),
    _word("answers", nullable=False, server_default="ux"),
    Index(None, "updated_at"),
)

messages = Table(
    "messages",
    metadata,
    _id("conversation_id", ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer(), primary_key=True, autoincrement=False),
    _word("role", nullable=False),
    _text("content", nullable=False),
    _time("created_at", nullable=False),
    _id("model_call_id"),
    _word("kind"),
    _id("task_id"),
    Column("tokens", Integer()),
    _word("rating"),
    _text("comment"),
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
    _id("id", primary_key=True),
    _time("created_at", nullable=False),
    _text("text", nullable=False),
    _word("label", nullable=False),
    _word("detected", nullable=False),
    _id("conversation_id"),
    _text("key_name"),
    Index(None, "created_at"),
)

feedback = Table(
    "feedback",
    metadata,
    _id("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    _word("rating", nullable=False),
    _text("comment"),
    _time("created_at", nullable=False),
)

access_keys = Table(
    "access_keys",
    metadata,
    _word("id", primary_key=True),
    _text("name", nullable=False),
    _word("scope", nullable=False),
    Column("digest", String(DIGEST_CHARACTERS), nullable=False, unique=True),
    _time("created_at", nullable=False),
    _time("revoked_at"),
)

budgets = Table(
    "budgets",
    metadata,
    _word("id", primary_key=True),
    _word("scope", nullable=False),
    _text("name", nullable=False),  # of the model or the key; empty where all calls count
    _word("period", nullable=False),
    _word("kind", nullable=False),
    Column("limit_tokens", BigInteger(), nullable=False),
    Column("alert_percent", Integer(), nullable=False),
    _text("zone", nullable=False),
    _time("created_at", nullable=False),
    UniqueConstraint("scope", "name", "period", "kind"),
)

# What is used of a budget in one period; kept by budgets.py in the transactions that write the calls.
budget_periods = Table(
    "budget_periods",
    metadata,
    _word("budget_id", ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    _time("starts_at", primary_key=True),
    Column("reported_tokens", BigInteger(), nullable=False),
    Column("assumed_tokens", BigInteger(), nullable=False),  # of calls whose engine reported none
    Column("reserved_tokens", BigInteger(), nullable=False),  # of calls under way
    Column("unreported", Integer(), nullable=False),  # calls of which not all tokens are known
)

budget_reservations = Table(
    "budget_reservations",
    metadata,
    _id("call_id", primary_key=True),
    _word("budget_id", ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    _time("starts_at", nullable=False),
    Column("tokens", BigInteger(), nullable=False),
    _text("owner", nullable=False),  # host and home of the process that makes the call
    _time("made_at", nullable=False),
)

# Alerts tell of a budget as it was, and outlive it.
alerts = Table(
    "alerts",
    metadata,
    _id("id", primary_key=True),
    _time("created_at", nullable=False),
    _word("budget_id", nullable=False),
    _word("scope", nullable=False),
    _text("name", nullable=False),
    _word("period", nullable=False),
    _word("kind", nullable=False),
    _time("starts_at", nullable=False),
    _time("resets_at", nullable=False),
    Column("percent", Integer(), nullable=False),
    Column("used_tokens", BigInteger(), nullable=False),
    Column("limit_tokens", BigInteger(), nullable=False),
    _time("delivered_at"),
    _time("acknowledged_at"),
    UniqueConstraint("budget_id", "starts_at", "percent"),
    Index(None, "created_at"),
)
