"""What is expected of a task before it is done, what came of it, and what is kept of the learning from both.

What tools answer with has no slots: the MCP SDK reads the schema off the class, and takes slots for defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tale.records import Role

Complexity = Literal["simple", "medium", "complex"]
VersionState = Literal["serving", "retired", "rejected"]
EventKind = Literal["promoted", "rejected", "rolled_back", "drifted", "recovered", "unreadable", "erased"]

CUT: Final = "length"  # the finish reason of an answer that reached its limit
ENDLESS_TOKENS: Final = 2_048  # of an answer that is as good as endless, whatever its limit


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """What is known of an attempt before it is made.

    `limit_tokens` is what the answer may have by the user's limit or the settings'. The models are those that fill the
    roles now, and `small_cost` is what a token of the small one costs, where one of the task model costs 1; None where
    nobody told: then they are taken to be those that were learned from last, and to cost by their names.
    """

    text: str
    limit_tokens: int
    has_check: bool = False  # a bad answer is noticed, and the task done again
    has_schema: bool = False  # the answer is JSON, which cannot be gone on with once it is cut
    role: Role | None = None  # whose model it is to be, where that is no question
    again: bool = False  # two earlier answers or more failed their check
    ux_model: str | None = None
    task_model: str | None = None
    small_cost: float | None = None
    keeps_instructions: bool = False  # it goes out with its own, whatever was learned


@dataclass(frozen=True)
class Prediction:
    """What a version expects of an attempt.

    The answer has `output_tokens` by the median; a share `coverage` of all answers has at most `upper_tokens`, the same
    share at least `lower_tokens`. `gain` is how much likelier the task model is to succeed than the small one. Two
    limits: `stated_tokens` is told to the model, `cap_tokens` is enforced; None where none was learned that helps.
    `variant` names the instructions, one of `learning.prompts`. By the median the task model would have written
    `task_output_tokens`.
    """

    version: str
    kind: str
    complexity: Complexity | None  # None while too little is known of how the models do
    complexity_shares: Mapping[str, float]
    output_tokens: int
    lower_tokens: int
    upper_tokens: int
    coverage: float
    role: Role
    reason: str
    stated_tokens: int | None = None
    cap_tokens: int | None = None
    gain: float | None = None
    ux_success: float | None = None
    task_success: float | None = None
    explored: bool = False
    neighbours: tuple[str, ...] = ()  # ids of tasks like this one, the likest first
    took_s: float | None = None
    variant: str = "default"
    task_output_tokens: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt. `succeeded` by a check of the answer; None where there was none."""

    output_tokens: int | None = None
    finish_reason: str | None = None
    was_cut: bool = False  # at the learned cap, and gone on with after it
    succeeded: bool | None = None


@dataclass(frozen=True)
class KeptPrediction:
    """A prediction with the attempt it was made for and, once that has ended, the truth. Times are Unix seconds.

    A user's rating stands in the outcome in place of a check's finding.
    """

    task_id: str
    attempt: int
    made_at: float
    prediction: Prediction
    ended_at: float | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that was made, as it is learned from; `succeeded` is None where nobody looked."""

    task_id: str
    ended_at: float
    text: str
    role: Role
    model: str
    output_tokens: int | None = None
    finish_reason: str | None = None
    succeeded: bool | None = None
    rated: bool = False  # succeeded or not by a user's word
    key_name: str | None = None  # whose task, or whose word, it is; None of whoever runs tale
    variant: str = "default"  # of the instructions
    is_retry: bool = False  # an earlier answer failed its check: the task is one of the hard ones
    has_schema: bool = False  # the answer is JSON, which has instructions of its own


@dataclass(frozen=True)
class Shadow:
    """A task that was done a second time as if nothing had been learned. Tokens are read and written ones of all calls.

    `small_tokens` and `large_tokens` are what it cost the user's way, by model; None where engines did not tell.
    """

    task_id: str
    made_at: float
    small_tokens: int | None
    large_tokens: int | None
    succeeded: bool
    naive_tokens: int | None
    naive_succeeded: bool


@dataclass(frozen=True)
class EngineVersion:
    """A version of what was learned. Its metrics are those of rows that came later than what it was made of."""

    id: str
    created_at: float
    state: VersionState
    rows: int
    trained_until: float
    library: str  # the scikit-learn that made it
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reason: str = ""


@dataclass(frozen=True)
class LearningEvent:
    """Something that happened to what was learned."""

    id: str
    created_at: float
    kind: EventKind
    text: str
    version: str | None = None


def is_whole(output_tokens: int, finish_reason: str | None) -> bool:
    """Whether an answer of so many tokens is all that there was to be written: somebody's limit may have cut it.

    >>> is_whole(16, "stop"), is_whole(16, "length"), is_whole(2_048, "length"), is_whole(16, None)
    (True, False, True, True)
    """
    return finish_reason != CUT or output_tokens >= ENDLESS_TOKENS


def tells(output_tokens: int | None, finish_reason: str | None, upper_tokens: int) -> bool:
    """Whether an answer tells how its prediction did: one that was cut does where it was too long already.

    >>> tells(16, "stop", 30), tells(16, "length", 30), tells(31, "length", 30), tells(None, None, 30)
    (True, False, True, False)
    """
    return output_tokens is not None and (is_whole(output_tokens, finish_reason) or output_tokens > upper_tokens)
