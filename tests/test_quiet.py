"""Work for quiet moments goes on after whatever a step of it does."""

import asyncio
import logging

import pytest
from fakes.servers import until

from tale.exceptions import ModelException
from tale.models.quiet import in_quiet_moments


async def test_a_step_that_fails_is_told_and_taken_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wanted, ends = asyncio.Event(), iter([ModelException("It is gone."), TimeoutError(), RuntimeError("odd"), None])
    taken: list[bool] = []

    async def step() -> bool:
        wanted.clear()  # it has seen to all that it knew of
        if (error := next(ends)) is not None:
            raise error
        taken.append(True)
        return True

    work = asyncio.create_task(in_quiet_moments(wanted, step, quiet_s=0.0, longest_s=0.0))
    wanted.set()
    await until(lambda: taken)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "ERROR"]
    assert "It is gone." in caplog.text and "it took too long" in caplog.text and "odd" in caplog.text
