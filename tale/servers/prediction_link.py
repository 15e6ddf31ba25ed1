"""What the servers ask the learning server about tasks; where it does not answer in time, nothing is known."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Final, Protocol

from tale.learning.engine_route import SMALL_COST
from tale.predictions import Prediction, TaskQuestion
from tale.servers.role_models import RoleModels

PREDICTION_LIMIT_S: Final = 0.05  # then the task goes its usual way
EXPLANATION_LIMIT_S: Final = 5.0
LEARNING_LIMIT_S: Final = 1_800.0
EXPLAINED: Final = (
    *("text", "limit_tokens", "has_check", "ux_model", "task_model", "small_cost", "keeps_instructions"),
)
EXPECTED: Final = frozenset(field.name for field in fields(Prediction))

logger = logging.getLogger(__name__)


class Asked(Protocol):
    """The bond with the learning server."""

    async def ask(self, tool: str, arguments: Mapping[str, Any], *, limit_s: float) -> dict[str, Any] | None:
        """What a tool of the learning server answers; None where it does not. Never raises for a broken server."""
        ...

    def learnable(self) -> None:
        """There is something new to learn from."""
        ...


class PredictionLink:
    """Asks what is expected of tasks; of the models that fill the roles now, where these are given.

    With `keeps_instructions` tasks go out with their own, without `has_limits` answers are not cut at learned limits.
    """

    def __init__(
        self,
        learning: Asked,
        models: RoleModels | None = None,
        *,
        keeps_instructions: bool = False,
        has_limits: bool = True,
    ) -> None:
        self._learning = learning
        self._models = models
        self._keeps_instructions = keeps_instructions
        self._has_limits = has_limits

    async def predict(self, question: TaskQuestion, *, limit_s: float = PREDICTION_LIMIT_S) -> Prediction | None:
        """What is expected of a task; None where nothing was learned, or nobody answers in time."""
        arguments = asdict(await self._whole(question))
        told = await self._learning.ask("predict", arguments, limit_s=limit_s)
        try:
            found = None if told is None or told["prediction"] is None else _prediction_of(told["prediction"])
        except (KeyError, TypeError, ValueError) as error:
            logger.warning("The learning server told of a task what cannot be understood: %s", error)
            return None
        return found if found is None or self._has_limits else replace(found, cap_tokens=None)

    async def explain(self, question: TaskQuestion) -> dict[str, Any] | None:
        """Why that is expected; None likewise."""
        told_of = asdict(await self._whole(question))
        arguments = {name: told_of[name] for name in EXPLAINED}
        told = await self._learning.ask("explain", arguments, limit_s=EXPLANATION_LIMIT_S)
        return None if told is None else told.get("explanation")

    async def status(self) -> dict[str, Any] | None:
        """How the learning of tasks stands; None where nobody answers."""
        return await self._learning.ask("tasks_status", {}, limit_s=EXPLANATION_LIMIT_S)

    async def learn(self) -> dict[str, Any] | None:
        """Have all there is learned from, and return how things stand then; None where nobody answers."""
        return await self._learning.ask("learn_tasks", {}, limit_s=LEARNING_LIMIT_S)

    async def small_cost(self) -> float:
        """What a token of the small model costs, where one of the task model costs 1."""
        return SMALL_COST if self._models is None else await self._models.small_cost()

    def settled(self) -> None:
        """A task has ended."""
        self._learning.learnable()

    async def _whole(self, question: TaskQuestion) -> TaskQuestion:
        """The question with all that does not depend on the task."""
        question = replace(question, keeps_instructions=self._keeps_instructions)
        return question if self._models is None else await self._models.named(question)


def _prediction_of(told: Mapping[str, Any]) -> Prediction:
    known = {name: value for name, value in told.items() if name in EXPECTED}
    known["neighbours"] = tuple(known["neighbours"])
    if known["role"] not in ("ux", "task"):
        raise ValueError(f"there is no role {known['role']!r}")
    return Prediction(**known)
