"""`tale chat`: the answer streams to stdout as it is written, and the conversation can be taken up again."""

import json
import subprocess
import uuid
from collections.abc import Callable

import pytest
from fakes.command_line import COMMAND, Outcome, Terminal
from fakes.gateway import FakeGateway, model

from tale.exceptions import ModelException

Tale = Callable[..., Outcome]


def test_the_answer_streams_to_stdout_and_nothing_else_does(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("chat", "-m", "  Hello  ")

    assert (done.code, done.out, done.err) == (0, "Hello there\n", "")
    assert gateway.asked("conversation") == [{"message": "Hello", "conversation_id": None}]


def test_words_come_before_the_answer_is_complete(gateway: FakeGateway) -> None:
    gateway.finish.clear()
    process = subprocess.Popen([*COMMAND, "chat", "-m", "Hello"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    first = process.stdout.read(5)
    gateway.finish.set()
    rest = process.stdout.read()
    process.stdout.close()

    assert (first, rest, process.wait(30)) == ("Hello", " there\n", 0)


@pytest.mark.parametrize("words", [(), ("Hello",), ("Hello there",), ("Hello there\n",)])
def test_what_did_not_stream_is_printed_at_the_end(gateway: FakeGateway, tale: Tale, words: tuple[str, ...]) -> None:
    gateway.words = words

    assert tale("chat", "-m", "Hello").out == "Hello there\n"


def test_continue_takes_up_the_last_conversation(gateway: FakeGateway, tale: Tale) -> None:
    tale("chat", "-m", "Hello")
    tale("chat", "--continue", "-m", "And now?")

    assert gateway.asked("conversation")[1]["conversation_id"] == next(iter(gateway.conversations))


def test_continue_without_any_conversation_says_so(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("chat", "--continue", "-m", "Hello")

    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "tale: There is no conversation yet; begin one with the conversation tool."


def test_a_conversation_that_is_named_is_taken_up(gateway: FakeGateway, tale: Tale) -> None:
    named = str(uuid.uuid4())
    gateway.conversations = {named: ["Hello"], str(uuid.uuid4()): ["Bye"]}

    assert tale("chat", "--conversation", named, "-m", "Hello").code == 0
    assert gateway.asked("conversation")[0]["conversation_id"] == named


def test_a_conversation_that_does_not_exist_is_not_begun(gateway: FakeGateway, tale: Tale) -> None:
    named = str(uuid.uuid4())

    done = tale("chat", "--conversation", named, "-m", "Hello")

    assert done.code == 2
    assert f"There is no conversation {named}; `tale chat --continue` takes up the last one." in done.err
    assert gateway.asked("conversation") == []


def test_json_is_all_that_is_printed(gateway: FakeGateway, tale: Tale) -> None:
    done = tale("chat", "-m", "Hello", "--json")

    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["reply"] == "Hello there"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is no message; give it with -m"),
        (("-m", "  "), "There is no message"),
        (("-m", "Hello", "there"), 'quote it: tale chat -m "Hello there"'),
        (("-m", "x" * 20_000), "20,000 characters; at most 10,000"),
        (("-c", "--conversation", "17", "-m", "Hello"), "exclude each other"),
        (("--conversation", "17", "-m", "Hello"), "'17' is not a conversation id"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(tale: Tale, arguments: tuple[str, ...], said: str) -> None:
    done = tale("chat", *arguments)

    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_model_that_cannot_answer_gives_exit_code_3(gateway: FakeGateway, tale: Tale) -> None:
    gateway.refusal = ModelException("small-model ran out of memory; take a smaller one.")

    done = tale("chat", "-m", "Hello")

    assert done.code == 3
    assert done.err.splitlines()[-1] == "tale: small-model ran out of memory; take a smaller one."


def test_an_interrupt_stops_the_model_and_tells_how_to_go_on(gateway: FakeGateway) -> None:
    gateway.finish.clear()
    terminal = Terminal(["chat", "-m", "Hello"])
    terminal.read_until("Hello there")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert "Hello there\r\ntale: Interrupted; `tale chat --continue` takes the conversation up again." in terminal.plain
    assert gateway.left.wait(10)


def test_a_reader_that_goes_away_stops_the_model_and_is_no_error_worth_a_word(gateway: FakeGateway) -> None:
    gateway.finish.clear()
    gateway.words = ("Hello", " there") * 50
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, "chat", "-m", "Hello"], **pipes)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert (process.wait(30), process.stderr.read()) == (141, b"")
    process.stderr.close()
    assert gateway.left.wait(10)


def test_on_a_terminal_the_line_that_waits_gives_way_to_the_answer(gateway: FakeGateway) -> None:
    gateway.models = [model("small-model", "ux", "downloading", done_bytes=1, total_bytes=4, size_bytes=4)]
    gateway.words = ("\x1b[2JHello there",)
    gateway.reply = "\x1b[2JHello there"
    terminal = Terminal(["chat", "-m", "Hello"])

    assert terminal.end() == 0
    assert "\x1b[2J" not in terminal.raw
    conversation = next(iter(gateway.conversations))
    assert f'Hello there\r\ntale chat --conversation {conversation} -m "…" goes on.' in terminal.plain
