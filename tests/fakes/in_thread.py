"""Runs a server in a thread with an event loop of its own: commands run a loop themselves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

PATIENCE_S = 10.0

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
