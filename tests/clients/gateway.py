"""A real gateway with a played engine, for clients in other languages: `python -m clients.gateway`, from tests.

It prints its URL and serves until its process is ended. A task that says "slowly" is written a word at a time for a
quarter of a minute, one that says "a second" for that long; any other is done at once.
"""

import asyncio
import tempfile
from pathlib import Path

from fakes.scripted_backend import ScriptedBackend
from fakes.servers import running, settings_for

from tale.models.backend import ChatStream
from tale.records import ChatRequest, Delta

WORDS = {"slowly": 300, "a second": 20}
PACE_S = 0.05


class UnhurriedBackend(ScriptedBackend):
    """Writes slowly where it is asked to."""

    async def chat(self, request: ChatRequest) -> ChatStream:
        text = request.messages[-1].content
        for _ in range(sum(count for wish, count in WORDS.items() if wish in text)):
            yield Delta("word ")
            await asyncio.sleep(PACE_S)
        async for event in super().chat(request):
            yield event


async def main() -> None:
    """Serve."""
    with tempfile.TemporaryDirectory(prefix="tale-clients-") as home:
        async with running(settings_for(Path(home)), backend=UnhurriedBackend()) as process:
            print(f"{process.settings.url_of('gateway')}/mcp", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
