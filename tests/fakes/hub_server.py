"""A real HTTP server that plays the model hub, with the faults that downloads meet."""

import asyncio
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class HubServer:
    """Serves `content` under every path; each fault in `faults` strikes one request, in order."""

    content: bytes
    faults: list[str] = field(default_factory=list[str])  # 404, 500, cut, hold, wrong, long, no-range
    ranges: list[str | None] = field(default_factory=list[str | None])
    url: str = ""

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/{path:.*}", self.get)
        return application

    async def get(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit():
            return web.Response(status=int(fault))
        start = 0 if asked is None or fault == "no-range" else int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(self.content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(self.content)}"})
        body = self.content[start:]
        if fault == "wrong":
            body = bytes(len(body))
        if fault == "long":
            body += b"more"
        response = web.StreamResponse(status=206 if start else 200, headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        if fault == "cut":
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        if fault == "hold":
            await response.write(body[: len(body) // 2])
            await asyncio.Event().wait()  # until the client leaves
        await response.write(body)
        return response
