"""The one interface behind which every inference engine stands."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from tale.records import ChatRequest, Delta, Dispatched, ModelInfo, PromptProgress, PullProgress, Reply, Usage, Vectors

ChatEvent = Dispatched | PromptProgress | Delta | Reply  # what a pool tells
ChatStream = AsyncGenerator[ChatEvent, None]
BackendEvent = PromptProgress | Usage | Delta | Reply  # usage, as far as the engine has told it
BackendStream = AsyncGenerator[BackendEvent, None]
PullListener = Callable[[PullProgress], None]


class Backend(Protocol):
    """An inference engine. Every method raises ModelException (the engine refuses) or NetworkException (no answer)."""

    provider: str  # ollama, embedded or openai

    def chat(self, request: ChatRequest) -> BackendStream:
        """Stream a generation: PromptProgress, Usage and Delta as they come, at the end exactly one Reply.

        Closing the generator (`aclose`, or cancelling the task that reads it) stops the engine, in prefill too.
        """
        ...

    async def complete(self, request: ChatRequest) -> Reply:
        """Generate without streaming; cancelling the call stops the engine."""
        ...

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """One vector a text."""
        ...

    async def count_tokens(self, request: ChatRequest) -> int | None:
        """Input tokens of the request under the model's own template; None where the engine cannot tell."""
        ...

    async def health(self) -> bool:
        """Whether the engine answers now. Never raises."""
        ...

    async def list_models(self) -> list[ModelInfo]:
        """The models the engine has, or could fetch (`available` False), with what is known of each."""
        ...

    async def pull(self, model: str, listener: PullListener | None = None) -> None:
        """Fetch a model that is not available yet; a no-op for one that is."""
        ...

    async def remove(self, model: str) -> None:
        """Delete a model's files."""
        ...

    async def load(self, model: str) -> float:
        """Bring a model into memory and keep it there; returns the seconds it took (0.0 if it was loaded)."""
        ...

    async def unload(self, model: str) -> None:
        """Free a model's memory; a no-op for one that is not loaded."""
        ...

    async def is_responsive(self, model: str) -> bool:
        """Whether a loaded model still answers. Never raises."""
        ...

    async def close(self) -> None:
        """Stop what this backend started and close its connections."""
        ...
