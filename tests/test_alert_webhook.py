"""Alerts reach a webhook, though it fails at first, and no call waits for it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.servers import until
from pydantic import SecretStr
from test_budgets import NOON, ended, new_budget, new_call, store_of

from tale.exceptions import ValidationException
from tale.servers.alert_webhook import AlertWebhook
from tale.settings import load_settings, resolve_settings
from tale.storage.budget_store import BudgetStore
from tale.storage.call_store import CallStore
from tale.storage.database import Database


class Receiver:
    """A web service that takes alerts, and answers with the statuses it was given before it does."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.gate: asyncio.Event | None = None
        application = web.Application()
        application.router.add_post("/hook/s3cret", self._take)
        application.router.add_get("/elsewhere", self._take)
        self.server = TestServer(application)

    @property
    def url(self) -> SecretStr:
        return SecretStr(str(self.server.make_url("/hook/s3cret")))

    async def _take(self, request: web.Request) -> web.Response:
        if self.gate:
            await self.gate.wait()
        if self.statuses:
            status = self.statuses.pop(0)
            return web.Response(status=status, headers={"Location": "/elsewhere"})
        self.bodies.append(json.loads(await request.read()))
        return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.server.start_server()
    yield receiver
    await receiver.server.close()


@pytest.fixture
async def budgets(tmp_path: Path) -> AsyncIterator[BudgetStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'tale.db'}")
    budgets = store_of(database)
    await budgets.set(new_budget(100, scope="key", name="ci", kind="soft"))
    yield budgets
    await database.close()


def webhook_to(url: SecretStr, budgets: BudgetStore, **options: Any) -> AlertWebhook:
    return AlertWebhook(url, budgets, **{"clock": lambda: NOON, "pauses_s": (0.0, 0.0), **options})


async def use(budgets: BudgetStore, tokens: int) -> None:
    await CallStore(budgets._database, budgets).close_call(ended(new_call(key_name="ci"), tokens))


async def are_delivered(budgets: BudgetStore, count: int) -> bool:
    alerts = await budgets.alerts(limit=10)
    return sum(alert.delivered_at is not None for alert in alerts) == count


async def test_each_alert_is_posted_once_though_the_webhook_fails_at_first(
    receiver: Receiver, budgets: BudgetStore
) -> None:
    receiver.statuses = [500, 302]
    webhook = webhook_to(receiver.url, budgets)
    webhook.start()
    await use(budgets, 85)
    await until(lambda: are_delivered(budgets, 1))
    await use(budgets, 20)
    await until(lambda: are_delivered(budgets, 2))
    await webhook.stop()
    first, second = receiver.bodies
    assert (first["percent"], first["used_tokens"], second["percent"], second["used_tokens"]) == (80, 85, 100, 105)
    assert (first["event"], first["scope"], first["name"], first["kind"]) == ("budget_alert", "key", "ci", "soft")
    assert first["text"].startswith("85 of 100 tokens a day for key 'ci' are used")


async def test_what_could_not_be_sent_comes_after_the_next_start(
    receiver: Receiver, budgets: BudgetStore, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [503] * 1_000  # however often it tries again
    webhook = webhook_to(receiver.url, budgets)
    webhook.start()
    await use(budgets, 85)
    await until(lambda: "it answered 503" in caplog.text)
    await webhook.stop()
    receiver.statuses.clear()
    assert await are_delivered(budgets, 0)
    again = webhook_to(receiver.url, budgets)
    again.start()
    await until(lambda: are_delivered(budgets, 1))
    await again.stop()
    assert len(receiver.bodies) == 1


async def test_no_call_waits_for_a_webhook_and_its_address_is_not_logged(
    receiver: Receiver, budgets: BudgetStore, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.gate = asyncio.Event()
    webhook = webhook_to(receiver.url, budgets, answer_limit_s=0.05)
    webhook.start()
    for _ in range(5):
        await use(budgets, 40)
    assert (await budgets.standings(NOON))[0].used_tokens == 200
    await until(lambda: "it cannot be reached (TimeoutError)" in caplog.text)
    await webhook.stop()
    receiver.gate.set()
    nowhere = webhook_to(SecretStr("http://127.0.0.1:1/hook/s3cret"), budgets)
    nowhere.start()
    await until(lambda: "ClientConnectorError" in caplog.text)
    await nowhere.stop()
    assert "s3cret" not in caplog.text


def test_the_address_is_a_secret_that_begins_with_http(tmp_path: Path) -> None:
    given = {"TALE_ALERT_WEBHOOK_URL": "https://hooks.example/s3cret"}
    settings, origins = resolve_settings({"home": str(tmp_path)}, environment=given, folder=tmp_path)
    assert settings.environment()["TALE_ALERT_WEBHOOK_URL"] == "https://hooks.example/s3cret"
    assert "s3cret" not in repr(settings) + repr(origins)
    with pytest.raises(ValidationException, match=r"alert_webhook_url .*must begin with http") as caught:
        load_settings({"home": str(tmp_path), "alert_webhook_url": "file:///s3cret"}, environment={}, folder=tmp_path)
    assert "s3cret" not in str(caught.value)
