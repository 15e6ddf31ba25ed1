"""What a tool, prompt or resource is told of the request it serves, and how it talks back to the client."""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn, cast

from mcp import MCPError
from mcp.server.connection import allowed_log_levels
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from mcp.types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequests,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    LoggingLevel,
    SamplingMessage,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from tale.credentials import Scope
from tale.exceptions import ServerException
from tale.mcp.exchange import Exchange
from tale.mcp.long_calls import BecameTask, LongCall, require_tasks, takes_tasks

Question = InputRequest
Answer = ElicitResult | CreateMessageResult | ListRootsResult

ANSWER_OF: Final[dict[str, type[Answer]]] = {
    "elicitation/create": ElicitResult,
    "sampling/createMessage": CreateMessageResult,
    "roots/list": ListRootsResult,
}
CAPABILITY_OF: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


def form(message: str, schema: Mapping[str, Any]) -> ElicitRequest:
    """A question to the user: a form of flat fields, described by a JSON schema."""
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=dict(schema)))


def completion_by_client(prompt: str, *, max_tokens: int) -> CreateMessageRequest:
    """A question to the client's own language model."""
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def client_roots() -> ListRootsRequest:
    """The question which folders the client works in."""
    return ListRootsRequest()


class InputNeeded(Exception):
    """Ends a call of the modern era whose client has to answer something first; it then makes the call again."""

    def __init__(self, questions: InputRequests, state: str) -> None:
        super().__init__(", ".join(questions))
        self.result = InputRequiredResult(input_requests=questions, request_state=state)


class CallOrigin:
    """Where a call comes from; handed to a parameter annotated with this class."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the HTTP request."""
        return self._exchange.headers

    @property
    def trace_id(self) -> str:
        """Trace the call belongs to, 32 hexadecimal digits: the caller's (W3C traceparent) or a new one."""
        return self._exchange.trace_id

    @property
    def key_name(self) -> str | None:
        """Whose key the caller showed; None where nobody is asked for one."""
        return self._exchange.caller.name

    def speaks_for(self, key_name: str | None) -> bool:
        """Whether the caller has a say about what is that key's: it is the caller's own, or one that may do everything.

        None is whose nobody was asked for a key.
        """
        caller = self._exchange.caller
        return caller.scope is Scope.ADMIN or (key_name is not None and caller.name == key_name)

    def concerns(self, task_id: str, trace_id: str | None = None) -> None:
        """Note which task the call turned out to be about, for the record; an argument `task_id` is noted anyway.

        With `trace_id`, the task's, the call belongs to that trace unless the client named another.
        """
        self._exchange.concerns(task_id, trace_id)


class ToolContext(CallOrigin):
    """One call, and the way back to its client; handed to a parameter annotated with this class."""

    def __init__(self, exchange: Exchange, request: ServerRequestContext[Any]) -> None:
        super().__init__(exchange)
        self._request = request
        self._is_modern = request.protocol_version in MODERN_PROTOCOL_VERSIONS
        self._used: dict[str, Any] = {}  # answers that were asked for in this round, those of earlier rounds included

    @classmethod
    def of(cls, request: ServerRequestContext[Any]) -> "ToolContext":
        """The context of a request that the kernel serves."""
        return cls(exchange_of(request), request)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Tell the client how far the call has come; nothing is sent where it did not ask for that."""
        await self._exchange.progress(progress, total, message)

    async def log(self, level: LoggingLevel, data: object, *, logger: str | None = None) -> None:
        """Send the client a log message, if it wants messages of that level."""
        if self._is_modern:
            wanted = level in allowed_log_levels(self._request.protocol_version, self._request.meta)
        else:
            wanted = self._exchange.wants_log(level)
        if wanted:
            named = {"logger": logger} if logger else {}
            await self._exchange.notify("notifications/message", {"level": level, **named, "data": data})

    def client_answers(self, question: Question) -> bool:
        """Whether the client declared that it answers questions of this kind."""
        declared = self._request.session.client_capabilities
        return declared is not None and getattr(declared, CAPABILITY_OF[question.method]) is not None

    async def ask(self, question: Question, key: str = "answer") -> Answer:
        """Ask the client something; `key` names the question among those of the call. As `ask_all` does."""
        return (await self.ask_all({key: question}))[key]

    async def ask_all(self, questions: Mapping[str, Question]) -> dict[str, Answer]:
        """Ask the client several things at once.

        In the modern era a call ends with its questions and is made again with the answers: the function then runs
        from its start, and what was asked before is answered at once. So it must do nothing that counts before it asks.
        Raises MCPError or ServerException when the client does not answer such questions.
        """
        missing = [question for question in questions.values() if not self.client_answers(question)]
        if missing:
            raise self._unanswerable(missing)
        if not self._is_modern:
            return {key: await self._ask_now(question) for key, question in questions.items()}
        given = self._given()
        self._used |= {key: given[key] for key in questions if key in given}
        unanswered = {key: question for key, question in questions.items() if key not in given}
        if unanswered:
            raise InputNeeded(unanswered, json.dumps(self._used))
        return {key: _answer_to(question, given[key], key) for key, question in questions.items()}

    @property
    def takes_tasks(self) -> bool:
        """Whether the client takes a task, after which it asks, in place of a call that takes long."""
        return takes_tasks(self._request)

    def require_tasks(self) -> None:
        """Refuse a client that takes no tasks; raises MCPError."""
        require_tasks(self._request)

    def become_task(self, call: LongCall) -> NoReturn:
        """End the call here and let the client, which must take tasks, ask after it; see BaseMCPServer.add_tasks."""
        raise BecameTask(call)

    async def close_stream(self) -> None:
        """Let the client go and come back for the rest; nothing happens where its protocol does not provide that."""
        await self._exchange.close_stream()

    def _given(self) -> dict[str, Any]:
        """The client's answers by their keys: of this round, and of earlier ones from the state that it gave back."""
        params = self._request.params or {}
        state: object = params.get("requestState")  # the kernel has opened its seal, so it is what was raised here
        answers: object = params.get("inputResponses")
        earlier = cast("dict[str, Any]", json.loads(state)) if isinstance(state, str) else {}
        return earlier | (cast("dict[str, Any]", answers) if isinstance(answers, dict) else {})

    async def _ask_now(self, question: Question) -> Answer:
        related = ServerMessageMetadata(related_request_id=self._request.request_id)
        return await self._request.session.send_request(question, ANSWER_OF[question.method], metadata=related)

    def _unanswerable(self, questions: list[Question]) -> Exception:
        names = sorted({CAPABILITY_OF[question.method] for question in questions})
        text = f"This needs a client that can be asked ({', '.join(names)}), and that declares so."
        if not self._is_modern:
            return ServerException(text)
        needed: dict[str, dict[str, Any]] = {"requiredCapabilities": {name: {} for name in names}}
        return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, text, needed)


def exchange_of(request: ServerRequestContext[Any]) -> Exchange:
    """The exchange of a request that the kernel serves."""
    return cast("Exchange", request.request)


def _answer_to(question: Question, given: object, key: str) -> Answer:
    try:
        return ANSWER_OF[question.method].model_validate(given, by_name=False)
    except ValidationError as error:
        raise MCPError(INVALID_PARAMS, f"inputResponses.{key} does not answer {question.method}") from error
