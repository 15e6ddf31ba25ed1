"""The engine behind recording_cost.py: `python paced_engine.py PORT` says "ready" and serves.

It speaks OpenAI's API as llama.cpp's server does, and Ollama's. It reads and writes at a pace, and tells how long both
really took.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

MODEL = "small"
PREFILL_S, DECODE_S, WORDS = 0.02, 0.08, 8
INPUT_TOKENS = 10


async def played(tell: Callable[[str], Awaitable[None]]) -> tuple[float, float]:
    """Read, and write word by word; the seconds that each took."""
    began = time.perf_counter()
    await asyncio.sleep(PREFILL_S)
    read_at = time.perf_counter()
    for _ in range(WORDS):
        await asyncio.sleep(DECODE_S / WORDS)
        await tell("word ")
    return read_at - began, time.perf_counter() - read_at


async def openai_models(request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


async def openai_chat(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def tell(delta: dict[str, str], finish_reason: str | None = None, **figures: Any) -> None:
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **figures}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

    prefill_s, decode_s = await played(lambda word: tell({"content": word}))
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": WORDS}
    await tell({}, "stop", usage=usage, timings={"prompt_ms": prefill_s * 1e3, "predicted_ms": decode_s * 1e3})
    await response.write(b"data: [DONE]\n\n")
    return response


async def ollama_version(request: web.Request) -> web.Response:
    return web.json_response({"version": "0.12.0"})


async def ollama_models(request: web.Request) -> web.Response:
    return web.json_response({"models": [{"name": MODEL, "model": MODEL, "size": 1_000, "context_length": 4_096}]})


async def ollama_chat(request: web.Request) -> web.StreamResponse:
    """An answer; without messages the model is loaded, which it is already."""
    body = json.loads(await request.read())
    if not body.get("messages"):
        return web.json_response({**said(""), "done": True, "done_reason": "load"})
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)

    async def tell(word: str, **figures: Any) -> None:
        await response.write(json.dumps({**said(word), "done": False, **figures}).encode() + b"\n")

    prefill_s, decode_s = await played(tell)
    durations = {"load": 0.0, "prompt_eval": prefill_s, "eval": decode_s}
    figures: dict[str, Any] = {f"{name}_duration": int(seconds * 1e9) for name, seconds in durations.items()}
    figures |= {"prompt_eval_count": INPUT_TOKENS, "eval_count": WORDS}
    await tell("", **{**figures, "done": True, "done_reason": "stop"})
    return response


def said(text: str) -> dict[str, Any]:
    return {"model": MODEL, "message": {"role": "assistant", "content": text}}


async def main(port: int) -> None:
    application = web.Application()
    application.add_routes(
        [
            web.get("/v1/models", openai_models),
            web.post("/v1/chat/completions", openai_chat),
            web.get("/api/version", ollama_version),
            web.get("/api/tags", ollama_models),
            web.get("/api/ps", ollama_models),
            web.post("/api/chat", ollama_chat),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
