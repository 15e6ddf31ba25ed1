"""Which scope a request of the protocol needs: tools by what they do, the rest by its method."""

from collections.abc import Mapping
from typing import Any, Final

from tale.credentials import Scope

CHANGING_METHODS: Final = frozenset({"tasks/cancel", "tasks/update"})


class Access:
    """The scopes of a server's tools."""

    def __init__(self) -> None:
        self._tools: dict[str, Scope] = {}

    def set(self, tool: str, scope: Scope) -> None:
        """Have calls of a tool need this scope."""
        self._tools[tool] = scope

    def of_tool(self, tool: str) -> Scope:
        """What calling a tool needs; that there is no such tool is told by the call itself."""
        return self._tools.get(tool, Scope.READ)

    def needed(self, method: str, params: Mapping[str, Any] | None) -> Scope:
        """What a request needs."""
        if method == "tools/call":
            return self.of_tool(str((params or {}).get("name")))
        return Scope.SUBMIT if method in CHANGING_METHODS else Scope.READ
