"""Opens each role of a process: its tools, its HTTP server, and what lies behind them."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Final

from tale import __version__
from tale.credentials import CONFIGURED, OWNER
from tale.exceptions import ServerException
from tale.mcp.admission import Entrance
from tale.mcp.http_client import HTTPMCPClient
from tale.mcp.http_server import HTTPMCPServer, Limits
from tale.models.model_pool import ModelPool
from tale.monitoring.evidence import StoredEvidence
from tale.monitoring.performance_monitor import MachineProbe, PerformanceMonitor, Work
from tale.monitoring.profiles import Profile, profile_of
from tale.monitoring.targets import Target
from tale.orchestration.coordinator import HTTPCoordinator
from tale.orchestration.executor import TaskExecutor
from tale.orchestration.home_key import made_key, own_key
from tale.orchestration.predicting import TaskPredictor
from tale.orchestration.shadows import Shadows
from tale.orchestration.task_feed import TaskFeed
from tale.records import TaskStatus
from tale.servers.budget_tools import BudgetGate, BudgetTools, add_budget_tools
from tale.servers.execution_server import INSTRUCTIONS as EXECUTION_INSTRUCTIONS
from tale.servers.execution_server import ExecutionTools, add_execution_tools
from tale.servers.gateway_resources import GatewayResources, add_gateway_resources, tell_changes
from tale.servers.gateway_server import INSTRUCTIONS as GATEWAY_INSTRUCTIONS
from tale.servers.gateway_server import GatewayTools, add_gateway_tools
from tale.servers.metrics_page import MetricsPage
from tale.servers.model_server import NAME as MODEL_SERVER
from tale.servers.model_server import build_model_server
from tale.servers.openai_api import OpenAIApi
from tale.servers.openai_failures import in_openai_form
from tale.servers.prediction_link import PredictionLink
from tale.servers.prediction_tools import PredictionTools, add_prediction_tools
from tale.servers.role_models import RoleModels
from tale.servers.shared import Shared, model_server_settings, owner_of
from tale.servers.task_stream import task_routes
from tale.servers.upkeep import Upkeep
from tale.servers.usage_tools import UsageTools, add_usage_tools
from tale.servers.ux_agent import UXAgent
from tale.servers.ux_agent_server import INSTRUCTIONS as UX_AGENT_INSTRUCTIONS
from tale.servers.ux_agent_server import add_ux_agent_tools
from tale.servers.waited_tasks import WaitedTasks
from tale.settings import Settings
from tale.storage.history_reader import HistoryReader
from tale.storage.key_store import KeyStore
from tale.storage.learning_store import LearningStore
from tale.storage.monitoring_store import MonitoringStore
from tale.storage.prediction_store import PredictionStore
from tale.storage.usage import UsageStore

logger = logging.getLogger(__name__)

Busy = Callable[[], bool]


async def open_execution(shared: Shared, stack: AsyncExitStack) -> Busy:
    """Serve the execution role; returns whether attempts are under way."""
    settings = shared.settings
    predictions = PredictionStore(shared.database)
    shadows = Shadows(
        shared.tasks,
        predictions,
        shared.pool,
        rate=settings.shadow_rate,
        max_failures=settings.max_task_retries,
        clock=shared.clock,
    )
    executor = TaskExecutor(
        shared.tasks,
        shared.pool,
        max_output_tokens=settings.max_output_tokens,
        max_failures=settings.max_task_retries,
        clock=shared.clock,
        on_text=shared.texts.append,
        predictor=TaskPredictor(_prediction_link(shared, stack), predictions, clock=shared.clock, shadows=shadows),
        routing=settings.routing,
    )
    stack.push_async_callback(executor.stop)
    await shadows.start()
    stack.push_async_callback(shadows.stop)
    server = _server(shared, "execution", settings.execution_port, EXECUTION_INSTRUCTIONS)
    add_execution_tools(server, ExecutionTools(executor, shared.calls, clock=shared.clock))
    await _serve(server, stack, grace_s=settings.stop_grace_s)
    if shared.distributed is None:
        return lambda: executor.running > 0
    worker = await shared.distributed.start_worker(executor)
    stack.push_async_callback(worker.stop, settings.stop_grace_s)
    return lambda: executor.running > 0 or worker.waiting() > 0


async def open_gateway(shared: Shared, stack: AsyncExitStack) -> Busy:
    """Serve the gateway role; returns whether tasks wait or run, here or elsewhere."""
    settings = shared.settings
    coordinator = _coordinator(shared, stack)
    tools = GatewayTools(
        coordinator,
        tasks=shared.tasks,
        calls=shared.calls,
        gate=BudgetGate(shared.budgets, shared.pool, clock=shared.clock),
        clock=shared.clock,
        server_info=shared.server_info,
    )
    server = _server(shared, "gateway", settings.gateway_port, GATEWAY_INSTRUCTIONS)
    add_gateway_tools(server, tools)
    add_budget_tools(server, BudgetTools(shared.budgets, MonitoringStore(shared.database), clock=shared.clock))
    add_usage_tools(server, UsageTools(UsageStore(shared.database), clock=shared.clock))
    add_prediction_tools(server, _prediction_tools(shared, stack))
    evidence = _evidence(shared, stack)
    resources = _resources(shared, coordinator, evidence)
    add_gateway_resources(server, resources)
    tell_changes(server, coordinator.events)
    server.add_tasks(WaitedTasks(server, "wait_for_task", view=resources.task, coordinator=coordinator))
    feed = TaskFeed(shared.events, shared.texts, coordinator.get)
    server.add_routes(task_routes(feed, server="tale-gateway", record=shared.record_mcp))
    _add_openai_api(server, shared)
    await _serve(server, stack, grace_s=0)
    await coordinator.start()
    stack.push_async_callback(coordinator.stop, settings.stop_grace_s)
    upkeep = Upkeep(settings, shared.database, clock=shared.clock)
    upkeep.start()
    stack.push_async_callback(upkeep.stop)
    await _open_monitor(shared, stack, evidence)
    return lambda: coordinator.engine.waiting() + coordinator.engine.running() > 0


def _prediction_link(shared: Shared, stack: AsyncExitStack) -> PredictionLink:
    settings = shared.settings
    models = RoleModels(shared.pool, small_cost=settings.small_cost)
    stack.push_async_callback(models.stop)
    return PredictionLink(
        shared.learning,
        models,
        keeps_instructions=settings.learned_instructions == "off",
        has_limits=settings.learned_limits == "on",
    )


def _prediction_tools(shared: Shared, stack: AsyncExitStack) -> PredictionTools:
    return PredictionTools(
        shared.settings,
        _prediction_link(shared, stack),
        pool=shared.pool,
        tasks=shared.tasks,
        predictions=PredictionStore(shared.database),
        learning=LearningStore(shared.database),
    )


async def _profile(shared: Shared) -> Profile:
    return profile_of((await shared.pool.status()).provider)


def _resources(shared: Shared, coordinator: HTTPCoordinator, evidence: StoredEvidence) -> GatewayResources:
    async def targets() -> Sequence[Target]:
        return (await _profile(shared)).targets(shared.settings.target_limits)

    return GatewayResources(
        coordinator.get,
        tasks=shared.tasks,
        calls=shared.calls,
        evidence=evidence,
        targets=targets,
        clock=shared.clock,
    )


def _evidence(shared: Shared, stack: AsyncExitStack) -> StoredEvidence:
    reader = HistoryReader(shared.settings.database)
    stack.callback(reader.close)
    return StoredEvidence(reader)


async def _open_monitor(shared: Shared, stack: AsyncExitStack, evidence: StoredEvidence) -> None:
    """Sample the machine and judge the targets, while the gateway of a database runs."""

    async def work() -> Work:
        counts, status = await shared.tasks.counts(), await shared.pool.status()
        models = [asdict(model) for model in status.models]
        return Work(counts[TaskStatus.QUEUED], counts[TaskStatus.RUNNING], models)

    monitor = PerformanceMonitor(
        MonitoringStore(shared.database),
        evidence,
        profile=await _profile(shared),
        owner=owner_of(shared.settings),
        look=MachineProbe(clock=shared.clock).look,
        work=work,
        clock=shared.clock,
        interval_s=shared.settings.monitor_interval_s,
        limits=shared.settings.target_limits,
    )
    monitor.start()
    stack.push_async_callback(monitor.stop)


def _coordinator(shared: Shared, stack: AsyncExitStack) -> HTTPCoordinator:
    """The gateway's core: it hands tasks to the execution server, or on PostgreSQL to any that takes them."""
    settings, engine = shared.settings, None
    if shared.distributed:
        execution, engine = shared.distributed, shared.distributed.gateway_engine()
    else:
        execution = HTTPMCPClient(
            settings.url_of("execution"), api_key=own_key(settings, "execution"), timeout_s=settings.http_timeout_s
        )
        stack.push_async_callback(execution.close)
    return HTTPCoordinator(
        settings,
        shared.tasks,
        execution=execution,
        pool=shared.pool,
        clock=shared.clock,
        engine=engine,
        events=shared.events,
    )


