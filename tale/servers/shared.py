"""What the roles of one process share: the database with its stores, the model pool, and the clock."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout
from pydantic import SecretStr

from tale import __version__
from tale.exceptions import DatabaseException, ServerException
from tale.metrics.recorder import Recorder
from tale.metrics.token_tracker import TokenTracker
from tale.models.choice import choose_backend
from tale.models.model_pool import ModelPool
from tale.models.pool import Pool, PoolStatus
from tale.models.remote_pool import RemoteModelPool
from tale.orchestration.home_key import made_key
from tale.orchestration.run_state import LOCK, prepare_folder, unusable
from tale.orchestration.task_events import TaskEvents
from tale.orchestration.task_feed import forget_texts_of_ended
from tale.orchestration.task_texts import TaskTexts
from tale.records import McpCall
from tale.servers.alert_webhook import AlertWebhook
from tale.servers.learning_link import LearningLink
from tale.settings import Settings
from tale.storage.budget_store import BudgetStore
from tale.storage.call_store import CallStore
from tale.storage.conversation_store import ConversationStore
from tale.storage.database import Database
from tale.storage.engines import file_of, parse_url, postgresql_dsn
from tale.storage.patient_store import PatientCallStore, PatientTaskStore
from tale.storage.task_jobs import TaskJobs, job_settings
from tale.storage.task_store import TaskStore

if TYPE_CHECKING:
    from tale.orchestration.distributed import Distributed

POOL_LOCK: Final = "pool.lock"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Activity:
    """When the process was last used, in seconds of a monotonic clock, and whether it is about to end."""

    last_use: float = field(default_factory=time.monotonic)
    is_stopping: bool = False

    def note(self) -> None:
        """Something was asked of this process."""
        self.last_use = time.monotonic()


@dataclass(frozen=True, slots=True)
class Shared:
    """What is handed to every role of this process."""

    settings: Settings
    database: Database
    tasks: TaskStore
    calls: CallStore
    budgets: BudgetStore
    conversations: ConversationStore
    recorder: Recorder
    pool: Pool
    learning: LearningLink
    activity: Activity
    clock: Callable[[], float]
    started_at: float
    events: TaskEvents = field(default_factory=TaskEvents)
    texts: TaskTexts = field(default_factory=TaskTexts)
    distributed: "Distributed | None" = None  # where the tasks are on PostgreSQL

    def record_mcp(self, call: McpCall) -> Awaitable[None]:
        """Keep one answered MCP request; the observer of every server of this process."""
        self.activity.note()
        return self.recorder.record_mcp(call)

    async def health(self, name: str, role: str) -> dict[str, Any]:
        """What GET /health of a role answers."""
        pool, database = await self.pool.status(), await self._database_state()
        return {
            "name": name,
            "role": role,
            "version": __version__,
            "status": "stopping" if self.activity.is_stopping else _overall(pool) if database == "ok" else "degraded",
            "uptime_s": round(self.clock() - self.started_at, 3),
            "pid": os.getpid(),
            "home": str(self.settings.home),
            "database": {"id": self.database.id, "state": database},
            "backend": {"provider": pool.provider, "reason": pool.reason, "url": pool.url},
            "models": [asdict(model) for model in pool.models],
            "engines": [asdict(engine) for engine in pool.engines],
        }

    async def _database_state(self) -> str:
        try:
            await self.database.check()
        except DatabaseException as error:
            logger.error("The database does not answer: %s", error)
            return "failed"
        return "ok"

    async def server_info(self) -> dict[str, Any]:
        """What the tool get_server_info answers."""
        info = await self.health("tale", "gateway")
        counts = await self.tasks.counts()
        return {
            **info,
            "database": {**info["database"], "url": self.database.url},
            "queue": {status.value: count for status, count in counts.items()},
        }


async def open_shared(settings: Settings, roles: Sequence[str], stack: AsyncExitStack) -> Shared:
    """Lock what must have one owner, open the database, start the pool; `stack` closes it all in reverse order."""
    prepare_folder(settings.run_folder)
    for role in roles:
        _hold(settings, role, stack)
    database = await asyncio.to_thread(Database.open, settings.database, backup_folder=settings.home / "backups")
    stack.push_async_callback(database.close)
    budgets = BudgetStore(database, owner=owner_of(settings))
    dsn = postgresql_dsn(settings.database)
    calls = PatientCallStore(database, budgets)
    stack.push_async_callback(calls.stop)
    recorder = Recorder(calls)
    _send_alerts(settings, budgets, stack)
    pool = await _open_pool(settings, calls, recorder, stack)
    tasks, events, texts = TaskStore(database), TaskEvents(), TaskTexts()
    forget_texts_of_ended(events, texts)
    distributed = None
    if dsn:
        tasks, distributed = await _open_distributed(settings, database, dsn, events, texts, stack)
    return Shared(
        settings=settings,
        database=database,
        tasks=tasks,
        calls=calls,
        budgets=budgets,
        conversations=ConversationStore(database),
        recorder=recorder,
        pool=pool,
        learning=LearningLink(settings),
        activity=Activity(),
        clock=time.time,
        started_at=time.time(),
        events=events,
        texts=texts,
        distributed=distributed,
    )


def _send_alerts(settings: Settings, budgets: BudgetStore, stack: AsyncExitStack) -> None:
    if settings.alert_webhook_url is not None:
        webhook = AlertWebhook(settings.alert_webhook_url, budgets, clock=time.time)
        webhook.start()
        stack.push_async_callback(webhook.stop)


async def _open_distributed(
    settings: Settings, database: Database, dsn: str, events: TaskEvents, texts: TaskTexts, stack: AsyncExitStack
) -> "tuple[TaskStore, Distributed]":
    """What tasks on PostgreSQL need, whose packages are imported here alone."""
    job_settings()  # says which extra is missing, before anything else is imported
    from tale.orchestration.distributed import Distributed

    jobs = TaskJobs(database)
    tasks = PatientTaskStore(database, jobs=jobs)
    distributed = Distributed(settings, tasks, jobs, dsn=dsn, events=events, texts=texts)
    await distributed.start()
    stack.push_async_callback(distributed.stop)
    return tasks, distributed


def _hold(settings: Settings, role: str, stack: AsyncExitStack) -> None:
    """One gateway a database, one server of each other role a home; the system frees the lock of a dead process."""
    file = file_of(parse_url(settings.database)) if role == "gateway" else None
    path = settings.run_folder / f"{role}.lock" if file is None else Path(f"{os.path.realpath(file)}.gateway.lock")
    prepare_folder(path.parent)
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ServerException(
            f"A tale {role} server already runs on {settings.home}; stop it with `tale servers stop`, "
            "or choose another home with --home.",
            {LOCK: str(path)},
        ) from error
    except OSError as error:
        raise unusable(path, error) from error
    stack.callback(lock.release)


async def _open_pool(settings: Settings, calls: CallStore, recorder: Recorder, stack: AsyncExitStack) -> Pool:
    """The host's one pool: this process holds it unless another does already, or a model server is named."""
    lock = FileLock(settings.run_folder / POOL_LOCK, thread_local=False)
    key = _model_key(settings)
    if settings.model_url is None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("Another process of this home holds the models; using its model server.")
    if not lock.is_locked:
        remote = RemoteModelPool(settings.url_of("model"), key)
        stack.push_async_callback(remote.close)
        await remote.start()
        return remote
    stack.callback(lock.release)
    await calls.close_orphans(time.time(), owner=owner_of(settings))
    pool = await _open_local_pool(settings, recorder)
    stack.push_async_callback(pool.close)
    await pool.start()
    return pool


