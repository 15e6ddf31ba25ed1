"""The kinds of messages: those of tale's own; the user's bear the label they were taken for."""

from typing import Final

CHAT: Final = "chat"
CLARIFY: Final = "clarify"
WHICH: Final = "which"  # a question, too: which of several tasks an order means
HAND_OFF: Final = "hand_off"
STATUS: Final = "status"
CONTROL: Final = "control"
RESULT: Final = "result"
WISH: Final = "wish"  # of a user's message: holds for all answers from then on
TASK: Final = "task"
AMBIGUOUS: Final = "ambiguous"
