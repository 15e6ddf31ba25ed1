"""GET /tasks/{task_id}/events: what happens to a task, as server-sent events that any gateway can go on with."""

import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

from aiohttp import web

from tale.exceptions import TaskException, ValidationException
from tale.orchestration.task_feed import FeedEvent, Place, TaskFeed
from tale.validation import validate_task_id

PATH: Final = "/tasks/{task_id}/events"
HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
STILL_HERE: Final = b": still here\n\n"
RETRY: Final = b"retry: 1000\n\n"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def task_routes(feed: TaskFeed) -> list[web.RouteDef]:
    """The route of the stream.

    The id of each event tells what its reader knows; sent back as Last-Event-ID, to whichever gateway, it has the
    stream go on from there. The stream ends after the event of the final state.
    """
    return [web.get(PATH, _handler(feed), allow_head=False)]


def _handler(feed: TaskFeed) -> Handler:
    async def get_events(request: web.Request) -> web.StreamResponse:
        try:
            task_id = validate_task_id(request.match_info["task_id"])
        except ValidationException as error:
            return _refused(HTTPStatus.BAD_REQUEST, error.message)
        place = Place.parse(request.headers.get("Last-Event-ID", ""))
        response = web.StreamResponse(headers=HEADERS)
        async with aclosing(feed.follow(task_id, place)) as events:
            try:
                first = await anext(events, None)  # what is unknown still has a status of its own
            except TaskException as error:
                return _refused(HTTPStatus.NOT_FOUND, error.message)
            await response.prepare(request)
            await response.write(RETRY + _encoded(first))
            async for event in events:
                await response.write(_encoded(event))
        return response

    return get_events


def _encoded(event: FeedEvent | None) -> bytes:
    if event is None:
        return STILL_HERE
    return f"id: {event.place}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()


def _refused(status: HTTPStatus, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
