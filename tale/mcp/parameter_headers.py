"""Parameters that a tool wants repeated in HTTP headers, so that proxies can route by them (x-mcp-header)."""

import json
import logging
from typing import Any, cast

from tale.mcp.wire import Message, as_object

logger = logging.getLogger(__name__)


class ParameterHeaders:
    """Remembers which parameters of which tool go into headers, as their listings told."""

    def __init__(self) -> None:
        self._by_tool: dict[str, dict[tuple[str, ...], str]] = {}

    def learn(self, tools: object) -> list[dict[str, Any]]:
        """Read the listings; returns those of tools that can be called."""
        usable: list[dict[str, Any]] = []
        for listing in map(as_object, cast("list[object]", tools) if isinstance(tools, list) else []):
            if not listing:
                continue
            if "x-mcp-header" not in json.dumps(listing.get("inputSchema")) or self._learn_one(listing):
                usable.append(listing)
        return usable

    def of(self, method: str, params: Message) -> dict[str, str]:
        """The headers of a call."""
        wanted = self._by_tool.get(str(params.get("name"))) if method == "tools/call" else None
        if not wanted:
            return {}
        from mcp.shared.inbound import mcp_param_headers

        return mcp_param_headers(wanted, params.get("arguments") or {})

    def _learn_one(self, listing: dict[str, Any]) -> bool:
        # The SDK takes a second to import, and hardly any tool wants headers.
        from mcp.shared.inbound import find_invalid_x_mcp_header, x_mcp_header_map

        name, schema = str(listing.get("name")), listing.get("inputSchema")
        if reason := find_invalid_x_mcp_header(schema):
            logger.warning("The tool %r is left out: %s.", name, reason)
            return False
        self._by_tool[name] = x_mcp_header_map(schema)
        return True
