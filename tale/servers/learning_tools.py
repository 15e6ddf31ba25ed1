"""The tools by which the learning server tells what is expected of tasks, and learns from what came of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tale.learning.engine_explain import EngineExplanation, explain
from tale.learning.engine_learner import LearnerStatus
from tale.mcp.base_server import BaseMCPServer
from tale.predictions import Prediction, TaskQuestion
from tale.records import Role

if TYPE_CHECKING:
    from tale.learning.engine_learner import EngineLearner


@dataclass(frozen=True)
class Expected:
    """What is expected of a task; null while nothing was learned."""

    prediction: Prediction | None


@dataclass(frozen=True)
class Explained:
    """Why; null while nothing was learned."""

    explanation: EngineExplanation | None


class TaskLearningTools:
    """The tools about tasks."""

    def __init__(self, learner: "EngineLearner") -> None:
        self._learner = learner

    async def predict(
        self,
        text: str,
        limit_tokens: int,
        has_check: bool = False,
        has_schema: bool = False,
        role: Role | None = None,
        again: bool = False,
        ux_model: str | None = None,
        task_model: str | None = None,
        small_cost: float | None = None,
        keeps_instructions: bool = False,
    ) -> Expected:
        """Tell what is expected of a task: how long the answer will be, and which model should write it.

        Args:
            text: The task as it was handed in.
            limit_tokens: Most tokens that the answer may have.
            has_check: Whether the answer is checked, so that a bad one is noticed.
            has_schema: Whether the answer is JSON that has to fit a schema.
            role: Whose model does it, where that is no question.
            again: Whether two earlier answers or more failed their check.
            ux_model: The small model, as far as that is known.
            task_model: The task model.
            small_cost: What a token of the small model costs, where one of the task model costs 1.
            keeps_instructions: Whether it goes out with its own instructions.
        """
        rest = (ux_model, task_model, small_cost, keeps_instructions)
        question = TaskQuestion(text, limit_tokens, has_check, has_schema, role, again, *rest)
        return Expected(self._learner.predict(question))

    async def explain(
        self,
        text: str,
        limit_tokens: int,
        has_check: bool = False,
        ux_model: str | None = None,
        task_model: str | None = None,
        small_cost: float | None = None,
        keeps_instructions: bool = False,
    ) -> Explained:
        """Tell why a task is expected to be as it is: what of its text matters, what it is like, what else it costs.

        Args:
            text: The task as it was handed in.
            limit_tokens: Most tokens that the answer may have.
            has_check: Whether the answer is checked.
            ux_model: The small model, as far as that is known.
            task_model: The task model.
            small_cost: What a token of the small model costs, where one of the task model costs 1.
            keeps_instructions: Whether it goes out with its own instructions.
        """
        engine, rest = self._learner.engine, (ux_model, task_model, small_cost, keeps_instructions)
        question = TaskQuestion(text, limit_tokens, has_check, False, None, False, *rest)
        return Explained(None if engine is None else explain(engine, question))

    async def tasks_status(self) -> LearnerStatus:
        """Tell how the learning of tasks stands."""
        return self._learner.status()

    async def learn_tasks(self) -> LearnerStatus:
        """Learn from all tasks that have ended, and tell what came of that; takes seconds or minutes."""
        return await self._learner.learn_now()


def add_task_learning_tools(server: BaseMCPServer, learner: "EngineLearner") -> None:
    """Register the tools about tasks."""
    tools = TaskLearningTools(learner)
    server.add_tool(tools.predict, title="Tell what is expected of a task", read_only=True)
    server.add_tool(tools.explain, title="Explain what is expected of a task", read_only=True)
    server.add_tool(tools.tasks_status, title="How the learning of tasks stands", read_only=True)
    server.add_tool(tools.learn_tasks, title="Learn from tasks", idempotent=True)