async def open_ux_agent(shared: Shared, stack: AsyncExitStack) -> Busy:
    """Serve the UX agent role, which is never busy beyond its requests."""
    settings = shared.settings
    agent = UXAgent(shared)
    stack.push_async_callback(agent.stop)
    server = _server(shared, "ux_agent", settings.ux_agent_port, UX_AGENT_INSTRUCTIONS)
    add_ux_agent_tools(server, agent.tools)
    await _serve(server, stack, grace_s=settings.stop_grace_s)
    await agent.start()
    return lambda: False


async def open_model_server(shared: Shared, stack: AsyncExitStack, *, required: bool) -> None:
    """Serve this host's pool to roles in other processes, if this process holds it.

    That it cannot be served is an error only where the role was asked for by name.
    """
    if not isinstance(shared.pool, ModelPool):
        if required:
            raise ServerException(
                "The model server has no models to serve: another process of this home holds them, or model_url names "
                "another host's. Stop that process, or leave model_url out."
            )
        return
    server = build_model_server(
        model_server_settings(shared.settings),
        shared.pool,
        health=partial(shared.health, MODEL_SERVER, "model"),
        on_use=shared.activity.note,
        metrics=_metrics(shared, "model"),
    )
    try:
        await server.start()
    except ServerException as error:
        if required:
            raise
        logger.warning("The models serve this process alone: %s", error)
        return
    stack.push_async_callback(server.stop)


