"""`tale chat -m` and in a pipe: the answer streams to stdout as it is written, results of tasks come after it."""

import io
import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import COMMAND, Outcome, Terminal, free_port, in_subprocess
from fakes.gateway import model
from fakes.played_ux_agent import PlayedUXAgent, Spoken

from tale.cli.chat_lines import messages_in
from tale.exceptions import ModelException, ValidationException

Tale = Callable[..., Outcome]


def spoken(*words: str) -> Spoken:
    """A conversation in which that was said."""
    made = Spoken()
    for word in words:
        made.add("user", word, "chat")
    return made


def test_the_answer_streams_to_stdout_and_nothing_else_does(agent: PlayedUXAgent, tale: Tale) -> None:
    done = tale("chat", "-m", "  Hello  ")

    assert (done.code, done.out, done.err) == (0, "Hello there\n", "")
    assert agent.asked("conversation") == [{"message": "Hello", "conversation_id": None, "again": False}]


@pytest.mark.parametrize("arguments", [("-m", "Hello"), ()])
def test_a_gateway_elsewhere_whose_ux_agent_is_not_named_is_told_to_need_it(
    agent: PlayedUXAgent, tale: Tale, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    agent.home = "/somewhere/else"
    monkeypatch.setenv("TALE_GATEWAY_URL", agent.url)
    monkeypatch.setenv("TALE_UX_AGENT_PORT", str(free_port()))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))

    done = tale("chat", *arguments)

    assert (done.code, done.out) == (3, "")
    assert "name the one beside the gateway with TALE_UX_AGENT_URL" in done.err


