"""The tables of what is expected of tasks, and of what was learned; created by the migrations like all others."""

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, LargeBinary, Table, text

from tale.storage.columns import id_column, metadata, number_column, text_column, word_column

# One row an attempt, made before its model is asked; the columns from `ended_at` on are the truth, added at its end.
predictions = Table(
    "predictions",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer(), primary_key=True, autoincrement=False),
    number_column("made_at", nullable=False),
    id_column("version", nullable=False),
    word_column("kind", nullable=False),
    word_column("complexity"),
    text_column("complexity_shares", nullable=False),  # JSON
    Column("output_tokens", Integer(), nullable=False),
    Column("lower_tokens", Integer(), nullable=False),
    Column("upper_tokens", Integer(), nullable=False),
    number_column("coverage", nullable=False),
    word_column("role", nullable=False),
    text_column("reason", nullable=False),
    Column("stated_tokens", Integer()),
    Column("cap_tokens", Integer()),
    number_column("gain"),
    number_column("ux_success"),
    number_column("task_success"),
    Column("explored", Boolean(), nullable=False),
    text_column("neighbours", nullable=False),  # JSON
    number_column("took_s"),
    number_column("ended_at"),
    Column("true_output_tokens", Integer()),
    text_column("finish_reason"),
    Column("was_cut", Boolean()),
    Column("succeeded", Boolean()),
    word_column("variant", server_default="default", nullable=False),
    Column("task_output_tokens", Integer()),
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
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    word_column("state", nullable=False),
    Column("rows", Integer(), nullable=False),
    number_column("trained_until", nullable=False),
    word_column("library", nullable=False),
    text_column("metrics", nullable=False),  # JSON
    text_column("reason", nullable=False),
    Column("artefact", LargeBinary()),  # none of versions that will not serve again
    Index(None, "created_at"),
)

learning_events = Table(
    "learning_events",
    metadata,
    id_column("id", primary_key=True),
    number_column("created_at", nullable=False),
    word_column("kind", nullable=False),
    text_column("text", nullable=False),
    id_column("version"),
    Index(None, "created_at"),
)

# One row a task that was done a second time as if nothing had been learned: what both ways cost, in tokens read and
# written, and whether their answers passed the task's check. What engines did not tell is unknown.
shadows = Table(
    "shadows",
    metadata,
    id_column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    number_column("made_at", nullable=False),
    Column("small_tokens", Integer()),
    Column("large_tokens", Integer()),
    Column("succeeded", Boolean(), nullable=False),
    Column("naive_tokens", Integer()),
    Column("naive_succeeded", Boolean(), nullable=False),
    Index(None, "made_at"),
)
