"""GET /tasks/{task_id}/events: what happens to a task, as server-sent events that any gateway can go on with."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

from aiohttp import web

from tale.exceptions import DatabaseException, TaskException, ValidationException
from tale.orchestration.task_feed import FeedEvent, Place, TaskFeed
from tale.servers.http_calls import HttpCall, Record
from tale.validation import validate_task_id

PATH: Final = "/tasks/{task_id}/events"
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
STILL_HERE: Final = b": still here\n\n"
RETRY: Final = b"retry: 1000\n\n"
NOT_NOW: Final = b": the database does not answer now; ask again\n\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


def task_routes(feed: TaskFeed, *, server: str, record: Record) -> list[web.RouteDef]:
    """The route of the stream. `server` is the name under which each request is kept, by `record`, when it has ended.

    The id of each event tells what its reader knows; sent back as Last-Event-ID, to whichever gateway, it has the
    stream go on from there. The stream ends after the event of the final state; while the database does not answer, at
    once, to be asked for again.
    """
    return [web.get(PATH, _handler(feed, server, record), allow_head=False)]


def _handler(feed: TaskFeed, server: str, record: Record) -> Handler:
    async def get_events(request: web.Request) -> web.StreamResponse:
        call = HttpCall(request, server, record, path=PATH)
        try:
            response = await _followed(feed, request, call)
        except (ValidationException, TaskException) as error:
            await call.ended(error)
            is_unknown = isinstance(error, TaskException)
            return _refused(HTTPStatus.NOT_FOUND if is_unknown else HTTPStatus.BAD_REQUEST, error.message)
        except BaseException as error:
            await asyncio.shield(call.ended(error))
            raise
        return response

    return get_events


async def _followed(feed: TaskFeed, request: web.Request, call: HttpCall) -> web.StreamResponse:
    """The stream as it was sent, and kept. Raises ValidationException and TaskException before it has begun."""
    call.task_id = task_id = validate_task_id(request.match_info["task_id"])
    place = Place.parse(request.headers.get("Last-Event-ID", ""))
    response = web.StreamResponse(headers=HEADERS)
    failure: DatabaseException | None = None
    async with aclosing(feed.follow(task_id, place)) as events:
        try:
            first = _encoded(await anext(events, None))  # what is unknown still has a status of its own
        except DatabaseException as error:  # refused, an EventSource would never come back
            logger.warning("Task %s cannot be followed now: %s", task_id, error)
            first, failure = NOT_NOW, error
        await response.prepare(request)
        await response.write(RETRY + first)
        async for event in events:
            await response.write(_encoded(event))
    await call.ended(failure)
    return response


def _encoded(event: FeedEvent | None) -> bytes:
    if event is None:
        return STILL_HERE
    return f"id: {event.place}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()


def _refused(status: HTTPStatus, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
