"""Runs a server in a thread with an event loop of its own: commands run a loop themselves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

PATIENCE_S = 10.0
LOOK_INTERVAL_S = 0.01

Entered = TypeVar("Entered")


@contextmanager
def in_thread(context: AbstractAsyncContextManager[Entered, Any]) -> Iterator[Entered]:
    """Enter an asynchronous context in a thread, and leave it there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-server")
    thread.start()
    try:
        entered = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(PATIENCE_S)
        try:
            yield entered
        finally:
            asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


class Gate:
    """Holds servers in other threads up until it is set; stands for an asyncio.Event there."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def set(self) -> None:
        """Let them go on."""
        self._open.set()

    async def wait(self) -> None:
        """Return when it is set."""
        while not self._open.is_set():
            await asyncio.sleep(LOOK_INTERVAL_S)
