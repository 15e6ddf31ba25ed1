"""The gateway's tool that tells what was used: tokens, calls and times, of a task, a conversation, a day."""

from collections.abc import Callable

from tale.mcp.base_server import BaseMCPServer
from tale.storage.usage import By, Usage, UsageStore, query_of


class UsageTools:
    """The tool get_usage."""

    def __init__(self, usage: UsageStore, *, clock: Callable[[], float]) -> None:
        self._usage = usage
        self._clock = clock

    async def get_usage(
        self,
        task_id: str | None = None,
        conversation_id: str | None = None,
        day: str | None = None,
        since: str | None = None,
        until: str | None = None,
        by: By | None = None,
    ) -> Usage:
        """Tell exactly what model calls used: tokens, calls and times. Without limits: all that is on record.

        Args:
            task_id: Only calls for this task, a UUID of version 4.
            conversation_id: Only calls for this conversation.
            day: Only calls begun on this day of the server's time zone; YYYY-MM-DD, today or yesterday.
            since: Only calls begun then or later; a date, a date and time, or an age such as 24h.
            until: Only calls begun before; in the same form.
            by: Sum up by this, too.
        """
        query = query_of(
            task_id=task_id,
            conversation_id=conversation_id,
            day=day,
            since=since,
            until=until,
            by=by,
            now=self._clock(),
        )
        return await self._usage.usage(query)


def add_usage_tools(server: BaseMCPServer, tools: UsageTools) -> None:
    """Register the tool."""
    server.add_tool(tools.get_usage, title="What was used", read_only=True)
