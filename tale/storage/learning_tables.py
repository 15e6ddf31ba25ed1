"""The tables of what is expected of tasks, and of what was learned; created by the migrations like all others."""

from typing import Any

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, LargeBinary, String, Table, text

from tale.storage.tables import ID_CHARACTERS, WORD_CHARACTERS, StoredText, metadata


def _word(name: str, **options: Any) -> Column[str]:
    return Column(name, String(WORD_CHARACTERS), **options)


def _number(name: str, **options: Any) -> Column[float]:
    return Column(name, Double[float](), **options)


# One row an attempt, made before its model is asked; the columns from `ended_at` on are the truth, added at its end.
predictions = Table(
    "predictions",
    metadata,
    Column("task_id", String(ID_CHARACTERS), ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer(), primary_key=True, autoincrement=False),
    _number("made_at", nullable=False),
    Column("version", String(ID_CHARACTERS), nullable=False),
    _word("kind", nullable=False),
    _word("complexity"),
    Column("complexity_shares", StoredText(), nullable=False),  # JSON
    Column("output_tokens", Integer(), nullable=False),
    Column("lower_tokens", Integer(), nullable=False),
    Column("upper_tokens", Integer(), nullable=False),
    _number("coverage", nullable=False),
    _word("role", nullable=False),
    Column("reason", StoredText(), nullable=False),
    Column("stated_tokens", Integer()),
    Column("cap_tokens", Integer()),
    _number("gain"),
    _number("ux_success"),
    _number("task_success"),
    Column("explored", Boolean(), nullable=False),
    Column("neighbours", StoredText(), nullable=False),  # JSON
    _number("took_s"),
    _number("ended_at"),
    Column("true_output_tokens", Integer()),
    Column("finish_reason", StoredText()),
    Column("was_cut", Boolean()),
    Column("succeeded", Boolean()),
    Index(
        None,
        "ended_at",
        sqlite_where=text("ended_at IS NOT NULL"),
        postgresql_where=text("ended_at IS NOT NULL"),
    ),
)

engine_versions = Table(
    "engine_versions",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    _number("created_at", nullable=False),
    _word("state", nullable=False),
    Column("rows", Integer(), nullable=False),
    _number("trained_until", nullable=False),
    _word("library", nullable=False),
    Column("metrics", StoredText(), nullable=False),  # JSON
    Column("reason", StoredText(), nullable=False),
    Column("artefact", LargeBinary()),  # none of versions that will not serve again
    Index(None, "created_at"),
)

learning_events = Table(
    "learning_events",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    _number("created_at", nullable=False),
    _word("kind", nullable=False),
    Column("text", StoredText(), nullable=False),
    Column("version", String(ID_CHARACTERS)),
    Index(None, "created_at"),
)
