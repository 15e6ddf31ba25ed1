"""The SDK's protocol kernel as our servers use it: what it declares, and how it seals what a client keeps for it."""

import secrets
from typing import Any, Final

from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import ListenHandler
from mcp.types import INVALID_REQUEST, SubscriptionsListenRequestParams, SubscriptionsListenResult

from tale.mcp.changes import Changes
from tale.mcp.exchange import Exchange

KEY_BYTES: Final = 32


class Kernel(Server[Any]):
    """Declares that its lists may change, and serves the subscriptions of the modern era."""

    def __init__(self, name: str, changes: Changes, **options: Any) -> None:
        self.listeners = ListenHandler(changes)
        super().__init__(name, on_subscriptions_listen=self._listen, **options)
        # The key lives as long as the process: a question that was open when it ended has to be asked anew.
        security = RequestStateSecurity(keys=[secrets.token_bytes(KEY_BYTES)], bind_principal=_credential)
        self.middleware.append(RequestStateBoundary(security, default_audience=name))

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """What `initialize` answers."""
        changing = notification_options or NotificationOptions(
            prompts_changed=True, resources_changed=True, tools_changed=True
        )
        return super().create_initialization_options(changing, experimental_capabilities, extensions)

    async def _listen(
        self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        exchange = context.request
        if isinstance(exchange, Exchange) and not exchange.can_stream:
            raise MCPError(INVALID_REQUEST, "What is listened for comes as text/event-stream; accept it")
        return await self.listeners(context, params)


def _credential(context: ServerRequestContext[Any, Any]) -> str | None:
    """Who may give a sealed state back: the client with the same key."""
    exchange = context.request
    return exchange.headers.get("Authorization") if isinstance(exchange, Exchange) else None
