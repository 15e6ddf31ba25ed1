"""A service whose database holds keys lets in those who have one, and its own commands, and nobody else."""

import asyncio
import time
from pathlib import Path

import pytest
from fakes.servers import Process, rows, running, settings_for, until

from tale.cli.gateway import client_of
from tale.credentials import Scope
from tale.exceptions import ServerException
from tale.mcp.http_client import HTTPMCPClient
from tale.storage.database import Database
from tale.storage.key_store import KeyStore


async def another_process_makes_a_key(process: Process, name: str, scope: Scope) -> tuple[str, str]:
    """What `tale keys create` does; returns the id and the key."""
    database = await asyncio.to_thread(Database.open, process.settings.database)
    row, key = await KeyStore(database).create(name, scope, now=time.time())
    await database.close()
    return row.id, key


async def another_process_revokes(process: Process, key_id: str) -> None:
    database = await asyncio.to_thread(Database.open, process.settings.database)
    await KeyStore(database).revoke(key_id, now=time.time())
    await database.close()


async def comes_in(process: Process, key: str | None) -> bool:
    async with HTTPMCPClient(process.settings.url_of("gateway"), api_key=key) as client:
        try:
            await client.call_tool("list_tasks")
        except ServerException:
            return False
        return True


async def test_keys_of_the_database_are_asked_for_within_seconds_and_the_owner_stays_in(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process:
        assert await comes_in(process, None)
        key_id, key = await another_process_makes_a_key(process, "laptop", Scope.SUBMIT)

        async def stranger_is_out() -> bool:
            return not await comes_in(process, None)

        await until(stranger_is_out)
        assert not await comes_in(process, "tale_wrong")
        async with HTTPMCPClient(process.settings.url_of("gateway"), api_key=key) as laptop:
            task = await laptop.call_tool("submit_task", {"text": "Write a haiku"})
        async with client_of(process.settings) as owner:
            ended = await owner.call_tool("wait_for_task", {"task_id": task["id"]})
        assert ended["status"] == "completed"

        await another_process_revokes(process, key_id)

        async def laptop_is_out() -> bool:
            return not await comes_in(process, key)

        await until(laptop_is_out)
        assert not await comes_in(process, None)
    calls = rows(process.settings, "SELECT tool, key_name FROM mcp_calls WHERE tool IS NOT NULL")
    names = {call["tool"]: call["key_name"] for call in calls}
    assert names["submit_task"] == "laptop"
    assert names["execute_task"] == names["wait_for_task"] == "owner"


async def test_tools_of_the_execution_server_are_not_for_every_key(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path, api_key="the configured one")) as process:
        _, key = await another_process_makes_a_key(process, "laptop", Scope.SUBMIT)
        async with HTTPMCPClient(process.settings.url_of("execution"), api_key=key) as laptop:
            assert await laptop.list_tools() == []
            with pytest.raises(ServerException, match="has the scope submit; this needs admin"):
                await laptop.call_tool("execute_task", {"task_id": "x"})
        assert await comes_in(process, "the configured one")
        assert not await comes_in(process, None)