async def _open_local_pool(settings: Settings, recorder: Recorder) -> ModelPool:
    choice = await choose_backend(settings)
    logger.info("%s", choice.reason)
    return ModelPool(
        choice.backend,
        ux_model=choice.ux_model,
        task_model=choice.task_model,
        tracker=TokenTracker(recorder, answer_tokens=settings.max_output_tokens, owner=owner_of(settings)),
        memory_limit_bytes=settings.memory_limit_bytes,
        routing=settings.routing,
        monitor_interval_s=settings.monitor_interval_s,
        provider_reason=choice.reason,
        url=choice.url,
        slots={"ux": choice.slots, "task": choice.slots} if choice.slots else None,
    )


def owner_of(settings: Settings) -> str:
    """Whose the calls of this home are, among all that share its database; that of a file belongs to one host alone."""
    return "" if settings.database.startswith("sqlite") else f"{socket.gethostname()}:{settings.home}"


def _model_key(settings: Settings) -> str:
    """The key of this home's model server: the configured one, else the home's own."""
    return made_key(settings) if settings.api_key is None else settings.api_key.get_secret_value()


def model_server_settings(settings: Settings) -> Settings:
    """The settings under which the model server runs: it always asks for a key."""
    return settings.model_copy(update={"api_key": SecretStr(_model_key(settings))})


def _overall(pool: PoolStatus) -> str:
    states = {model.state for model in pool.models}
    if "failed" in states or not states:  # no model is known while the model server does not answer
        return "degraded"
    return "ok" if "ready" in states else "starting"