def test_words_come_before_the_answer_is_complete(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    process = subprocess.Popen([*COMMAND, "chat", "-m", "Hello"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    first = process.stdout.read(5)
    agent.finish.set()
    rest = process.stdout.read()
    process.stdout.close()

    assert (first, rest, process.wait(30)) == ("Hello", " there\n", 0)


@pytest.mark.parametrize("words", [(), ("Hello",), ("Hello there",), ("Hello there\n",)])
def test_what_did_not_stream_is_printed_at_the_end(agent: PlayedUXAgent, tale: Tale, words: tuple[str, ...]) -> None:
    agent.words = words

    assert tale("chat", "-m", "Hello").out == "Hello there\n"


def test_continue_takes_up_the_last_conversation(agent: PlayedUXAgent, tale: Tale) -> None:
    tale("chat", "-m", "Hello")
    tale("chat", "--continue", "-m", "And now?")

    assert agent.asked("conversation")[1]["conversation_id"] == next(iter(agent.spoken))


def test_continue_without_any_conversation_says_so(agent: PlayedUXAgent, tale: Tale) -> None:
    done = tale("chat", "--continue", "-m", "Hello")

    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "tale: There is no conversation yet; begin one with the conversation tool."


def test_a_conversation_that_is_named_is_taken_up(agent: PlayedUXAgent, tale: Tale) -> None:
    named = str(uuid.uuid4())
    agent.spoken = {named: spoken("Hello"), str(uuid.uuid4()): spoken("Bye")}

    assert tale("chat", "--conversation", named, "-m", "Hello").code == 0
    assert agent.asked("conversation")[0]["conversation_id"] == named


def test_a_conversation_that_does_not_exist_is_not_begun(agent: PlayedUXAgent, tale: Tale) -> None:
    named = str(uuid.uuid4())

    done = tale("chat", "--conversation", named, "-m", "Hello")

    assert done.code == 2
    assert f"There is no conversation {named}; `tale chat --continue` takes up the last one." in done.err
    assert agent.asked("conversation") == []


def test_json_is_all_that_is_printed(agent: PlayedUXAgent, tale: Tale) -> None:
    done = tale("chat", "-m", "Hello", "--json")

    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["reply"] == "Hello there"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--json",), "give it with -m"),
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


def test_a_model_that_cannot_answer_gives_exit_code_3(agent: PlayedUXAgent, tale: Tale) -> None:
    agent.refusal = ModelException("small-model ran out of memory; take a smaller one.")

    done = tale("chat", "-m", "Hello")

    assert done.code == 3
    assert done.err.splitlines()[-1] == "tale: small-model ran out of memory; take a smaller one."


def test_an_interrupt_stops_the_model_and_tells_how_to_go_on(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    terminal = Terminal(["chat", "-m", "Hello"])
    terminal.read_until("Hello there")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert "Hello there\r\ntale: Interrupted; `tale chat --continue` takes the conversation up again." in terminal.plain
    assert agent.left.wait(10)


def test_a_reader_that_goes_away_stops_the_model_and_is_no_error_worth_a_word(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    agent.words = ("Hello", " there") * 50
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, "chat", "-m", "Hello"], **pipes)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert (process.wait(30), process.stderr.read()) == (141, b"")
    process.stderr.close()
    assert agent.left.wait(10)


def test_on_a_terminal_the_line_that_waits_gives_way_to_the_answer(agent: PlayedUXAgent) -> None:
    agent.models = [model("small-model", "ux", "downloading", done_bytes=1, total_bytes=4, size_bytes=4)]
    agent.words = ("\x1b[2JHello there",)
    agent.reply = "\x1b[2JHello there"
    terminal = Terminal(["chat", "-m", "Hello"])

    assert terminal.end() == 0
    assert "\x1b[2J" not in terminal.raw
    conversation = next(iter(agent.spoken))
    assert f'Hello there\r\ntale chat --conversation {conversation} -m "…" goes on.' in terminal.plain


def test_the_result_of_a_task_is_waited_for_and_is_all_that_goes_to_stdout(agent: PlayedUXAgent, tale: Tale) -> None:
    agent.outcome = {"status": "completed", "result": "A long essay."}

    done = tale("chat", "-m", "Write an essay")

    assert (done.code, done.out) == (0, "A long essay.\n")
    assert "The large model is on it: task 1." in done.err


def test_the_result_of_a_task_that_is_tried_again_is_waited_for_too(agent: PlayedUXAgent, tale: Tale) -> None:
    agent.outcome = {"status": "completed", "result": "A long essay."}

    assert tale("chat", "-m", "retry 1 with 300 tokens").out == "A long essay.\n"
    piped = in_subprocess("chat", given=b"retry 1\n")
    assert (piped.code, piped.out) == (0, "The large model is on it: task 1.\nA long essay.\n")


def test_without_waiting_the_answer_says_that_a_task_was_begun(agent: PlayedUXAgent, tale: Tale) -> None:
    done = tale("chat", "-m", "Write an essay", "--no-wait")

    assert (done.code, done.out) == (0, "The large model is on it: task 1.\n")
    assert agent.asked("wait_for_task") == []


def test_json_holds_the_task_that_was_waited_for(agent: PlayedUXAgent, tale: Tale) -> None:
    agent.outcome = {"status": "completed", "result": "A long essay."}

    told = json.loads(tale("chat", "-m", "Write an essay", "--json").out)

    assert (told["kind"], told["task"]["result"]) == ("hand_off", "A long essay.")
    assert json.loads(tale("chat", "-m", "Hello", "--json").out)["task"] is None


def test_a_task_that_failed_gives_exit_code_1(agent: PlayedUXAgent, tale: Tale) -> None:
    agent.outcome = {"status": "failed", "error": "No memory was left."}

    done = tale("chat", "-m", "Write an essay")

    assert (done.code, done.out) == (1, "")
    assert "failed: No memory was left." in done.err.splitlines()[-1]


def test_an_interrupt_leaves_a_task_running_and_says_how_to_see_it(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    agent.steps = [(7, "large-model is writing")]
    terminal = Terminal(["chat", "-m", "Write an essay"])
    terminal.read_until("7 tokens")
    terminal.interrupt()

    assert terminal.end() == 130
    assert terminal.is_restored
    assert f"the task runs on: `tale status {next(iter(agent.tasks))}` tells" in " ".join(terminal.plain.split())
    assert agent.asked("cancel_task") == []


def test_in_a_pipe_each_line_is_a_message_of_one_conversation(agent: PlayedUXAgent) -> None:
    done = in_subprocess("chat", given=b"Hello\n\n  /status is a word here  \n")

    assert (done.code, done.out, done.err) == (0, "Hello there\nHello there\n", "")
    first, second = agent.asked("conversation")
    assert (first["message"], second["message"]) == ("Hello", "/status is a word here")
    assert second["conversation_id"] == next(iter(agent.spoken))


def test_a_pipe_is_answered_line_by_line_while_it_stays_open(agent: PlayedUXAgent) -> None:
    process = subprocess.Popen([*COMMAND, "chat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdin is not None
    assert process.stdout is not None

    answers: list[str] = []
    for line in ("Hello\n", "And now?\n"):
        process.stdin.write(line)
        answers.append(process.stdout.readline())
    process.stdin.close()

    assert (answers, process.stdout.read(), process.wait(30)) == (["Hello there\n"] * 2, "", 0)
    process.stdout.close()


def test_at_the_end_of_a_pipe_the_results_of_tasks_are_waited_for(agent: PlayedUXAgent) -> None:
    agent.outcome = {"status": "completed", "result": "A long essay."}

    done = in_subprocess("chat", given=b"Write an essay\nHello\n")

    assert (done.code, done.out) == (0, "The large model is on it: task 1.\nHello there\nA long essay.\n")


def test_a_pipe_whose_task_fails_gives_exit_code_1_after_all_results(agent: PlayedUXAgent) -> None:
    agent.outcome = {"status": "failed", "result": None, "error": "No memory was left."}

    done = in_subprocess("chat", given=b"Write an essay\nWrite another\n")

    assert done.code == 1
    assert done.err.count("failed: No memory was left.") == 2


def test_a_pipe_that_holds_nothing_is_told_so_before_anything_starts(tale_home: Path) -> None:
    done = in_subprocess("chat")

    assert (done.code, done.out) == (2, "")
    assert done.err == 'tale: There is no message; give it with -m: tale chat -m "Hello".\n'
    assert not tale_home.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"Hello\n\xff\xfe\n", "Line 2 on stdin is not valid UTF-8"),
        (b"x" * 90_000, "Line 1 on stdin is longer than a message may be"),
    ],
)
def test_what_is_no_text_in_a_pipe_is_refused(given: bytes, said: str) -> None:
    with pytest.raises(ValidationException, match=said):
        list(messages_in(io.BytesIO(given)))


def test_empty_lines_in_a_pipe_are_no_messages() -> None:
    assert list(messages_in(io.BytesIO("\n  \nHällo\n\nBye".encode()))) == ["Hällo", "Bye"]


def test_a_dumb_terminal_is_asked_line_by_line_and_knows_commands(agent: PlayedUXAgent) -> None:
    agent.replies = {"Hello": "Hello\x1b[2J you"}
    terminal = Terminal(["chat"], kind="dumb", columns=60)
    terminal.read_until("> ")
    terminal.type("Hello\n")
    terminal.read_until("Hello[2J you\r\n> ")
    terminal.type("/good\n")
    terminal.read_until("Noted")
    terminal.type("/quit\n")

    assert terminal.end() == 0
    assert "\x1b" not in terminal.raw
    assert f"`tale chat --conversation {next(iter(agent.spoken))}`" in " ".join(terminal.plain.split())


def test_a_dumb_terminal_goes_on_in_the_conversation_whose_first_answer_was_stopped(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    terminal = Terminal(["chat"], kind="dumb")
    terminal.read_until("> ")
    terminal.type("Hello\n")
    terminal.read_until("Hello there")
    terminal.interrupt()
    terminal.read_until("Stopped.\r\n> ")
    agent.finish.set()
    terminal.type("And now?\n")
    terminal.read_until("Hello there\r\n> ")
    terminal.type("\x04")

    assert terminal.end() == 0
    assert len(agent.spoken) == 1


def test_a_dumb_terminal_tells_what_went_wrong_and_goes_on(agent: PlayedUXAgent) -> None:
    agent.refusal = ModelException("small-model ran out of memory; take a smaller one.")
    terminal = Terminal(["chat"], kind="dumb")
    terminal.read_until("> ")
    terminal.type("Hello\n")
    terminal.read_until("tale: small-model ran out of memory; take a smaller one.\r\n> ")
    terminal.type("/statsu\n")
    terminal.read_until("There is no command /statsu; /status is the nearest, and /help lists all.")
    agent.refusal = None
    terminal.type("Hello\n")
    terminal.read_until("Hello there\r\n> ")
    terminal.type("/save ~nobody-of-that-name/notes.md\n")
    terminal.read_until("cannot be written: there is no such user.")
    terminal.type("\x04")

    assert terminal.end() == 0
