"""Puts the UX agent together: who answers, follows tasks, carries out orders, and works in quiet moments."""

from tale.servers.shared import Shared
from tale.servers.ux_agent_server import UXAgentTools
from tale.servers.ux_answers import ModelAnswers
from tale.servers.ux_callers import GatewayLine
from tale.servers.ux_control import Controls
from tale.servers.ux_idle import IdleWork
from tale.servers.ux_status import StatusAnswers
from tale.servers.ux_talk import Learning, Talk
from tale.servers.ux_tasks import ConversationBoard, TaskDesk
from tale.storage.correction_store import CorrectionStore


class UXAgent:
    """The parts of the UX agent in one process; `tools` is what its server offers."""

    def __init__(self, shared: Shared) -> None:
        settings, conversations, pool, clock = shared.settings, shared.conversations, shared.pool, shared.clock
        board = ConversationBoard()
        self._answers = ModelAnswers(settings, conversations, pool, clock=clock)
        self._idle = IdleWork(settings, conversations, pool, self._answers)
        self._desk = TaskDesk(
            shared.tasks,
            conversations,
            GatewayLine(settings),
            board,
            sum_up=self._idle.sum_up_result,
            clock=clock,
        )
        controls = Controls(self._desk, self._answers, conversations, pool, clock=clock)
        status = StatusAnswers(
            shared.tasks, conversations, shared.calls, shared.budgets, pool, words=self._desk.words, clock=clock
        )
        # Where no words are kept there is nothing to learn from.
        corrections = CorrectionStore(shared.database) if settings.content == "full" else None
        talk = Talk(
            conversations,
            Learning(shared.learning.detect, corrections, shared.learning.corrected),
            answers=self._answers,
            desk=self._desk,
            controls=controls,
            status=status,
            board=board,
            idle=self._idle,
            clock=clock,
        )
        self.tools = UXAgentTools(
            conversations,
            shared.tasks,
            talk,
            desk=self._desk,
            controls=controls,
            board=board,
            detect=shared.learning.detect,
            clock=clock,
        )

    async def start(self) -> None:
        """Take up the tasks that were handed in before, and look for quiet moments."""
        await self._desk.start()
        await self._idle.start()

    async def stop(self) -> None:
        """Let go of everything; the next start takes it up."""
        await self._idle.stop()
        await self._desk.stop()
        await self._answers.close()
