"""Work that is done apart clears up after itself, however often whoever waits for it is cancelled."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from tale.models.apart import AHEAD, done_apart, read_apart

Act = Callable[[], Awaitable[object]]


class Source:
    """Numbers up to a limit, then an end of its own; clearing up takes a while."""

    def __init__(self, limit: int, *, error: Exception | None = None, blocks: bool = False) -> None:
        self.limit, self.error, self.blocks = limit, error, blocks
        self.told = 0
        self.begun, self.cleared = asyncio.Event(), asyncio.Event()

    async def numbers(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.limit):
                self.told += 1
                yield number
            await self.end()
        finally:
            await asyncio.sleep(0.01)
            self.cleared.set()

    async def work(self) -> str:
        try:
            await self.end()
        finally:
            await asyncio.sleep(0.01)
            self.cleared.set()
        return "done"

    async def end(self) -> None:
        self.begun.set()
        if self.blocks:
            await asyncio.Event().wait()
        if self.error:
            raise self.error

    async def read(self) -> list[int]:
        return [number async for number in read_apart(self.numbers())]


@pytest.mark.parametrize("count", [0, 1, AHEAD, 3 * AHEAD])
async def test_a_stream_is_read_to_its_end(count: int) -> None:
    source = Source(count)
    assert await source.read() == list(range(count))
    assert source.cleared.is_set()


@pytest.mark.parametrize("count", [0, 1, 3 * AHEAD])
async def test_its_error_comes_after_its_items(count: int) -> None:
    source = Source(count, error=KeyError("why"))
    seen: list[int] = []
    with pytest.raises(KeyError, match="why"):
        async for number in read_apart(source.numbers()):
            seen.append(number)  # noqa: PERF401 - what came before the error counts
    assert seen == list(range(count))


async def test_a_reader_that_is_slow_holds_the_stream_up() -> None:
    source = Source(1_000)
    stream = read_apart(source.numbers())
    await anext(stream)
    for _ in range(100):
        await asyncio.sleep(0)
    assert source.told <= AHEAD + 3
    await stream.aclose()
    assert source.cleared.is_set()


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_both_clear_up_however_often_they_are_cancelled(times: int, turns: int) -> None:
    streaming, working = Source(2, blocks=True), Source(0, blocks=True)
    acts: list[tuple[Source, Act]] = [(streaming, streaming.read), (working, lambda: done_apart(working.work()))]
    for source, act in acts:
        task = asyncio.ensure_future(act())
        await source.begun.wait()
        for _ in range(times):
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await source.cleared.wait()


async def test_work_gives_its_result_or_its_error() -> None:
    assert await done_apart(Source(0).work()) == "done"
    with pytest.raises(KeyError, match="why"):
        await done_apart(Source(0, error=KeyError("why")).work())
