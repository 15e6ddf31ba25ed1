"""How many tokens a prompt can have at most, and how few, without asking the model."""

import json
import re
from collections.abc import Sequence
from typing import Final

from tale.records import ChatRequest, Message

MESSAGE_TOKENS: Final = 16  # what a chat template adds to a message, at most
PREAMBLE_TOKENS: Final = 64  # what a template says by itself where nobody gives instructions
TOOL_PREAMBLE_TOKENS: Final = 512  # and on how to call tools
TOKEN_CHARACTERS: Final = 6  # more than a token has on average in any language; English has four and a half
LIKELY_BYTES: Final = 3  # of a token, so that a guess is seldom too low: a letter, or a Chinese character
RUNS: Final = re.compile(r"(\W)\1+")  # of blanks, dashes and the like, of which a token may hold many
CONTEXT_EXCEEDED: Final = "context_length_exceeded"  # OpenAI's code for a prompt that does not fit
TOO_LONG: Final = re.compile(r"context[ _](length|size|window)|prompt is too long", re.IGNORECASE)


def most_tokens(request: ChatRequest) -> int:
    """At least the tokens of the request's prompt: a token is a byte of it or more."""
    most = sum(_of_message(message) for message in request.messages)
    return most + len(json.dumps(list(request.tools))) if request.tools else most


def fewest_tokens(request: ChatRequest) -> int:
    """A low guess at the tokens of the request's prompt: what does not fit by this one surely does not fit."""
    return sum(len(RUNS.sub(r"\1", message.content)) for message in request.messages) // TOKEN_CHARACTERS


def likely_tokens(request: ChatRequest) -> int:
    """A middling guess at the tokens of the request's prompt, without its pictures."""
    told = [message.content for message in request.messages]
    told += [call.arguments for message in request.messages for call in message.tool_calls]
    if request.tools:
        told.append(json.dumps(list(request.tools)))
    return sum(len(text.encode("utf-8", "replace")) for text in told) // LIKELY_BYTES


def tells_of_length(refusal: str) -> bool:
    """Whether an engine's words say that what was asked does not fit its model's context."""
    return TOO_LONG.search(refusal) is not None


def bound_of(request: ChatRequest) -> int:
    """The same with what a template says by itself: what a call can use of a budget before its answer."""
    return most_tokens(request) + PREAMBLE_TOKENS + (TOOL_PREAMBLE_TOKENS if request.tools else 0)


def bound_of_texts(texts: Sequence[str]) -> int:
    """At least the tokens of texts of which vectors are made."""
    return sum(len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS for text in texts)


def _of_message(message: Message) -> int:
    most = len(message.content.encode("utf-8", "replace")) + MESSAGE_TOKENS
    if message.parts:
        most += len(json.dumps(list(message.parts)))
    for call in message.tool_calls:
        most += len(call.name.encode("utf-8", "replace")) + len(call.arguments.encode("utf-8", "replace"))
        most += MESSAGE_TOKENS
    return most
