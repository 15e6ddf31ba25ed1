"""A played engine that takes its time, so that deaths find tasks at work, and whose answers tell whose they are."""

import asyncio
import re
from typing import Any, Final

from aiohttp import web
from fakes.openai_server import OpenAIServer

MODEL: Final = "played"
WORDS: Final = 12
WORD_S: Final = 0.04
NUMBER: Final = re.compile(r"Chaos task (\d+)\.")


def task_text(number: int) -> str:
    """The text of a task."""
    return f"Chaos task {number}. Count to {WORDS}."


def answer_to(number: int) -> str:
    """The one right answer to it."""
    return f"Answer {number}:" + "".join(f" {word}" for word in range(1, WORDS + 1))


class SlowEngine(OpenAIServer):
    """Writes the answer of each task word by word."""

    def __init__(self) -> None:
        super().__init__()
        self.script.models = [MODEL]
        self.writing = 0  # answers at this moment

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = self.script.requests.pop()
        found = NUMBER.findall(asked["messages"][-1]["content"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head, *words = answer_to(int(found[-1])).split(" ") if found else ["Hello"]
        self.writing += 1
        try:
            for word in [head, *(f" {word}" for word in words)]:
                await self._delta(response, {"content": word})
                await asyncio.sleep(WORD_S)
            await self._finish(response)
        except ConnectionError:  # whoever asked has just been killed
            return response
        finally:
            self.writing -= 1
        return response
