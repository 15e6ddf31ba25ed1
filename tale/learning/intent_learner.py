"""Holds the model of intents that is in force, and has a new one learned whenever there is more to learn from."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final, Literal

from tale.exceptions import ServerException, TaleBaseException
from tale.learning.intent_data import WORDS_FILE, data_folder, digest_of
from tale.learning.intent_encoder import Encoder, read_encoder
from tale.learning.intent_store import Header, Standing, load
from tale.learning.intent_words import read_meanings
from tale.learning.intents import IntentModel
from tale.records import Correction, Detection

# -P: a file of the user's in the working folder must not stand in for a module of the same name.
COMMAND: Final = (sys.executable, "-P", "-m", "tale.learning.intent_training")
TRAINING_LIMIT_S: Final = 600.0  # of a process that yields to all others
PLAIN: Final = "--without-encoder"
RETRY_S: Final = 60.0

State = Literal["learning", "ready", "failed"]

logger = logging.getLogger(__name__)


class IntentLearner:
    """The model is kept at `path`; `read_corrections` blocks and raises TaleBaseException when it cannot.

    `folder` holds what is learned from; by default it is the project's own data. Without the encoder messages are told
    by their words alone.
    Detection goes on with the old model while a new one is learned, in a process of its own.
    """

    def __init__(
        self,
        path: Path,
        read_corrections: Callable[[], Sequence[Correction]],
        *,
        folder: Path | None = None,
        retry_s: float = RETRY_S,
        with_encoder: bool = True,
    ) -> None:
        self.state: State = "learning"
        self.standing: Standing | None = None
        self._path = path
        self._read_corrections = read_corrections
        self._folder = folder or data_folder()
        self._retry_s = retry_s
        self._with_encoder = with_encoder
        self._model: IntentModel | None = None
        self._header: Header | None = None
        self._encoder: Encoder | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Take up the stored model, or have one learned; call within the event loop."""
        self._task = asyncio.create_task(self._keep_learning(), name="intent-learner")

    async def stop(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def look_again(self) -> None:
        """There may be new corrections: learn from them, after what is being learned now."""
        self._wanted.set()

    def detect(self, text: str) -> Detection:
        """What a message asks for. Raises ServerException as long as nothing was learned."""
        if self._model is None:
            raise ServerException("What messages ask for is being learned; try again in some seconds.")
        return self._model.detect(text)

    async def _keep_learning(self) -> None:
        while True:
            self._wanted.clear()
            try:
                await self._learn()
                self.state = "ready"
            except (OSError, ValueError, TaleBaseException):
                logger.exception("Nothing could be learned; it is tried again.")
                self.state = "failed"
            with suppress(TimeoutError):
                async with asyncio.timeout(self._retry_s if self.state == "failed" else None):
                    await self._wanted.wait()

    async def _learn(self) -> None:
        if self._with_encoder and self._encoder is None:
            self._encoder = await asyncio.to_thread(read_encoder)
        encoder = self._encoder
        corrections = await self._corrections()
        digest = await asyncio.to_thread(digest_of, self._folder, corrections)
        if Header(digest, encoder.name if encoder else None) == self._header:
            return
        self.state = "learning"
        if await self._took_up(digest, encoder):
            return
        if encoder and self._model is None:  # with it learning takes five times as long: detection need not wait for it
            await self._train(corrections, plain=True)
            await self._took_up(digest, None)
        await self._train(corrections, plain=encoder is None)
        if not await self._took_up(digest, encoder):
            raise ServerException(f"What was learned cannot be read back from {self._path}.")

    async def _took_up(self, digest: str, encoder: Encoder | None) -> bool:
        """Whether the file holds what was learned from these data with this encoder, which then is in force."""
        header = Header(digest, encoder.name if encoder else None)
        meanings = await asyncio.to_thread(read_meanings, self._folder / WORDS_FILE)
        found = await asyncio.to_thread(load, self._path, header, meanings, encoder)
        if found is None:
            return False
        (self._model, self.standing), self._header = found, header
        logger.info(
            "Intents: learned from %d messages and %d corrections.", self.standing.messages, self.standing.corrections
        )
        return True

    async def _corrections(self) -> Sequence[Correction]:
        try:
            return await asyncio.to_thread(self._read_corrections)
        except TaleBaseException as error:
            logger.warning("The users' corrections cannot be read and do not count now: %s", error)
            return ()

    async def _train(self, corrections: Sequence[Correction], *, plain: bool) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *(str(self._path), str(self._folder), *((PLAIN,) if plain else ())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(TRAINING_LIMIT_S):
                await process.communicate(json.dumps([asdict(each) for each in corrections]).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ServerException(f"The process that learns ended with {process.returncode}; the log says why.")
