"""The tables of the monitor: what the machine was doing, which targets were missed, and what was said of it."""

from typing import Any

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table

from tale.storage.tables import ID_CHARACTERS, WORD_CHARACTERS, StoredText, metadata


def _word(name: str, **options: Any) -> Column[str]:
    return Column(name, String(WORD_CHARACTERS), **options)


def _number(name: str, **options: Any) -> Column[float]:
    return Column(name, Double[float](), **options)


monitor_samples = Table(
    "monitor_samples",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    _number("at", nullable=False),  # Unix time in seconds
    Column("owner", StoredText(), nullable=False),  # host and home of the service
    Column("memory_bytes", BigInteger()),  # of the service's processes, without the models' engines
    _number("cpu_share"),  # of one core
    Column("free_memory_bytes", BigInteger()),  # of the machine
    Column("queued", Integer()),
    Column("running", Integer()),
    Column("models_bytes", BigInteger()),
    Column("models", StoredText(), nullable=False),  # JSON: [{"name", "role", "state", "memory_bytes"}]
    Index(None, "at"),
)

target_violations = Table(
    "target_violations",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    _word("target", nullable=False),
    _word("profile", nullable=False),
    _number("began_at", nullable=False),
    _number("ended_at"),
    _number("limit_value", nullable=False),
    _number("worst", nullable=False),
    Column("measured", Integer(), nullable=False),  # values behind the worst
    Column("action", StoredText(), nullable=False),
    Index(None, "began_at"),
)

target_alerts = Table(
    "target_alerts",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    _number("created_at", nullable=False),
    Column("violation_id", String(ID_CHARACTERS)),  # none where the target is not missed yet
    _word("target", nullable=False),
    _word("kind", nullable=False),  # missed, burning, met
    Column("text", StoredText(), nullable=False),
    _number("acknowledged_at"),
    Index(None, "created_at"),
)