OPENERS: Final[dict[str, Callable[[Shared, AsyncExitStack], Awaitable[Busy]]]] = {
    "execution": open_execution,  # before the gateway, which hands out as soon as it starts
    "ux_agent": open_ux_agent,
    "gateway": open_gateway,
}


def _server(shared: Shared, role: str, port: int, instructions: str) -> HTTPMCPServer:
    name = f"tale-{role.replace('_', '-')}"
    server = HTTPMCPServer(
        name,
        version=__version__,
        host=shared.settings.host,
        port=port,
        health=partial(shared.health, name, role),
        observer=shared.record_mcp,
        entrance=_entrance(shared),
        instructions=instructions,
        limits=_limits(shared.settings),
    )
    server.add_routes(_metrics(shared, role).routes())
    return server


def _metrics(shared: Shared, role: str) -> MetricsPage:
    """The figures of this process; those of the tasks are the gateway's to tell."""
    return MetricsPage(shared.recorder.counts, shared.pool, tasks=shared.tasks if role == "gateway" else None)


def _add_openai_api(server: HTTPMCPServer, shared: Shared) -> None:
    api = OpenAIApi(
        shared.pool,
        server="tale-gateway",
        record=shared.record_mcp,
        created=shared.started_at,
        ping_interval_s=_limits(shared.settings).ping_interval_s,
    )
    server.add_routes(api.routes(), outer=in_openai_form)


async def _serve(server: HTTPMCPServer, stack: AsyncExitStack, *, grace_s: float) -> None:
    await server.start()
    stack.push_async_callback(server.stop, grace_s)


def _limits(settings: Settings) -> Limits:
    usual = Limits()
    return replace(
        usual,
        sessions=settings.session_limit,
        session_idle_s=settings.session_idle_s,
        # A client takes http_timeout_s of silence for a server's death.
        ping_interval_s=min(usual.ping_interval_s, settings.http_timeout_s / 2),
    )


def _entrance(shared: Shared) -> Entrance:
    """Who may come in: this home's own processes, the configured key, and the keys in the database."""
    settings = shared.settings
    own_keys = {OWNER: made_key(settings)}
    if settings.api_key is not None:
        own_keys[CONFIGURED] = settings.api_key.get_secret_value()
    return Entrance(
        own_keys=own_keys,
        load_keys=KeyStore(shared.database).keys,
        needs_key=settings.api_key is not None,
        hosts=settings.allowed_hosts,
        origins=settings.allowed_origins,
        rate_per_s=settings.rate_limit_per_s,
        burst=settings.rate_limit_burst,
    )
