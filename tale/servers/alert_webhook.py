"""Sends the alerts of budgets to a web address, beside the calls: none waits for that, or fails with it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from pydantic import SecretStr

from tale.exceptions import DatabaseException
from tale.storage.budget_store import BudgetStore
from tale.storage.budget_views import alert_view
from tale.storage.budgets import Alert

ANSWER_LIMIT_S: Final = 10.0
PAUSES_S: Final = (1.0, 5.0, 25.0)  # before another try
OLDEST_S: Final = 86_400.0  # an alert that has waited longer is news to nobody

logger = logging.getLogger(__name__)


class AlertWebhook:
    """Posts each alert as JSON until it is taken (2xx), a few times; what is not is tried again with the next alert,
    and at the next start. The address may hold a secret, and is written nowhere.
    """

    def __init__(
        self,
        url: SecretStr,
        budgets: BudgetStore,
        *,
        clock: Callable[[], float],
        pauses_s: Sequence[float] = PAUSES_S,
        answer_limit_s: float = ANSWER_LIMIT_S,
    ) -> None:
        self._url = url
        self._budgets = budgets
        self._clock = clock
        self._pauses_s = pauses_s
        self._answer_limit_s = answer_limit_s
        self._raised = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send, those first that an earlier process could not."""
        self._budgets.listen(self._tell)
        self._sender = asyncio.create_task(self._run(), name="alert-webhook")

    async def stop(self) -> None:
        """End; what is not sent yet is at the next start."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    def _tell(self, _: Sequence[Alert]) -> None:
        self._raised.set()

    async def _run(self) -> None:
        limit = aiohttp.ClientTimeout(total=self._answer_limit_s)
        async with aiohttp.ClientSession(timeout=limit) as session:
            while True:
                self._raised.clear()
                try:
                    await self._deliver(session)
                except DatabaseException as error:
                    logger.warning("Alerts for the webhook cannot be read or noted now: %s", error)
                await self._raised.wait()

    async def _deliver(self, session: aiohttp.ClientSession) -> None:
        for alert in await self._budgets.undelivered(self._clock() - OLDEST_S):
            failure = await self._failure_of(session, body_of(alert))
            if failure is None:
                await self._budgets.delivered(alert.id, self._clock())
            else:
                logger.warning("An alert could not be sent to alert_webhook_url: %s", failure)

    async def _failure_of(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> str | None:
        """Why an alert was not taken at the last try; None when it was."""
        failure = None
        for pause_s in (0.0, *self._pauses_s):
            await asyncio.sleep(pause_s)
            try:
                async with session.post(self._url.get_secret_value(), json=body, allow_redirects=False) as response:
                    if HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
                        return None
                    failure = f"it answered {response.status}"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                failure = f"it cannot be reached ({type(error).__name__})"  # the error's own words may hold the address
        return failure


def body_of(alert: Alert) -> dict[str, Any]:
    """What is posted: the alert with a sentence as `text`, which chat services show."""
    of = {"scope": alert.scope, "name": alert.name or None, "period": alert.period, "kind": alert.kind}
    told = {name: value for name, value in asdict(alert_view(alert)).items() if not name.endswith("ed_at")}
    return {"event": "budget_alert", **told, "created_at": alert.created_at, **of}
