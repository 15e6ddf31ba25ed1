"""A real HTTP server that plays Ollama's API. `python tests/fakes/ollama_server.py` runs it and prints its port."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

try:
    from fakes.engine_script import EngineScript
except ModuleNotFoundError:  # run as a script
    from engine_script import EngineScript

LAYER_BYTES = 1_000


class OllamaServer:
    """Ollama as its client sees it; durations are in nanoseconds as there."""

    def __init__(self, script: EngineScript | None = None) -> None:
        self.script = script or EngineScript()
        self.running: dict[str, int] = {}
        self.url = ""

    def application(self) -> web.Application:
        application = web.Application()
        routes = application.router
        routes.add_get("/api/version", self.version)
        routes.add_get("/api/tags", self.tags)
        routes.add_get("/api/ps", self.ps)
        routes.add_post("/api/chat", self.chat)
        routes.add_post("/api/embed", self.embed)
        routes.add_post("/api/pull", self.pull)
        routes.add_delete("/api/delete", self.delete)
        return application

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.12.0"})

    async def tags(self, request: web.Request) -> web.Response:
        models = [{"name": name, "model": name, "size": LAYER_BYTES} for name in self.script.models]
        return web.json_response({"models": models})

    async def ps(self, request: web.Request) -> web.Response:
        models = [{"name": name, "model": name, "size": 2_000, "context_length": n} for name, n in self.running.items()]
        return web.json_response({"models": models})

    async def embed(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        return web.json_response(
            {
                "model": body["model"],
                "embeddings": [[float(len(text)), 1.0] for text in texts],
                "prompt_eval_count": len(texts),
            }
        )

    async def delete(self, request: web.Request) -> web.Response:
        body = await self._body(request)
        if body["model"] not in self.script.models:
            return self._unknown(body["model"])
        self.script.models.remove(body["model"])
        return web.Response()

    async def pull(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        if body["model"] == "nowhere":
            await self._line(response, {"error": "pull model manifest: file does not exist"})
            return response
        await self._line(response, {"status": "pulling manifest"})
        for layer in ("sha256:a", "sha256:b"):
            for completed in (0, LAYER_BYTES // 2, LAYER_BYTES):
                progress = {"status": "pulling", "digest": layer, "total": LAYER_BYTES, "completed": completed}
                await self._line(response, progress)
        await self._line(response, {"status": "success"})
        self.script.models.append(body["model"])
        return response

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        model = body["model"]
        if self.script.refuse:
            status, told = self.script.refuse
            return web.json_response(told, status=status)
        if model not in self.script.models:
            return self._unknown(model)
        if not body.get("messages"):
            return self._loaded(body)
        self.script.traces.append(request.headers.get("traceparent"))
        self.running[model] = body["options"]["num_ctx"]
        if not body.get("stream", True):
            return web.json_response(self._end(model, "".join(self.script.words)))
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            for number, word in enumerate(self.script.words):
                if number == self.script.break_after:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                await self.script.between_words(number)
                await self._line(response, {"model": model, "message": {"role": "assistant", "content": word}})
        except (asyncio.CancelledError, ConnectionError):
            self.script.left.set()
            raise
        if self.script.reasoning:
            await self._line(response, {"model": model, "message": {"role": "assistant", "thinking": "Hm."}})
        for _, name, arguments in self.script.calls:
            call = {"function": {"name": name, "arguments": json.loads(arguments)}}
            await self._line(response, {"model": model, "message": {"role": "assistant", "tool_calls": [call]}})
        await self._line(response, self._end(model, ""))
        return response

    def _loaded(self, body: dict[str, Any]) -> web.Response:
        model, keep = body["model"], body.get("keep_alive")
        if keep == 0:
            self.running.pop(model, None)
        else:
            self.running[model] = body["options"]["num_ctx"]
        done = {"model": model, "message": {"role": "assistant", "content": ""}, "done": True}
        return web.json_response({**done, "done_reason": "unload" if keep == 0 else "load"})

    def _end(self, model: str, content: str) -> dict[str, Any]:
        return {
            "model": model,
            "message": {"role": "assistant", "content": content},
            "done": True,
            "done_reason": "stop",
            "total_duration": 900_000_000,
            "load_duration": 100_000_000,
            "prompt_eval_count": self.script.input_tokens,
            "prompt_eval_duration": 200_000_000,
            "eval_count": len(self.script.words),
            "eval_duration": 300_000_000,
        }

    def _unknown(self, model: str) -> web.Response:
        return web.json_response({"error": f"model '{model}' not found"}, status=404)

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body = json.loads(await request.read())
        self.script.requests.append(body)
        return body

    async def _line(self, response: web.StreamResponse, value: dict[str, Any]) -> None:
        await response.write(json.dumps(value).encode() + b"\n")


@asynccontextmanager
async def served(server: Any) -> AsyncIterator[Any]:
    """Run a played engine on a free port of loopback; its `url` tells where."""
    runner = web.AppRunner(server.application(), handler_cancellation=True, shutdown_timeout=0.1)  # 0 is "for ever"
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


async def _main() -> None:
    script = EngineScript(models=["qwen2.5:7b", "qwen2.5:14b"])
    async with served(OllamaServer(script)) as server:
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
