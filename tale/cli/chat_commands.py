"""What begins with a slash in a conversation: commands about it, its tasks and the servers."""

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from tale.cli.chat_cards import open_tasks
from tale.cli.chat_link import Link
from tale.cli.chat_turns import dimmed, markdown_of
from tale.cli.edge import sentence
from tale.cli.formatting import one_line, printable
from tale.cli.rendering import Screen, facts, show_models, state, table
from tale.cli.tasks import ending
from tale.exceptions import TaleBaseException, ValidationException

PAGE: Final = 200
LATEST: Final = 20
LONGEST_LINE: Final = 200  # characters of a text that stands on one line
SIZES: Final = ("small", "large")


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(slots=True)
class Talk:
    """The conversation that commands are about; `confirm` asks the user a question that is answered by yes or no.

    Its id is made here, so that a second message need not wait until the first is answered.
    """

    link: Link
    screen: Screen
    confirm: Callable[[str], Awaitable[bool]]
    id: str = field(default_factory=_new_id)
    is_known: bool = False  # to the servers: words of an answer have come
    model: str | None = None  # that answered last

    @property
    def begun(self) -> str:
        """The conversation's id. Raises ValidationException before anything was said."""
        if not self.is_known:
            raise ValidationException("There is no conversation yet; say something first.")
        return self.id

    def take_up(self, conversation_id: str) -> None:
        """Go on with a conversation that the servers know."""
        self.id, self.is_known = conversation_id, True

    def begin_anew(self) -> None:
        """Go on with a new conversation."""
        self.id, self.is_known = _new_id(), False

    async def history(self, limit: int = 1, before: int | None = None) -> dict[str, Any]:
        """The last messages of the conversation, and its tasks."""
        arguments = {"conversation_id": self.begun, "limit": limit, "before": before}
        return await self.link.ask("get_history", arguments)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: how it is written, what it does in a few words, and what does it."""

    usage: str
    about: str
    run: Callable[[Talk, str], Awaitable[None]]


async def run_command(talk: Talk, name: str, rest: str) -> None:
    """Carry out a command; what goes wrong is told in one sentence."""
    command = COMMANDS.get(name)
    try:
        if command is None:
            raise ValidationException(unknown(name))
        await command.run(talk, rest)
    except TaleBaseException as error:
        talk.screen.show(Text(printable(sentence(error)), style="yellow"))


def unknown(name: str) -> str:
    """What is said of a command that does not exist.

    >>> unknown("statsu")
    'There is no command /statsu; /status is the nearest, and /help lists all.'
    """
    near = get_close_matches(name, [*COMMANDS, *LEAVING], n=1, cutoff=0.4)
    nearest = f"/{near[0]} is the nearest, and " if near else ""
    return f"There is no command /{one_line(name, 40)}; {nearest}/help lists all."


async def _help(talk: Talk, rest: str) -> None:
    lines = [(command.usage, command.about) for command in COMMANDS.values()]
    talk.screen.show(facts([*lines, ("/quit", "Leave; tasks run on. Ctrl-D does the same.")]))
    talk.screen.show(
        facts(
            [
                ("Ctrl-C", "Stops the answer that is being written."),
                ("Alt-Enter, Ctrl-J", 'A new line; so does Enter after \\ and between """ and """.'),
                ("//…", "A message that begins with a slash."),
            ]
        )
    )


async def _status(talk: Talk, rest: str) -> None:
    info = await talk.link.ask_gateway("get_server_info", {})
    show_models(talk.screen, info["models"])
    talk.screen.show(", ".join(f"{count} {name}" for name, count in info["queue"].items()))
    waiting = open_tasks((await talk.history())["tasks"]) if talk.is_known else []
    if waiting:
        _show_cards(talk.screen, waiting)


async def _tasks(talk: Talk, rest: str) -> None:
    cards = (await talk.history())["tasks"]
    if not cards:
        raise ValidationException("No task has come of this conversation yet; ask for something to be written.")
    _show_cards(talk.screen, cards)


async def _result(talk: Talk, rest: str) -> None:
    cards = (await talk.history())["tasks"]
    ended = [card for card in cards if card not in open_tasks(cards)]
    card = _card(rest, cards, ended[-1:], "/result 2")
    view = await talk.link.ask_gateway("get_task_result", {"task_id": card["id"]})
    if view["result"]:
        talk.screen.answer(view["result"])
    if view["status"] != "completed":
        talk.screen.show(Text(printable(ending(view)), style="yellow"))


async def _cancel(talk: Talk, rest: str) -> None:
    waiting = open_tasks((await talk.history())["tasks"])
    card = _card(rest, waiting, waiting, "/cancel 2")
    view = await talk.link.ask_gateway("cancel_task", {"task_id": card["id"]})
    became = {"cancelled": "is cancelled", "running": "will be cancelled as soon as its runner answers"}
    had_ended = f"had ended already: it is {view['status']}"
    talk.screen.show(f"Task {card['number']} {became.get(view['status'], had_ended)}.")


async def _model(talk: Talk, rest: str) -> None:
    if not rest:
        answered = f"{talk.model} answered last. " if talk.model else ""
        talk.screen.show(f"{answered}/model small and /model large choose who answers here.")
        return
    if rest not in SIZES:
        raise ValidationException(f"There is no model {one_line(rest, 40)!r}; say /model small or /model large.")
    chosen = await talk.link.ask("choose_model", {"conversation_id": talk.begun, "size": rest})
    talk.screen.show(f"{chosen['model']} answers in this conversation from now on.")


async def _budget(talk: Talk, rest: str) -> None:
    found = await talk.link.ask_gateway("get_budgets", {})
    if not found["budgets"]:
        talk.screen.show("There are no budgets; `tale budgets set LIMIT` makes one.")
    for view in found["budgets"]:
        of = "all calls" if view["scope"] == "all" else f"{view['scope']} {view['name']}"
        share = view["used_tokens"] / view["limit_tokens"]
        talk.screen.show(
            f"{of}, a {view['period']}, {view['kind']}: "
            f"{view['used_tokens']:,} of {view['limit_tokens']:,} tokens used ({share:.0%})"
        )


async def _history(talk: Talk, rest: str) -> None:
    talk.screen.show(*dimmed((await talk.history(LATEST))["turns"]))


async def _new(talk: Talk, rest: str) -> None:
    way_back = f"; `tale chat --conversation {talk.id}` comes back to the one before" if talk.is_known else ""
    talk.begin_anew()
    talk.screen.show(Text(f"A new conversation{way_back}.", style="dim"))


async def _save(talk: Talk, rest: str) -> None:
    if not rest:
        raise ValidationException("Name the file: /save notes.md")
    path, turns = Path(rest), await _all_turns(talk)
    try:
        path = path.expanduser()
        if path.exists() and not await talk.confirm(f"{path} exists; overwrite it?"):
            talk.screen.show("Nothing was written.")
            return
        path.write_text(markdown_of(talk.begun, turns), encoding="utf-8")
    except OSError as error:
        raise ValidationException(f"{path} cannot be written: {error.strerror or error}.") from error
    except RuntimeError as error:
        raise ValidationException(f"{path} cannot be written: there is no such user.") from error
    talk.screen.show(f"Wrote {len(turns)} messages to {path}.")


async def _all_turns(talk: Talk) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    before: int | None = None
    while page := (await talk.history(PAGE, before))["turns"]:
        turns = [*page, *turns]
        before = page[0]["position"]
        if before == 0:
            break
    return turns


async def _good(talk: Talk, rest: str) -> None:
    await _rate(talk, "good", rest)


async def _bad(talk: Talk, rest: str) -> None:
    await _rate(talk, "bad", rest)


async def _rate(talk: Talk, rating: str, comment: str) -> None:
    arguments = {"conversation_id": talk.begun, "rating": rating, "comment": comment or None}
    await talk.link.ask("rate_answer", arguments)
    talk.screen.show(Text(f"Noted: the last answer was {rating}.", style="dim"))


def _card(rest: str, cards: list[dict[str, Any]], without_number: list[dict[str, Any]], example: str) -> dict[str, Any]:
    """The task that is meant. Raises ValidationException with what would be right."""
    wanted = rest.removeprefix("#").rstrip(".")
    if not wanted and len(without_number) == 1:
        return without_number[0]
    found = [card for card in cards if wanted in (str(card["number"]), card["id"])]
    if found:
        return found[0]
    if not cards or not (wanted or without_number):
        raise ValidationException("No task of this conversation is there for that; /tasks lists them.")
    if not wanted:
        raise ValidationException(f"There are several tasks; say which, as in {example}. /tasks lists them.")
    raise ValidationException(f"There is no task {one_line(wanted, 40)} for that; /tasks lists them.")


def _show_cards(screen: Screen, cards: list[dict[str, Any]]) -> None:
    made = table(("", "status", "how it stands", "task"))
    for card in cards:
        stands = "" if card["line"] == card["status"] else one_line(card["line"], LONGEST_LINE)
        if screen.narrow:
            screen.show(Text.assemble(f"{card['number']}. ", state(card["status"]), f"  {stands}"))
            screen.show(f"   {one_line(card['text'], LONGEST_LINE)}")
        else:
            made.add_row(
                str(card["number"]), state(card["status"]), Text(stands), Text(one_line(card["text"], LONGEST_LINE))
            )
    if not screen.narrow:
        screen.show(made)


LEAVING: Final = ("quit", "exit")
COMMANDS: Final[dict[str, Command]] = {
    "help": Command("/help", "Lists the commands.", _help),
    "status": Command("/status", "The models, the queue, and the tasks under way.", _status),
    "tasks": Command("/tasks", "All tasks of this conversation.", _tasks),
    "result": Command("/result [N]", "The whole result of a task.", _result),
    "cancel": Command("/cancel [N]", "Stops a task.", _cancel),
    "model": Command("/model [small|large]", "Chooses who answers.", _model),
    "budget": Command("/budget", "The budgets, and what is used of them.", _budget),
    "history": Command("/history", "The last messages.", _history),
    "new": Command("/new", "Begins a new conversation; tasks run on.", _new),
    "save": Command("/save FILE", "Writes the conversation to a file, in Markdown.", _save),
    "good": Command("/good [COMMENT]", "Says that the last answer was good.", _good),
    "bad": Command("/bad [COMMENT]", "Says that the last answer was bad.", _bad),
}
