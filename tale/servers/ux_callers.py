"""Whom the UX agent answers, and how it asks the gateway in their name."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tale.mcp.base_server import CallOrigin
from tale.mcp.http_client import HTTPMCPClient
from tale.orchestration.home_key import made_key, own_key
from tale.settings import Settings

BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class UXCaller:
    """Who says something: with which key, if any, and in which trace."""

    key: str | None = None
    key_name: str | None = None
    trace_id: str | None = None

    @classmethod
    def of(cls, context: CallOrigin) -> "UXCaller":
        """The caller of a tool."""
        return cls(_key_in(context.headers), context.key_name, context.trace_id)


class GatewayLine:
    """The gateway, asked with the key of whoever asked us: so scopes, budgets and limits hold as if he had asked it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ours = own_key(settings, "gateway")
        self._clients: dict[str | None, HTTPMCPClient] = {}  # of this home's own key, and of no key

    @asynccontextmanager
    async def asked_by(self, caller: UXCaller | None) -> AsyncGenerator[HTTPMCPClient]:
        """A client in the name of that caller; None is this server itself."""
        key = self._ours if caller is None or caller.key == made_key(self._settings) else caller.key
        if key is None or key == self._ours:
            yield self._kept(key)
            return
        async with self._client(key) as client:
            yield client

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def _kept(self, key: str | None) -> HTTPMCPClient:
        if key not in self._clients:
            self._clients[key] = self._client(key)
        return self._clients[key]

    def _client(self, key: str | None) -> HTTPMCPClient:
        settings = self._settings
        return HTTPMCPClient(settings.url_of("gateway"), api_key=key, timeout_s=settings.http_timeout_s)


def _key_in(headers: Mapping[str, str]) -> str | None:
    value = headers.get("Authorization", "")
    return value[len(BEARER) :].strip() or None if value.lower().startswith(BEARER) else None
