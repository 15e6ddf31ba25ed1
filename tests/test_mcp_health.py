"""Health tells how a server is, also when that cannot be told; liveness and readiness are two things."""

import asyncio
import logging
from typing import Any

import pytest
from fakes.mcp_workshop import Caller, Workshop, calling

from tale.mcp.http_server import Limits


async def get(client: Caller, path: str) -> tuple[int, dict[str, Any]]:
    async with client.http.get(client.url + path) as response:
        return response.status, await response.json()


async def test_health_is_what_the_server_says_of_itself() -> None:
    async with calling(Workshop().server()) as client:
        assert await get(client, "/health") == (200, {"name": "workshop", "status": "ok", "sessions": 0})
        await client.open_session()
        assert (await get(client, "/health"))[1]["sessions"] == 1


@pytest.mark.parametrize(("status", "code"), [("ok", 200), ("degraded", 200), ("starting", 503), ("failed", 503)])
async def test_a_server_is_ready_when_it_can_work_at_all(status: str, code: int) -> None:
    async with calling(Workshop(status=status).server()) as client:
        assert await get(client, "/health/ready") == (code, {"status": status})
        assert await get(client, "/health/live") == (200, {"status": "alive"})


async def failing() -> dict[str, Any]:
    raise OSError("the database is gone")


async def hanging() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(("health", "logged"), [(failing, "database is gone"), (hanging, "within 0.02 s")])
async def test_a_health_that_cannot_be_told_reads_as_degraded(
    health: Any, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with calling(Workshop().server(health=health, limits=Limits(health_s=0.02))) as client:
            degraded = {"name": "workshop", "version": "1.2.3", "status": "degraded"}
            assert await get(client, "/health") == (200, {**degraded, "sessions": 0})
            assert await get(client, "/health/ready") == (200, {"status": "degraded"})
            assert await get(client, "/health/live") == (200, {"status": "alive"})
    assert logged in caplog.text


async def test_health_is_open_where_a_key_is_needed() -> None:
    async with calling(Workshop().server(api_key="open sesame")) as client:
        for path in ("/health", "/health/live", "/health/ready"):
            assert (await get(client, path))[0] == 200
