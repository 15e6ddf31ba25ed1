"""The prompt of a conversation: several lines, history, completion of commands, and keys that do what people expect."""

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.key_processor import KeyPressEvent
from prompt_toolkit.keys import Keys

from tale.cli.chat_commands import COMMANDS, SIZES
from tale.cli.chat_history import FILE_NAME, TypedHistory
from tale.cli.chat_text import SLASH, command_in, continued
from tale.cli.chat_turns import PROMPT

QUIT: Final = "quit"
MENU_LINES: Final = 6


class ChatPrompt:
    """Reads what the user types, below the lines that `above` tells; `stop` breaks answers off, if any are written."""

    def __init__(self, history: TypedHistory, *, above: Callable[[], str], stop: Callable[[], bool]) -> None:
        self._stop = stop
        self._leaves_next = False
        self._input = SteadyInput(sys.stdin)
        self._session: PromptSession[str] = PromptSession(
            lambda: ANSI(f"{above()}{self._warning()}{PROMPT}"),
            multiline=True,
            prompt_continuation=" " * len(PROMPT),
            history=history,
            completer=CommandCompleter(),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith(SLASH)),
            key_bindings=self._keys(),
            reserve_space_for_menu=MENU_LINES,
            erase_when_done=True,
            input=self._input,
        )
        self._session.default_buffer.on_text_changed += self._typed

    def held(self) -> AbstractContextManager[None]:
        """Have the terminal kept as prompts need it in between them, too: nothing is echoed, Ctrl-C is a key."""
        return self._input.raw_mode()

    async def read(self) -> str:
        """What was typed, when Enter is pressed. Raises EOFError or KeyboardInterrupt when the user leaves."""
        self._leaves_next = False
        return await self._session.prompt_async(set_exception_handler=False)

    async def confirm(self, question: str) -> bool:
        """Whether the user says yes; an interrupt is a no."""
        asking: PromptSession[str] = PromptSession(erase_when_done=True, input=self._input)
        try:
            answer = await asking.prompt_async(f"{question} [y/N] ", set_exception_handler=False)
        except (EOFError, KeyboardInterrupt):
            return False
        return answer.strip().lower() in ("y", "yes")

    def refresh(self) -> None:
        """Draw anew what stands above the prompt."""
        self._session.app.invalidate()

    def _warning(self) -> str:
        return "Ctrl-C again leaves.\n" if self._leaves_next else ""

    def _typed(self, _: Buffer) -> None:
        self._leaves_next = False

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def enter(event: KeyPressEvent) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator takes it
            buffer = event.current_buffer
            if _more_comes(event) or (not buffer.document.is_cursor_at_the_end and continued(buffer.text)):
                buffer.insert_text("\n")
            elif longer := continued(buffer.text):
                buffer.document = Document(longer)
            elif buffer.text.strip():
                buffer.validate_and_handle()

        @keys.add("c-j")
        @keys.add("escape", "enter")
        def new_line(event: KeyPressEvent) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator takes it
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        @keys.add("<sigint>")
        def interrupt(event: KeyPressEvent) -> None:  # pyright: ignore[reportUnusedFunction] - the decorator takes it
            if self._stop():
                return
            if event.current_buffer.text:
                event.current_buffer.reset()
            elif self._leaves_next:
                event.app.exit(exception=KeyboardInterrupt())
            else:
                self._leaves_next = True

        return keys


class SteadyInput(Vt100Input):
    """A terminal that stays as it is while something is written above the prompt: keys pressed then count as usual."""

    def cooked_mode(self) -> AbstractContextManager[None]:
        """Leave it as it is."""
        return nullcontext()


class CommandCompleter(Completer):
    """Completes commands, the sizes of models and the names of files."""

    def __init__(self) -> None:
        self._files = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What the word at the cursor may become."""
        text = document.text_before_cursor
        if "\n" in text or (command := command_in(text)) is None:
            return
        name, rest = command
        if " " not in text:
            known = {name: command.about for name, command in COMMANDS.items()} | {QUIT: "Leave."}
            for each, about in known.items():
                if each.startswith(name):
                    yield Completion(f"{SLASH}{each}", start_position=-len(text), display_meta=about)
        elif name == "model":
            yield from (Completion(size, start_position=-len(rest)) for size in SIZES if size.startswith(rest))
        elif name == "save":
            yield from self._files.get_completions(Document(rest), complete_event)


def history_in(home: Path) -> TypedHistory:
    """The history of a home."""
    return TypedHistory(home / FILE_NAME)


def _more_comes(event: KeyPressEvent) -> bool:
    """Whether Enter stands in the middle of what was pasted, on a terminal that does not say that it was."""
    return any(press.key != Keys.CPRResponse for press in event.key_processor.input_queue)
