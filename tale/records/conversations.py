"""Conversations, their messages, and what messages ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tale.records.models import Role

Intent = Literal["chat", "task", "status", "control", "ambiguous"]
Action = Literal["stop", "pause", "resume", "retry", "first", "last", "small_model", "large_model", "clear", "wish"]
"""What a control message orders; a wish is how answers and work are to be from then on."""


@dataclass(frozen=True, slots=True)
class Detection:
    """What a message asks for. `confidence` is the calibrated probability of the label, from 0 to 1.

    `source` tells what decided: a rule for fixed phrases, the learned model, or the plain rules that stand in for it.
    `action` is what a control message orders, with its own probability; None where only its words can tell.
    """

    label: Intent
    confidence: float
    reasons: tuple[str, ...]
    source: Literal["rule", "model", "fallback"]
    probabilities: Mapping[str, float] = field(default_factory=dict[str, float])
    action: Action | None = None
    action_confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Correction:
    """A message whose label a user put right; the detector learns from it."""

    id: str
    created_at: float
    text: str
    label: Intent
    detected: Intent
    conversation_id: str | None = None
    key_name: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A kept conversation; times are Unix seconds. Its first `summarized` messages are told by `summary`."""

    id: str
    created_at: float
    updated_at: float
    ended_at: float | None = None
    summary: str | None = None
    summarized: int = 0
    answers: Role = "ux"  # whose model answers in it


@dataclass(frozen=True, slots=True)
class ConversationTurn:
    """One message of a kept conversation.

    `kind` is what a message of the user was taken for, or what one of tale's is: see tale.conversation.state.
    `tokens` is how many it has by the model's own count; None where that was not counted.
    """

    conversation_id: str
    position: int
    role: Literal["system", "user", "assistant"]
    content: str
    created_at: float
    model_call_id: str | None = None
    kind: str | None = None
    task_id: str | None = None
    tokens: int | None = None
    rating: str | None = None
    comment: str | None = None
