"""What the database says after the deaths: each task ended once, none is lost, nothing is left open."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, create_engine, text

from tale.constants import MAX_TASK_RETRIES
from tale.storage.engines import parse_url

FINAL: Final = "('completed', 'failed', 'cancelled')"
LOST: Final = ("lost", "failed")  # outcomes of attempts that count
MOST_ATTEMPTS: Final = 2 * MAX_TASK_RETRIES  # at one task: those that count, and as many that were handed back
APPLICATION: Final = "chaos"  # by which our own connections are told from tale's

SQLITE_WITNESS: Final = (
    "CREATE TABLE chaos_ends (task_id TEXT, was TEXT, became TEXT)",
    f"""CREATE TRIGGER chaos_end AFTER UPDATE OF status ON tasks WHEN OLD.status IN {FINAL} OR NEW.status IN {FINAL}
    BEGIN INSERT INTO chaos_ends VALUES (NEW.id, OLD.status, NEW.status); END""",
    f"""CREATE TRIGGER chaos_begin AFTER INSERT ON tasks WHEN NEW.status IN {FINAL}
    BEGIN INSERT INTO chaos_ends VALUES (NEW.id, '', NEW.status); END""",
)
POSTGRES_WITNESS: Final = (
    "CREATE TABLE chaos_ends (task_id TEXT, was TEXT, became TEXT)",
    """CREATE FUNCTION chaos_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_ends VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status ELSE '' END, NEW.status);
    RETURN NULL; END $$""",
    f"""CREATE TRIGGER chaos_end AFTER UPDATE OF status ON tasks FOR EACH ROW
    WHEN (OLD.status IN {FINAL} OR NEW.status IN {FINAL}) EXECUTE FUNCTION chaos_note()""",
    f"""CREATE TRIGGER chaos_begin AFTER INSERT ON tasks FOR EACH ROW
    WHEN (NEW.status IN {FINAL}) EXECUTE FUNCTION chaos_note()""",
)


@dataclass(frozen=True)
class Findings:
    """What was counted, and each thing that must not be, in a sentence."""

    statuses: Counter[str]
    causes: Counter[str]
    outcomes: Counter[str]
    calls: Counter[str]
    most_attempts: int
    most_failures: int
    complaints: list[str]


class Audit:
    """Looks into the database of a run from outside, by connections of its own."""

    def __init__(self, url: str) -> None:
        parsed = parse_url(url)
        self._is_postgres = parsed.get_backend_name() != "sqlite"
        options: dict[str, Any] = {"application_name": APPLICATION} if self._is_postgres else {"timeout": 30.0}
        self._engine = create_engine(parsed, connect_args=options, pool_pre_ping=True)

    def close(self) -> None:
        """Hang up."""
        self._engine.dispose()

    def witness(self) -> None:
        """Have the database itself note each end of a task, and each change after one."""
        with self._engine.begin() as connection:
            for statement in POSTGRES_WITNESS if self._is_postgres else SQLITE_WITNESS:
                connection.execute(text(statement))

    def at_work(self, since: float) -> int:
        """Tasks whose attempt began after that time and is under way."""
        query = text("SELECT count(*) FROM tasks WHERE status = 'running' AND started_at > :since")
        with self._engine.connect() as connection:
            return connection.scalar(query, {"since": since}) or 0

    def ended(self) -> int:
        """Tasks that are final."""
        with self._engine.connect() as connection:
            return connection.scalar(text(f"SELECT count(*) FROM tasks WHERE status IN {FINAL}")) or 0

    def end_a_backend(self, draw: float) -> bool:
        """Have PostgreSQL end one of tale's connections, chosen by a number from 0 to 1; False where there is none."""
        # By SIGTERM: at the SIGKILL of one of them PostgreSQL ends all, the audit's too, and is away for a while.
        ours = "datname = current_database() AND pid != pg_backend_pid() AND application_name != :name"
        with self._engine.begin() as connection:
            query = text(f"SELECT pid FROM pg_stat_activity WHERE {ours} ORDER BY backend_start")
            pids = list(connection.scalars(query, {"name": APPLICATION}))
            if not pids:
                return False
            chosen = {"pid": pids[int(draw * len(pids)) % len(pids)]}
            return bool(connection.scalar(text("SELECT pg_terminate_backend(:pid)"), chosen))

    def findings(self, acknowledged: Mapping[str, str], answers: Mapping[str, str] | None) -> Findings:
        """The verdict: `acknowledged` are the ids by key, `answers` what tasks that completed must have said, by id."""
        with self._engine.connect() as connection:
            tasks = _rows(connection, "SELECT * FROM tasks")
            attempts = _rows(connection, "SELECT * FROM attempts ORDER BY task_id, number")
            ends = _rows(connection, "SELECT * FROM chaos_ends")
            calls = _rows(connection, "SELECT ended_at, error_class FROM model_calls")
        by_task: dict[str, list[dict[str, Any]]] = {}
        for attempt in attempts:
            by_task.setdefault(attempt["task_id"], []).append(attempt)
        complaints = [
            *_lost(tasks, acknowledged),
            *_ended_otherwise_than_once(tasks, ends),
            *(complaint for task in tasks for complaint in _wrong_attempts(task, by_task.get(task["id"], []))),
            *_wrong_answers(tasks, answers),
        ]
        if still_open := sum(call["ended_at"] is None for call in calls):
            complaints.append(f"{still_open} model calls are left open")
        return Findings(
            statuses=Counter(task["status"] for task in tasks),
            causes=Counter(task["error_class"] for task in tasks if task["status"] == "failed"),
            outcomes=Counter(str(attempt["outcome"]) for attempt in attempts),
            calls=Counter(call["error_class"] or "completed" for call in calls),
            most_attempts=max((task["attempt"] for task in tasks), default=0),
            most_failures=max((task["failures"] for task in tasks), default=0),
            complaints=complaints,
        )


