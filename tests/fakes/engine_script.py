"""What a played engine does: its words, its figures, and where it goes wrong."""

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass
class EngineScript:
    """Shared by the servers that play Ollama and an OpenAI-compatible engine; tests change it as they go."""

    models: list[str] = field(default_factory=lambda: ["small", "large"])
    words: list[str] = field(default_factory=lambda: ["Hello", " world", "!"])
    calls: list[tuple[str, str, str]] = field(default_factory=list)  # tools asked for: id, name, arguments as JSON
    reasoning: str = ""  # comes before the words
    input_tokens: int = 11
    context_tokens: int | None = None  # of each model, where the engine tells it, as vLLM does
    gate: asyncio.Event | None = None  # waited for after the first word
    break_after: int | None = None  # the connection is cut after so many words
    refuse: tuple[int, Any] | None = None  # status and body of every generation
    requests: list[dict[str, Any]] = field(default_factory=list)
    traces: list[str | None] = field(default_factory=list)  # the header traceparent of each generation
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the client of a generation went away
    started: asyncio.Event = field(default_factory=asyncio.Event)

    async def between_words(self, number: int) -> None:
        """Called before each word but the first."""
        self.started.set()
        if self.gate is not None and number == 1:
            await self.gate.wait()
