"""The gateway's tools about what is expected of tasks, why, how well that does, and what was learned."""

import logging
from dataclasses import dataclass, field
from typing import Any, Final

from tale.exceptions import ModelException, NetworkException, ServerException, TaskException
from tale.learning.live_figures import LiveFigures, live_figures
from tale.mcp.base_server import BaseMCPServer
from tale.models.pool import Pool
from tale.predictions import EngineVersion, KeptPrediction, LearningEvent, Prediction, TaskQuestion
from tale.records import CallContext, ChatRequest, Message, Task
from tale.servers.prediction_link import EXPLANATION_LIMIT_S, PredictionLink
from tale.settings import Settings
from tale.storage.learning_store import LearningStore
from tale.storage.prediction_store import PredictionStore
from tale.storage.task_store import TaskStore
from tale.validation import validate_task_id, validate_task_text

REPORTED: Final = 1_000  # of the latest predictions whose truth is known
VERSIONS, EVENTS = 20, 20
NOTHING_LEARNED: Final = "Nothing has been learned yet: tasks go to the task model."

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskPrediction:
    """What is expected of a task before it runs; null where nothing is known.

    A share `coverage` of all answers has at most `upper_tokens`, as many at least `lower_tokens`. `max_output_tokens`
    is where the answer would be cut, and gone on with once where that was learned; `gain` is how much likelier the task
    model is to succeed than the small one.
    """

    complexity: str | None
    input_tokens: int | None
    output_tokens: int | None
    max_output_tokens: int
    model: str | None
    role: str
    reason: str
    lower_tokens: int | None = None
    upper_tokens: int | None = None
    coverage: float | None = None
    complexity_shares: dict[str, float] = field(default_factory=dict[str, float])
    stated_tokens: int | None = None
    gain: float | None = None
    ux_success: float | None = None
    task_success: float | None = None
    kind: str | None = None
    version: str | None = None
    like: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class TaskExplanation:
    """What was expected of each attempt at a task with what came of it, and why, by what is known now.

    `explanation` holds the parts of the task that mattered, what each model is expected to take, and tasks that were
    like it; null where the learning server does not tell.
    """

    task_id: str
    text: str
    attempts: list[KeptPrediction]
    explanation: dict[str, Any] | None
    note: str | None


@dataclass(frozen=True)
class LearningReport:
    """What was learned, how it does on the live history, and what happened; newest first, windows oldest first."""

    status: dict[str, Any] | None
    windows: list[LiveFigures]
    versions: list[EngineVersion]
    events: list[LearningEvent]


class PredictionTools:
    """The tools; the database is asked here, the learning server for what only it knows."""

    def __init__(
        self,
        settings: Settings,
        link: PredictionLink,
        *,
        pool: Pool,
        tasks: TaskStore,
        predictions: PredictionStore,
        learning: LearningStore,
    ) -> None:
        self._settings = settings
        self._link = link
        self._pool = pool
        self._tasks = tasks
        self._predictions = predictions
        self._learning = learning

    async def predict_task(self, text: str) -> TaskPrediction:
        """Tell before a task is handed in what is expected: its tokens, how complex it is, the model, and why.

        Args:
            text: The task, as it would be handed in.
        """
        text = validate_task_text(text)
        names = {state.role: state.name for state in (await self._pool.status()).models}
        question = TaskQuestion(
            text, self._settings.max_output_tokens, role="task" if self._settings.routing == "off" else None
        )
        expected = await self._link.predict(question, limit_s=EXPLANATION_LIMIT_S)
        role = expected.role if expected else "task"
        model = names.get(role) or names.get("ux")  # one model may fill both roles
        return _told(expected, self._settings.max_output_tokens, await self._input_tokens(text), model)

    async def explain_task(self, task_id: str) -> TaskExplanation:
        """Tell what was expected of a task and why, what came of it, and what the other model would have cost.

        Args:
            task_id: Id of the task, a UUID of version 4.
        """
        task = await self._tasks.get(validate_task_id(task_id))
        if task is None:
            raise TaskException("No such task; `tale list` shows those there are.", {"task_id": task_id})
        kept = await self._predictions.of_task(task.id)
        explanation = await self._link.explain(self._question(task))
        return TaskExplanation(task.id, task.text, kept, explanation, _note(kept, explanation))

    async def get_learning_report(self) -> LearningReport:
        """Tell how well predictions did on the live history, which versions there were, and what happened to them."""
        return LearningReport(
            status=await self._link.status(),
            windows=live_figures(await self._predictions.newest(REPORTED)),
            versions=await self._learning.versions(VERSIONS),
            events=await self._learning.events(EVENTS),
        )

    async def learn_from_tasks(self) -> dict[str, Any]:
        """Learn from all tasks that have ended, now; a new version serves only if it does better than the old one."""
        status = await self._link.learn()
        if status is None:
            raise ServerException(
                "The learning server does not answer; it starts some seconds after the others, and not with "
                "learning = off. `tale servers status` and learning.log tell more."
            )
        return status

    def _question(self, task: Task) -> TaskQuestion:
        limit = task.max_output_tokens or self._settings.max_output_tokens
        return TaskQuestion(task.text, limit, has_check=task.expect is not None)

    async def _input_tokens(self, text: str) -> int | None:
        request = ChatRequest(model="", messages=(Message("user", text),))
        try:
            return await self._pool.count_tokens(request, CallContext(role="task", operation="count"))
        except (NetworkException, ModelException) as error:
            logger.info("A prompt could not be counted: %s", error)
            return None


def add_prediction_tools(server: BaseMCPServer, tools: PredictionTools) -> None:
    """Register the tools."""
    server.add_tool(tools.predict_task, title="Predict a task", read_only=True)
    server.add_tool(tools.explain_task, title="Explain a prediction", read_only=True)
    server.add_tool(tools.get_learning_report, title="How well it predicts", read_only=True)
    server.add_tool(tools.learn_from_tasks, title="Learn from tasks", idempotent=True)


def _told(
    expected: Prediction | None, limit_tokens: int, input_tokens: int | None, model: str | None
) -> TaskPrediction:
    if expected is None:
        return TaskPrediction(None, input_tokens, None, limit_tokens, model, "task", NOTHING_LEARNED)
    return TaskPrediction(
        complexity=expected.complexity,
        input_tokens=input_tokens,
        output_tokens=expected.output_tokens,
        max_output_tokens=min(limit_tokens, expected.cap_tokens or limit_tokens),
        model=model,
        role=expected.role,
        reason=expected.reason,
        lower_tokens=expected.lower_tokens,
        upper_tokens=expected.upper_tokens,
        coverage=expected.coverage,
        complexity_shares=dict(expected.complexity_shares),
        stated_tokens=expected.stated_tokens,
        gain=expected.gain,
        ux_success=expected.ux_success,
        task_success=expected.task_success,
        kind=expected.kind,
        version=expected.version,
        like=list(expected.neighbours),
    )


def _note(kept: list[KeptPrediction], explanation: dict[str, Any] | None) -> str | None:
    """What is missing, and why."""
    if not kept and explanation is None:
        return "Nothing was expected of this task, and nothing has been learned yet; `tale learn --report` tells more."
    if not kept:
        return "Nothing was expected of this task when it ran; this is what would be expected now."
    return None if explanation else "The learning server does not tell why; this is what it said when the task ran."
