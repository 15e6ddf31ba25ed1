"""The recorder behind HTTP, for ingest.py: `python call_server.py PORT FILE` takes batches of calls and records each.

It answers when all calls of a batch are durable. What a call passes through is what it passes through in a service: its
row is opened, and then closed, by the recorder.
"""

import asyncio
import json
import sys

from aiohttp import web

from tale.ids import new_call_id
from tale.metrics.recorder import Recorder
from tale.records import ModelCall
from tale.storage.call_store import CallStore
from tale.storage.database import Database

RECORDER = web.AppKey("recorder", Recorder)


async def record(recorder: Recorder, told: dict[str, object]) -> None:
    call_id = new_call_id()
    known = {name: told[name] for name in ("started_at", "role", "operation", "model", "provider", "conversation_id")}
    await recorder.open_call(ModelCall(id=call_id, **known))  # type: ignore[arg-type]  # as the benchmark posts them
    await recorder.close_call(ModelCall(id=call_id, **told))  # type: ignore[arg-type]  # likewise


async def take(request: web.Request) -> web.Response:
    recorder = request.app[RECORDER]
    await asyncio.gather(*(record(recorder, told) for told in json.loads(await request.read())))
    return web.Response()


async def live(request: web.Request) -> web.Response:
    return web.Response()


def main(port: int, path: str) -> None:
    application = web.Application()
    application[RECORDER] = Recorder(CallStore(Database.open(f"sqlite:///{path}")))
    application.router.add_post("/calls", take)
    application.router.add_get("/live", live)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
