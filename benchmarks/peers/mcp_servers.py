"""The servers that mcp_throughput.py compares: `python mcp_servers.py KIND PORT FOLDER` says "ready" and serves.

It runs in two environments, FastMCP's own and tale's, so each kind imports what it needs itself. Each is as its own
installation gives it: uvicorn takes uvloop where that is installed, which is so in tale's environment alone.
"""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any


def serve_fastmcp(port: int) -> None:
    import uvicorn
    from fastmcp import FastMCP

    server = FastMCP("echo")

    @server.tool
    async def echo(text: str) -> str:
        return text

    run_asgi(server.http_app(path="/mcp", json_response=True), port, uvicorn)


def serve_sdk(port: int) -> None:
    import uvicorn
    from mcp.server import MCPServer

    server = MCPServer("echo")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    run_asgi(server.streamable_http_app(json_response=True), port, uvicorn)


def run_asgi(application: object, port: int, uvicorn: object) -> None:
    print("ready", flush=True)
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error", access_log=False)


async def serve_tale(port: int, folder: Path, *, recording: bool) -> None:
    from tale.mcp.http_server import HTTPMCPServer, Limits
    from tale.metrics.recorder import Recorder
    from tale.storage.call_store import CallStore
    from tale.storage.database import Database

    async def echo(text: str) -> str:
        """Say the same."""
        return text

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    database = Database.open(f"sqlite:///{folder / 'tale.db'}") if recording else None
    observer = Recorder(CallStore(database)).record_mcp if database else None
    server = HTTPMCPServer("echo", version="1", port=port, health=health, observer=observer, limits=Limits())
    server.add_tool(echo)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def serve_aiohttp(port: int) -> None:
    from aiohttp import web

    async def post(request: web.Request) -> web.Response:
        body = await request.json()
        text = body["params"]["arguments"]["text"]
        result = {"content": [{"type": "text", "text": text}], "structuredContent": {"result": text}, "isError": False}
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result})

    application = web.Application()
    application.router.add_post("/mcp", post)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def run_as_tale(server: Coroutine[Any, Any, None]) -> None:
    """Run it on the event loop on which tale's service runs."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server)


def main() -> None:
    kind, port, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    match kind:
        case "fastmcp":
            serve_fastmcp(port)
        case "sdk":
            serve_sdk(port)
        case "aiohttp":
            run_as_tale(serve_aiohttp(port))
        case _:
            run_as_tale(serve_tale(port, folder, recording=kind == "tale"))


if __name__ == "__main__":
    main()