def _rows(connection: Connection, query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(query)).mappings()]


def _lost(tasks: list[dict[str, Any]], acknowledged: Mapping[str, str]) -> list[str]:
    found = {task["id"]: task for task in tasks}
    lost = [f"task {task_id} was acknowledged and is gone" for task_id in acknowledged.values() if task_id not in found]
    doubled = len(tasks) - len({task["idempotency_key"] for task in tasks})
    strange = sorted(set(found) - set(acknowledged.values()))
    return [
        *lost,
        *(f"task {task_id} is there and was never acknowledged" for task_id in strange),
        *([f"{doubled} tasks were stored twice"] if doubled else []),
    ]


def _ended_otherwise_than_once(tasks: list[dict[str, Any]], ends: list[dict[str, Any]]) -> list[str]:
    times = Counter(end["task_id"] for end in ends)
    return [
        *(f"task {task['id']} ended {times[task['id']]} times" for task in tasks if times[task["id"]] != 1),
        *(f"task {task['id']} is left {task['status']}" for task in tasks if task["status"] in ("queued", "running")),
    ]


def _wrong_attempts(task: dict[str, Any], attempts: list[dict[str, Any]]) -> list[str]:
    named = f"task {task['id']} ({task['status']})"
    outcomes = [attempt["outcome"] for attempt in attempts]
    counted = sum(outcome in LOST for outcome in outcomes)
    found: list[str] = []
    if [attempt["number"] for attempt in attempts] != list(range(1, task["attempt"] + 1)):
        found.append(f"{named} has attempts that are not numbered from 1 to {task['attempt']}")
    if None in outcomes or any(attempt["ended_at"] is None for attempt in attempts):
        found.append(f"{named} has an attempt that was left open")
    if task["attempt"] > MOST_ATTEMPTS:
        found.append(f"{named} took {task['attempt']} attempts; {MOST_ATTEMPTS} are the most that deaths can explain")
    if counted > MAX_TASK_RETRIES or counted != task["failures"]:
        found.append(f"{named} has {counted} attempts that failed; its row says {task['failures']}")
    if outcomes.count("completed") != (task["status"] == "completed"):
        found.append(f"{named} has {outcomes.count('completed')} completed attempts")
    return found


def _wrong_answers(tasks: list[dict[str, Any]], answers: Mapping[str, str] | None) -> list[str]:
    done = [task for task in tasks if task["status"] == "completed"]
    if answers is None:
        return [f"task {task['id']} has no answer" for task in done if not task["result"]]
    return [f"task {task['id']} has {task['result']!r}" for task in done if task["result"] != answers[task["id"]]]
