"""The gateway's tools about what is expected of tasks, why, how well that does, and what was learned."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tale.constants import TASK_TEXT_TRUNCATE
from tale.exceptions import ModelException, NetworkException, ServerException, TaskException
from tale.learning.intent_data import data_folder
from tale.learning.live_figures import (
    EstimatedSavings,
    LiveFigures,
    VerifiedSavings,
    estimated_savings,
    live_figures,
    verified_savings,
)
from tale.learning.priors import PRIORS, read_priors
from tale.mcp.base_server import BaseMCPServer
from tale.models.pool import Pool
from tale.predictions import EngineVersion, KeptPrediction, LearningEvent, Prediction, TaskQuestion
from tale.records import CallContext, ChatRequest, Message, Task
from tale.servers.prediction_link import EXPLANATION_LIMIT_S, PredictionLink
from tale.settings import Settings
from tale.storage.content import is_erased
from tale.storage.learning_store import LearningStore
from tale.storage.prediction_store import PredictionStore
from tale.storage.task_store import TaskStore
from tale.validation import validate_task_id, validate_task_text

REPORTED: Final = 1_000  # of the latest predictions whose truth is known
VERSIONS, EVENTS = 20, 20
BEING_LEARNED: Final = "what comes with tale is being learned, which takes a minute"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskPrediction:
    """What is expected of a task before it runs; null where nothing is known.

    A share `coverage` of all answers has at most `upper_tokens`, as many at least `lower_tokens`. `max_output_tokens`
    is where the answer would be cut, and gone on with once where that was learned; `gain` is how much likelier the task
    model is to succeed than the small one. `variant` names the instructions. `like` are ids of tasks like this one, and
    `like_texts` how those, and examples that come with tale, begin.
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
    variant: str | None = None
    like: list[str] = field(default_factory=list[str])
    like_texts: list[str] = field(default_factory=list[str])


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
    """What was learned, how it does on the live history, and what happened; newest first, windows oldest first.

    `verified` savings were measured on tasks that were done both ways; `estimated` ones are what was expected.
    """

    status: dict[str, Any] | None
    windows: list[LiveFigures]
    versions: list[EngineVersion]
    events: list[LearningEvent]
    verified: VerifiedSavings | None = None
    estimated: EstimatedSavings | None = None


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
        self._examples: dict[str, str] | None = None

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
        model = names.get(expected.role if expected else "task") or names.get("ux")  # one model may fill both roles
        limit_tokens, input_tokens = self._settings.max_output_tokens, await self._input_tokens(text)
        if expected is None:
            reason = f"Nothing is expected: {await self._why_nothing()}. Tasks go to the task model."
            return TaskPrediction(None, input_tokens, None, limit_tokens, model, "task", reason)
        return replace(_told(expected, limit_tokens, input_tokens, model), **await self._like(expected))

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
        for like in (explanation or {}).get("like", []):
            like["text"] = await self._beginning_of(like["id"])
        return TaskExplanation(task.id, task.text, kept, explanation, _note(kept, explanation))

    async def get_learning_report(self) -> LearningReport:
        """Tell how well predictions did on the live history, which versions there were, and what happened to them."""
        kept, small_cost = await self._predictions.newest(REPORTED), await self._link.small_cost()
        return LearningReport(
            status=await self._link.status(),
            windows=live_figures(kept, small_cost=small_cost),
            versions=await self._learning.versions(VERSIONS),
            events=await self._learning.events(EVENTS),
            verified=verified_savings(await self._predictions.newest_shadows(REPORTED), small_cost=small_cost),
            estimated=estimated_savings(kept, small_cost=small_cost),
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

    async def _why_nothing(self) -> str:
        """Why nothing is expected of tasks, in words that go on after a colon."""
        if self._settings.learning == "off":
            return "learning is off"
        status = await self._link.status() or {}
        match status.get("state", "starting"):
            case "starting" | "learning":
                return BEING_LEARNED
            case "off":
                return f"learning is off, as {status['last']}"
            case "failed":
                return f"learning failed: {status['last']}"
            case "ready":
                return "the learning server did not answer in time"
            case _:
                return "no version serves yet"

    async def _like(self, expected: Prediction) -> dict[str, list[str]]:
        """The tasks like this one, by their ids and as people know them; examples that come with tale have no ids."""
        texts = {neighbour: await self._beginning_of(neighbour) for neighbour in expected.neighbours}
        examples = self._examples or {}
        told = dict.fromkeys(text for text in texts.values() if text is not None)
        return {"like": [each for each in texts if each not in examples], "like_texts": list(told)}

    async def _beginning_of(self, task_id: str) -> str | None:
        """How a task, or an example that comes with tale, begins; None where its words are gone."""
        if self._examples is None:
            self._examples = await asyncio.to_thread(_example_texts)
        task = None if task_id in self._examples else await self._tasks.get(task_id)
        text = self._examples.get(task_id) if task is None else task.text
        return None if text is None or is_erased(text) else _beginning(text)

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


def _told(expected: Prediction, limit_tokens: int, input_tokens: int | None, model: str | None) -> TaskPrediction:
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
        variant=expected.variant,
    )


def _example_texts() -> dict[str, str]:
    """The texts of the attempts that come with tale, by the ids that they have as tasks; none where they are amiss."""
    try:
        return {row.task_id: row.text for row in read_priors(data_folder() / PRIORS)}
    except (OSError, ValueError, TypeError) as error:
        logger.warning("The examples that come with tale cannot be read: %s", error)
        return {}


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TASK_TEXT_TRUNCATE else f"{line[: TASK_TEXT_TRUNCATE - 1]}…"


def _note(kept: list[KeptPrediction], explanation: dict[str, Any] | None) -> str | None:
    """What is missing, and why."""
    if not kept and explanation is None:
        return "Nothing was expected of this task, and nothing has been learned yet; `tale learn --report` tells more."
    if not kept:
        return "Nothing was expected of this task when it ran; this is what would be expected now."
    if explanation is None:
        return "The learning server does not tell why; it may be starting. This is what it said when the task ran."
    return None
