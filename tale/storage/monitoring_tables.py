"""The tables of the monitor: what the machine was doing, which targets were missed, and what was said of it."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table

from tale.storage.columns import id_column, metadata, number_column, text_column, word_column

monitor_samples = Table(
    "monitor_samples",
    metadata,
    id_column("id", primary_key=True),
    number_column("at", nullable=False),  # Unix time in seconds
    text_column("owner", nullable=False),  # host and home of the service
    Column("memory_bytes", BigInteger()),  # of the service's processes, without the models' engines
    number_column("cpu_share"),  # of one core
    Column("free_memory_bytes", BigInteger()),  # of the machine
    Column("queued", Integer()),
    Column("running", Integer()),
    Column("models_bytes", BigInteger()),
    text_column("models", nullable=False),  # JSON: [{"name", "role", "state", "memory_bytes"}]
    Index(None, "at"),
)

target_violations = Table(
    "target_violations",
    metadata,
    id_column("id", primary_key=True),
    word_column("target", nullable=False),
    word_column("profile", nullable=False),
    number_column("began_at", nullable=False),
    number_column("ended_at"),
    number_column("limit_value", nullable=False),
    number_column("worst", nullable=False),
    Column("measured", Integer(), nullable=False),  # values behind the worst
    text_column("action", nullable=False),
    Index(None, "began_at"),
)

target_alerts = Table(
    "target_alerts",
    metadata,
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    id_column("violation_id"),  # none where the target is not missed yet
    word_column("target", nullable=False),
    word_column("kind", nullable=False),  # missed, burning, met
    text_column("text", nullable=False),
    number_column("acknowledged_at"),
    Index(None, "created_at"),
)
