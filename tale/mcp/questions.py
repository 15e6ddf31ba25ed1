"""Answers what a server asks its client in the midst of a call."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tale.exceptions import ServerException, TaleBaseException
from tale.mcp.wire import Message, as_object, error_message

METHOD_NOT_FOUND_CODE: Final = -32601
INTERNAL_ERROR_CODE: Final = -32603
INPUT_REQUIRED: Final = "input_required"

OnQuestion = Callable[[str, Message], Awaitable[Message]]
"""Takes the method (elicitation/create, sampling/createMessage, roots/list) and its params; returns the result."""


async def answer_to(question: Message, on_question: OnQuestion | None) -> Message:
    """The JSON-RPC answer to a server's request."""
    request_id, method = question["id"], str(question["method"])
    if method == "ping":
        return {"jsonrpc": "2.0", "id": request_id, "result": {}}
    if on_question is None:
        return error_message(request_id, METHOD_NOT_FOUND_CODE, f"This client does not answer {method}")
    try:
        return {"jsonrpc": "2.0", "id": request_id, "result": await on_question(method, _params_of(question))}
    except TaleBaseException as error:
        return error_message(request_id, INTERNAL_ERROR_CODE, error.message)


async def inputs_for(result: Message, on_question: OnQuestion | None) -> Message:
    """What has to be added to the params of a request that was answered with questions.

    Raises ServerException where there is nobody to answer them.
    """
    questions = {key: as_object(question) for key, question in as_object(result.get("inputRequests")).items()}
    state: Message = {"requestState": result["requestState"]} if "requestState" in result else {}
    if not questions:
        return state
    if on_question is None:
        methods = ", ".join(sorted({str(question.get("method")) for question in questions.values()}))
        raise ServerException(f"The tool asks its caller something ({methods}), which nobody here can answer.")
    answers: list[Any] = await asyncio.gather(
        *(on_question(str(question.get("method")), _params_of(question)) for question in questions.values())
    )
    return {**state, "inputResponses": dict(zip(questions, answers, strict=True))}


def _params_of(question: Message) -> Message:
    return as_object(question.get("params"))
