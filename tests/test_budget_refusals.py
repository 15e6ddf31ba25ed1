"""What a used-up budget refuses is refused everywhere, with the same sentence: tasks, OpenAI's API, MCP, commands."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from fakes.scripted_backend import ScriptedBackend
from fakes.servers import Process, rows, running, settings_for, until
from sqlalchemy import text

from tale.credentials import Scope
from tale.exceptions import BudgetException
from tale.mcp.http_client import HTTPMCPClient
from tale.models.remote_pool import RemoteModelPool
from tale.orchestration.home_key import made_key
from tale.records import CallContext, ChatRequest, Message
from tale.storage.budget_store import new_budget_id
from tale.storage.budgets import Budget, Standing, parsed_budget
from tale.storage.key_store import KeyStore
from tale.storage.monitoring_store import MonitoringStore, TargetAlert

CALLS = "SELECT * FROM model_calls ORDER BY started_at"
TASKS = "SELECT * FROM tasks"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with running(settings_for(tmp_path), ("execution", "ux_agent", "gateway", "model")) as process:
        yield process


async def set_budget(process: Process, limit_tokens: int, **options: Any) -> Budget:
    asked = parsed_budget(new_budget_id(), limit_tokens, now=process.shared.clock(), **options)
    return await process.shared.budgets.set(asked)


async def standing_of(process: Process) -> Standing:
    (standing,) = await process.shared.budgets.standings(process.shared.clock())
    return standing


async def used_up(process: Process, limit_tokens: int = 12, **options: Any) -> None:
    """A budget that one small call has used up."""
    await set_budget(process, 10_000, **options)
    await process.done("Say hello")
    await set_budget(process, limit_tokens, **options)


async def test_a_task_beyond_the_budget_ends_failed_with_the_reason_and_is_not_tried_again(process: Process) -> None:
    await set_budget(process, 50)
    task = await process.done("Say hello", max_output_tokens=40)
    assert (task["status"], task["attempt"]) == ("failed", 1)
    assert task["error"].startswith("The hard budget of 50 tokens a day for all calls has no room for a call of up to")
    assert "it is reset at" in task["error"]
    (row,) = rows(process.settings, TASKS)
    assert (row["error_class"], row["failures"]) == ("BudgetException", 1)
    (call,) = rows(process.settings, CALLS)
    assert (call["error_class"], call["input_tokens"]) == ("BudgetException", None)
    assert process.backend.requests == []
    standing = await standing_of(process)
    assert (standing.used_tokens, standing.reserved_tokens) == (0, 0)


async def test_a_task_is_refused_beforehand_when_a_budget_for_it_is_used_up(process: Process) -> None:
    await used_up(process, scope="model", name="large")
    client = await process.client()
    for tool, arguments in (
        ("submit_task", {"text": "Say hello"}),
        ("submit_tasks", {"tasks": [{"text": "a"}, {"text": "b"}]}),
    ):
        with pytest.raises(BudgetException, match=r"is used up \(12 of 12\)") as caught:
            await client.call_tool(tool, arguments)
        assert 0 < int(str(caught.value.context["retry_after_s"])) <= 86_400
    assert len(rows(process.settings, TASKS)) == 1


async def test_tasks_that_were_handed_in_before_are_given_back_when_the_budget_is_used_up(process: Process) -> None:
    client = await process.client()
    first = await client.call_tool("submit_task", {"text": "Say hello", "idempotency_key": "a"})
    await used_up(process)
    again = await client.call_tool("submit_task", {"text": "Say hello", "idempotency_key": "a"})
    assert again["id"] == first["id"]
    known, new = {"text": "Say hello", "idempotency_key": "a"}, {"text": "Say hello", "idempotency_key": "b"}
    for tasks in ([known, new], [known, {"text": "Say hello"}]):
        with pytest.raises(BudgetException, match="is used up"):
            await client.call_tool("submit_tasks", {"tasks": tasks})
    assert len(rows(process.settings, TASKS)) == 2


async def test_a_budget_for_one_model_refuses_no_calls_of_another(process: Process) -> None:
    await set_budget(process, 1, scope="model", name="small")
    client = await process.client("ux_agent")
    with pytest.raises(BudgetException, match="for model 'small'"):
        await client.call_tool("conversation", {"message": "Hello"})
    assert (await process.done("Say hello"))["status"] == "completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_s_clients_get_429_with_the_time_until_the_reset(process: Process, stream: bool) -> None:
    await set_budget(process, 20)
    url = f"{process.settings.url_of('gateway')}/v1/chat/completions"
    body = {"model": "tale-ux", "messages": HELLO, "max_tokens": 10, "stream": stream}
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        told = (await response.json())["error"]
        assert response.status == 429
        assert 0 < int(response.headers["Retry-After"]) <= 86_400
        assert told["code"] == "insufficient_quota"
        assert told["message"].startswith("The hard budget of 20 tokens a day for all calls has no room")
    assert process.backend.requests == []


async def test_the_official_client_raises_its_own_error(process: Process) -> None:
    await set_budget(process, 20)
    client = openai.AsyncOpenAI(base_url=f"{process.settings.url_of('gateway')}/v1", api_key="any", max_retries=0)
    async with client:
        with pytest.raises(openai.RateLimitError, match="has no room"):
            await client.chat.completions.create(model="tale-ux", messages=HELLO, max_tokens=10)
        with pytest.raises(openai.RateLimitError, match="has no room"):
            await client.embeddings.create(model="tale-ux", input="a long text of more than twenty bytes")


async def test_vectors_hold_and_count_their_texts_alone(process: Process) -> None:
    await set_budget(process, 40)
    client = openai.AsyncOpenAI(base_url=f"{process.settings.url_of('gateway')}/v1", api_key="any", max_retries=0)
    async with client:
        await client.embeddings.create(model="tale-ux", input="two words")
    standing = await standing_of(process)
    assert (standing.used_tokens, standing.reserved_tokens, standing.unreported) == (2, 0, 0)


async def test_the_input_is_counted_where_its_bytes_alone_would_not_fit(process: Process) -> None:
    process.backend.tokens = 10
    await set_budget(process, 60)
    task = await process.done("Say hello, and say it in very many words, please", max_output_tokens=50)
    assert task["status"] == "completed"
    assert (await standing_of(process)).used_tokens == 12


async def test_an_answer_of_open_length_takes_what_is_left(process: Process) -> None:
    process.backend.tokens = 10
    await set_budget(process, 100)
    client = openai.AsyncOpenAI(base_url=f"{process.settings.url_of('gateway')}/v1", api_key="any", max_retries=0)
    async with client:
        await client.chat.completions.create(model="tale-ux", messages=HELLO)
        await set_budget(process, 1_000_000)
        await client.chat.completions.create(model="tale-ux", messages=HELLO)
    assert [request.max_tokens for request in process.backend.requests] == [90, 2_048]


async def test_it_takes_no_more_where_the_context_has_more_room_than_the_budget(tmp_path: Path) -> None:
    backend = ScriptedBackend(context_tokens=8_192)
    backend.tokens = 2_200
    long: list[Any] = [{"role": "user", "content": "x" * 9_000}]
    async with running(settings_for(tmp_path), ("gateway",), backend=backend) as process:
        client = openai.AsyncOpenAI(base_url=f"{process.settings.url_of('gateway')}/v1", api_key="any", max_retries=0)
        async with client:
            for limit_tokens in (3_000, 1_000_000):
                await set_budget(process, limit_tokens)
                await client.chat.completions.create(model="tale-ux", messages=long)
    assert [request.max_tokens for request in backend.requests] == [3_000 - 2_200, 2_048]


@pytest.mark.parametrize(("tokens", "room_tokens"), [(10, 390), (None, 400)])
async def test_an_answer_holds_no_more_than_its_context_has_room_for(
    tmp_path: Path, tokens: int | None, room_tokens: int
) -> None:
    backend = ScriptedBackend(context_tokens=400)
    backend.tokens = tokens
    async with running(settings_for(tmp_path), ("gateway",), backend=backend) as process:
        client = openai.AsyncOpenAI(base_url=f"{process.settings.url_of('gateway')}/v1", api_key="any", max_retries=0)
        async with client:
            await set_budget(process, 500)
            await client.chat.completions.create(model="tale-ux", messages=HELLO, max_tokens=100_000)
    assert [request.max_tokens for request in backend.requests] == [room_tokens]


async def test_a_call_that_is_stopped_gives_back_nothing_that_may_be_used(process: Process) -> None:
    process.backend.word_gate = asyncio.Event()
    await set_budget(process, 5_000)
    client = await process.client()
    task = await client.call_tool("submit_task", {"text": "Say hello", "max_output_tokens": 100})
    await until(lambda: process.backend.started.is_set())
    held = (await standing_of(process)).reserved_tokens
    assert held > 100
    await client.call_tool("cancel_task", {"task_id": task["id"]})
    standing = await standing_of(process)
    assert (standing.reserved_tokens, standing.assumed_tokens, standing.unreported) == (0, held, 1)


async def test_a_call_whose_end_the_database_refused_lets_go_of_its_hold(process: Process) -> None:
    process.backend.word_gate = asyncio.Event()
    await set_budget(process, 5_000)
    refuse = "CREATE TRIGGER refuse BEFORE UPDATE ON model_calls BEGIN SELECT RAISE(ABORT, 'refused'); END"
    url = f"{process.settings.url_of('gateway')}/v1/chat/completions"
    async with aiohttp.ClientSession() as http:
        asked = asyncio.create_task(http.post(url, json={"model": "tale-ux", "messages": HELLO}))
        await until(lambda: process.backend.started.is_set())
        await process.shared.database.write(lambda connection: connection.execute(text(refuse)).rowcount)
        process.backend.word_gate.set()
        async with await asked as answer:
            assert answer.status == 503
    assert (await standing_of(process)).reserved_tokens > 0
    await process.shared.database.write(lambda connection: connection.execute(text("DROP TRIGGER refuse")).rowcount)

    async def is_free() -> bool:
        return (await standing_of(process)).reserved_tokens == 0

    await until(is_free)
    (row,) = rows(process.settings, CALLS)
    assert row["ended_at"] is not None


async def test_a_key_s_budget_counts_its_tasks_and_refuses_them_alone(process: Process) -> None:
    keys = KeyStore(process.shared.database)
    now = process.shared.clock()
    made = [(await keys.create(name, Scope.SUBMIT, now=now))[1] for name in ("ci", "desk")]
    await set_budget(process, 12, scope="key", name="ci")
    await set_budget(process, 10**6, scope="key", name="desk")
    process.backend.tokens = 10
    url = process.settings.url_of("gateway")
    for key, limit, status in ((made[0], 2, "completed"), (made[0], 2, None), (made[1], 50, "completed")):
        async with HTTPMCPClient(url, api_key=key) as client:
            try:
                task = await client.call_tool("submit_task", {"text": "Say hello", "max_output_tokens": limit})
            except BudgetException as error:
                assert status is None
                assert "for key 'ci'" in error.message
            else:
                ended = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
                assert ended["status"] == status
    assert [task["key_name"] for task in rows(process.settings, TASKS)] == ["ci", "desk"]
    assert [call["key_name"] for call in rows(process.settings, CALLS)] == ["ci", "desk"]


async def test_a_role_in_another_process_hears_the_same_refusal(process: Process) -> None:
    await set_budget(process, 20)
    remote = RemoteModelPool(process.settings.url_of("model"), made_key(process.settings))
    request = ChatRequest("", (Message("user", "Hello"),), max_tokens=10)
    with pytest.raises(BudgetException, match="has no room") as caught:
        await remote.complete(request, CallContext("task", "execute"))
    assert caught.value.context["limit_tokens"] == 20
    await remote.close()


async def test_budgets_are_told_and_kept_over_mcp(process: Process) -> None:
    client = await process.client()
    told = await client.call_tool("set_budget", {"limit_tokens": 1_000, "kind": "soft", "alert_percent": 1})
    (budget,) = told["budgets"]
    assert (budget["scope"], budget["name"], budget["used_tokens"], budget["left_tokens"]) == ("all", None, 0, 1_000)
    await process.done("Say hello")
    told = await client.call_tool("get_budgets", {})
    assert told["budgets"][0]["used_tokens"] == 12
    assert [alert["percent"] for alert in told["alerts"]] == [1]
    monitoring = MonitoringStore(process.shared.database)
    await monitoring.keep([], [TargetAlert("a", 1.0, None, "model_load", "missed", "Loads: slow.")])
    assert (await client.call_tool("acknowledge_alerts", {}))["alerts"] == []
    assert (await monitoring.latest_alerts())[0].acknowledged_at is not None
    assert (await client.call_tool("remove_budget", {"budget_id": budget["id"]}))["budgets"] == []
