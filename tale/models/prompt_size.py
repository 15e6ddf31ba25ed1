"""How many tokens a prompt can have at most, without asking the model."""

import json
from typing import Final

from tale.records import ChatRequest, Message

MESSAGE_TOKENS: Final = 16  # what a chat template adds to a message, at most


def most_tokens(request: ChatRequest) -> int:
    """At least the tokens of the request's prompt: a token is a byte of it or more."""
    most = sum(_of_message(message) for message in request.messages)
    return most + len(json.dumps(list(request.tools))) if request.tools else most


def _of_message(message: Message) -> int:
    most = len(message.content.encode("utf-8", "replace")) + MESSAGE_TOKENS
    if message.parts:
        most += len(json.dumps(list(message.parts)))
    for call in message.tool_calls:
        most += len(call.name.encode("utf-8", "replace")) + len(call.arguments.encode("utf-8", "replace"))
        most += MESSAGE_TOKENS
    return most
