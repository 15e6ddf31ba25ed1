"""Tells whoever listens that the tools, prompts or resources of a server changed."""

from collections.abc import Callable
from typing import Final

from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)

from tale.mcp.wire import Message, notification

__all__ = ["Changes", "PromptsListChanged", "ResourceUpdated", "ResourcesListChanged", "ToolsListChanged"]

METHODS: Final[dict[type[ServerEvent], str]] = {
    ToolsListChanged: "notifications/tools/list_changed",
    PromptsListChanged: "notifications/prompts/list_changed",
    ResourcesListChanged: "notifications/resources/list_changed",
    ResourceUpdated: "notifications/resources/updated",
}


class Changes:
    """The SDK's SubscriptionBus within one process. Listeners are called at once and must not raise."""

    def __init__(self) -> None:
        self._listeners: dict[object, Callable[[ServerEvent], None]] = {}

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Call `listener` with each change until the function returned is called."""
        token = object()
        self._listeners[token] = listener

        def unsubscribe() -> None:
            self._listeners.pop(token, None)

        return unsubscribe

    def tell(self, change: ServerEvent) -> None:
        """Tell all listeners."""
        for listener in list(self._listeners.values()):
            listener(change)

    async def publish(self, event: ServerEvent) -> None:
        """As `tell`; the form that the SDK knows."""
        self.tell(event)


def change_message(change: ServerEvent) -> Message:
    """The notification of a change in the handshake era."""
    return notification(METHODS[type(change)], {"uri": change.uri} if isinstance(change, ResourceUpdated) else None)
