"""A service whose database holds keys lets in those who have one, and its own commands, and nobody else."""

import asyncio
import time
from pathlib import Path

import pytest
from fakes.servers import Process, rows, running, settings_for, until
from fakes.speaker import INTENTS, Speaker

from tale.cli.gateway import client_of
from tale.credentials import Scope
from tale.exceptions import ServerException, TaskException
from tale.mcp.http_client import HTTPMCPClient
from tale.storage.database import Database
from tale.storage.key_store import KeyStore
from tale.storage.learning_store import NOTHING_YET, LearningStore


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


async def test_a_result_is_rated_by_the_key_whose_task_it_is_or_by_whoever_runs_tale(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process:
        keys = [(await another_process_makes_a_key(process, name, Scope.SUBMIT))[1] for name in ("laptop", "desk")]
        await until(lambda: comes_in(process, keys[1]))
        laptop, desk = (HTTPMCPClient(process.settings.url_of("gateway"), api_key=key) for key in keys)

        async def learned_from() -> list[tuple[str | None, bool | None]]:
            found, _ = await LearningStore(process.shared.database).past_attempts(NOTHING_YET, limit=10)
            return [(each.key_name, each.succeeded) for each in found]

        async with laptop, desk, client_of(process.settings) as owner:
            task = await laptop.call_tool("submit_task", {"text": "Write a haiku"})
            await owner.call_tool("wait_for_task", {"task_id": task["id"]})
            word = {"task_id": task["id"], "rating": "bad"}
            with pytest.raises(TaskException, match="handed in with another key"):
                await desk.call_tool("record_feedback", word)
            assert await learned_from() == [("laptop", None)]
            await laptop.call_tool("record_feedback", word)
            assert await learned_from() == [("laptop", False)]
            await owner.call_tool("record_feedback", {**word, "rating": "good"})
            assert await learned_from() == [(None, True)]


async def test_tasks_of_the_owner_s_own_commands_count_as_those_of_nobody_s_key(tmp_path: Path) -> None:
    async with running(settings_for(tmp_path)) as process, client_of(process.settings) as owner:
        task = await owner.call_tool("submit_task", {"text": "Write a haiku"})
        await owner.call_tool("wait_for_task", {"task_id": task["id"]})
        assert rows(process.settings, "SELECT key_name FROM tasks") == [{"key_name": "owner"}]
        ((found,), _) = await LearningStore(process.shared.database).past_attempts(NOTHING_YET, limit=10)
        assert found.key_name is None


async def test_a_rating_in_a_conversation_counts_for_a_task_where_that_is_the_rater_s(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_key="k" * 20)
    async with running(settings, intents=INTENTS) as process:
        keys, url = KeyStore(process.shared.database), settings.url_of("ux_agent")
        made = [(await keys.create(name, Scope.SUBMIT, now=1.0))[1] for name in ("ann", "bob")]
        async with HTTPMCPClient(url, api_key=made[0]) as ann, HTTPMCPClient(url, api_key=made[1]) as bob:
            speaker = Speaker(ann)
            task_id = (await speaker.say("Write a poem"))["task_id"]
            await speaker.hear()
            word = {"conversation_id": speaker.id, "rating": "bad"}
            assert (await bob.call_tool("rate_answer", word))["task_id"] is None
            assert rows(settings, "SELECT rating FROM feedback") == []
            assert (await ann.call_tool("rate_answer", word))["task_id"] == task_id
            assert rows(settings, "SELECT rating, key_name FROM feedback") == [{"rating": "bad", "key_name": "ann"}]
