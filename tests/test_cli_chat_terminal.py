"""`tale chat` on a terminal, as it stands on the screen: answers above a prompt that stays usable."""

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.chat_screen import ENTER, INTERRUPT, NEW_LINE, READY, Screen, left, opened
from fakes.gateway import serving
from fakes.in_thread import in_thread
from fakes.played_ux_agent import PlayedUXAgent
from fakes.servers import Process, rows, running, settings_for

SOON_S = 5.0  # what takes a second at most, on a machine that has other things to do


@pytest.fixture
def process(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """The real service, whose model stops after its first word."""
    settings = settings_for(tale_home)
    for role in ("gateway", "execution", "ux_agent"):
        monkeypatch.setenv(f"TALE_{role.upper()}_PORT", str(getattr(settings, f"{role}_port")))
    with in_thread(running(settings, intents={"How": "status", "stop": "control"})) as process:
        process.backend.word_gate = asyncio.Event()
        yield process


def test_an_answer_is_set_as_markdown_above_the_prompt_and_the_way_back_is_told(agent: PlayedUXAgent) -> None:
    agent.words = ("Some **bold** words.\n\n```python\n", "def f():\n    pass\n```\n\nThe ", "end.")
    agent.reply = "".join(agent.words)
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Some bold words.", "", "", " def f.*", "     pass", "", "", "The end.", "", "> *$")

    shown = left(screen)

    assert f"`tale chat --conversation {next(iter(agent.spoken))}`" in shown[-1]
    assert shown.count("The end.") == shown.count("Some bold words.") == 1
    assert "```" not in "\n".join(shown)


def test_what_is_typed_while_an_answer_streams_stays_as_it_is(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Hello there", "", ". 0 s", "> *$")
    screen.type("half a sen")
    screen.wait_for("> half a sen$")
    agent.finish.set()
    screen.wait_for("> Hello", "Hello there", "", "> half a sen$")
    screen.type("tence" + ENTER)
    screen.wait_for("> half a sentence", "Hello there", "", "> *$")

    left(screen)
    assert [call["message"] for call in agent.asked("conversation")] == ["Hello", "half a sentence"]


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("Hello there", "", ". 0 s")
    screen.type(INTERRUPT)
    screen.wait_for("> Hello", "Hello there", "", "Stopped.", "", "> *$")
    assert agent.left.wait(10)
    agent.finish.set()
    screen.type("Again" + ENTER)
    screen.wait_for("> Again", "Hello there", "", "> *$")

    left(screen)
    assert agent.asked("conversation")[1]["conversation_id"] == next(iter(agent.spoken))


def test_ctrl_c_at_the_prompt_empties_it_and_then_leaves_only_when_pressed_twice(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("half a sentence" + INTERRUPT)
    screen.wait_for(READY, "> *$")
    screen.type(INTERRUPT)
    screen.wait_for("Ctrl-C again leaves.", "> *$")
    screen.type("x\x7f" + INTERRUPT)
    screen.wait_for("Ctrl-C again leaves.", "> *$")
    screen.type(INTERRUPT)

    assert screen.end() == 0
    assert screen.shown == [f"Say something; /help lists the commands, {READY}"]


def test_a_message_may_have_several_lines(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("one" + NEW_LINE + "two\x1b" + ENTER + "three\\")
    screen.wait_for("> one", "  two", "  three.")
    screen.type(ENTER)
    screen.wait_for("> one", "  two", "  three$")
    screen.type("four")
    screen.wait_for("> one", "  two", "  three", "  four")
    screen.type(ENTER)
    screen.wait_for("> one", "  two", "  three", "  four", "Hello there")
    screen.type('"""five')
    screen.wait_for('> """five$')
    screen.type(ENTER)
    screen.type('six"""')
    screen.wait_for('> """five', '  six"""$')
    screen.type(ENTER)
    screen.wait_for("> five", "  six", "Hello there", "", "> *$")

    left(screen)
    said = [call["message"] for call in agent.asked("conversation")]
    assert said == ["one\ntwo\nthree\nfour", "five\nsix"]


def test_what_is_pasted_stays_one_message_marked_as_pasted_or_not(agent: PlayedUXAgent) -> None:
    code = "def f():\r    pass\r\rf()"
    screen = opened()
    for number, pasted in enumerate((f"\x1b[200~{code}\x1b[201~", code)):
        screen.type(pasted)
        screen.wait_for("> def f.*", "      pass", " *", "  f..$")
        screen.type(ENTER)
        screen.wait_for(*["> def f.*\n(.*\n)*Hello there\n"] * (number + 1), "> *$")

    left(screen)
    assert [call["message"] for call in agent.asked("conversation")] == ["def f():\n    pass\n\nf()"] * 2


def test_a_task_has_a_card_while_the_prompt_is_used_and_its_result_comes_above_it(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("Write an essay" + ENTER)
    screen.wait_for("> Write an essay", "The large model is on it: task 1.", "", ". 1. Write an essay  running", "> *$")
    agent.lines[next(iter(agent.tasks))] = "writing, 120 tokens so far, 8 s"
    screen.type("Hel")
    screen.wait_for(". 1. Write an essay  writing, 120 tokens so far, 8 s", "> Hel$")
    agent.complete(result="A **long** essay.")
    screen.wait_for("task 1.", "", "A long essay.", "", "> Hel$")
    screen.type("lo" + ENTER)
    screen.wait_for("> Hello", "Hello there", "", "> *$")

    left(screen)


def test_several_messages_are_answered_in_their_order_on_the_screen(agent: PlayedUXAgent) -> None:
    agent.finish.clear()
    agent.replies = {"How far?": "Half way."}
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("Hello there", "", ". 0 s")
    agent.outcome = {}
    agent.finish.set()
    screen.wait_for("Hello there", "", "> *$")
    agent.finish.clear()
    screen.type("And you?" + ENTER)
    screen.wait_for("> And you.", "Hello there", "", ". . s")
    screen.type("How far?" + ENTER)
    screen.wait_for("> And you.", "Hello there", "", "> How far.", "Half way.", "", ". . s", "> *$")
    screen.type("stop" + ENTER)
    screen.wait_for("> And you.", "Hello there", "", "> How far.", "Half way.", "", "> stop", "Stopped.", "", "> *$")

    left(screen)


def test_what_is_said_during_the_first_answer_is_heard_at_once_and_stop_ends_it(process: Process) -> None:
    screen = opened()
    screen.type("Tell me a story" + ENTER)
    screen.wait_for("> Tell me a story", "Hello", "", ". . s", "> *$")
    screen.type("How are my tasks?" + ENTER)
    screen.wait_for("Hello", "", "> How are my tasks.", "You have no tasks yet.*", "", ". . s", "> *$")
    said_at = time.monotonic()
    screen.type("stop" + ENTER)
    screen.wait_for("Hello", "", "> How .*", "You have .*", "", "> stop", "I've stopped.*", "", "> *$")
    assert time.monotonic() - said_at < SOON_S
    assert process.backend.stopped == 1
    process.backend.word_gate = None
    screen.type("Go on" + ENTER)
    screen.wait_for("> Go on", "Hello world", "", "> *$")

    shown = left(screen)
    (conversation,) = rows(process.settings, "SELECT id FROM conversations")
    assert f"`tale chat --conversation {conversation['id']}`" in shown[-1]


def test_a_conversation_in_which_nothing_is_said_is_none(process: Process) -> None:
    screen = opened()
    screen.type("/new" + ENTER)
    screen.wait_for("A new conversation.", "> *$")
    assert left(screen)[-1] == "A new conversation."

    assert rows(process.settings, "SELECT id FROM conversations") == []
    again = Screen("--continue")
    assert again.end() == 2
    assert "There is no conversation yet" in again.plain


def test_a_conversation_is_taken_up_with_its_last_turns_its_tasks_and_what_came_meanwhile(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("Write an essay" + ENTER)
    screen.wait_for("1. Write an essay  running")
    screen.type("Write another" + ENTER)
    screen.wait_for("2. Write another  running")
    shown = left(screen)
    assert shown[-2] == "2 tasks run on."
    agent.complete(1, "The first is done.")

    screen = Screen("--continue")
    screen.wait_for("> Write another", "The large model is on it: task 2.", "", "The first is done.")
    screen.wait_for(". 2. Write another  running", "> *$")
    agent.complete(2, "The second is done.")
    screen.wait_for("The first is done.", "", "The second is done.", "", "> *$")
    left(screen)


def test_what_another_client_says_in_the_conversation_is_shown_with_its_answer(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Hello there", "", "> *$")
    elsewhere = next(iter(agent.spoken.values()))
    elsewhere.add("user", "And from here?", "chat")
    elsewhere.add("assistant", "I hear you.", "chat")
    screen.wait_for("> And from here. .from elsewhere.", "I hear you.", "", "> *$")
    assert left(screen).count("Hello there") == 1

    screen = Screen("--continue")
    screen.wait_for("I hear you.", "", "> *$")
    elsewhere.add("user", "And now?", "chat")
    elsewhere.add("assistant", "Still.", "chat")
    screen.wait_for("> And now. .from elsewhere.", "Still.", "", "> *$")
    left(screen)


def test_a_first_answer_that_breaks_off_before_its_first_word_goes_on_in_the_same_conversation(
    agent: PlayedUXAgent,
) -> None:
    agent.finish.clear()
    agent.words = ()
    screen = opened()
    screen.type("Hello" + ENTER)
    assert agent.heard.wait(10)
    screen.type(INTERRUPT)
    screen.wait_for("> Hello", "Stopped.", "", "> *$")
    agent.finish.set()
    screen.type("Again" + ENTER)
    screen.wait_for("> Again", "Hello there", "", "> *$")

    left(screen)
    assert len(agent.spoken) == 1


def test_lost_servers_are_waited_for_and_the_message_is_answered_when_they_are_back(
    tale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = PlayedUXAgent(home=str(tale_home))
    played.finish.clear()
    with serving(played) as port:
        monkeypatch.setenv("TALE_GATEWAY_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("TALE_UX_AGENT_PORT", str(port))
        screen = opened()
        screen.type("Hello" + ENTER)
        screen.wait_for("> Hello", "Hello there", "", ". 0 s")
        screen.type("half a sen")
    screen.wait_for("The servers do not answer; nothing is lost, .*", "(.*\n)*> half a sen$")
    for conversation in played.spoken.values():
        del conversation.turns[1:]  # as after a crash: of the answer nothing was kept
    played.finish.set()
    with serving(played, port):
        screen.wait_for("Hello there", "", "The servers do not .*", "(.*\n)*The servers are back.", "", "> half a sen$")
        screen.type("tence" + ENTER)
        screen.wait_for("> half a sentence", "Hello there", "", "> *$")
        left(screen)
    assert [call["again"] for call in played.asked("conversation")] == [False, True, False]


def test_commands_are_completed_unknown_ones_name_the_nearest_and_new_begins_anew(agent: PlayedUXAgent) -> None:
    screen = opened()
    screen.type("/bud")
    screen.wait_for("> /bud", " */budget  The budgets.*")
    screen.type("\t" + ENTER)
    screen.wait_for("> /budget", "There are no budgets; .*", "> *$")
    screen.type("/statsu" + ENTER)
    screen.wait_for("> /statsu", "There is no command /statsu; /status is the nearest, .*", "> *$")
    screen.type("//usr is full" + ENTER)
    screen.wait_for("> /usr is full", "Hello there", "", "> *$")
    screen.type("/new" + ENTER)
    screen.wait_for("A new conversation; `tale chat --conversation.*", ".*", "> *$")
    screen.type("Hello" + ENTER)
    screen.wait_for("> Hello", "Hello there", "", "> *$")

    left(screen)
    assert [call["message"] for call in agent.asked("conversation")] == ["/usr is full", "Hello"]
    assert len(agent.spoken) == 2


def test_commands_about_tasks_and_answers(agent: PlayedUXAgent, tmp_path: Path) -> None:
    screen = opened()
    screen.type("/tasks" + ENTER)
    screen.wait_for("There is no conversation yet; say something first.", "> *$")
    screen.type("Write an essay" + ENTER)
    screen.wait_for(". 1. Write an essay  running", "> *$")
    screen.type("/tasks" + ENTER)
    screen.wait_for(" +status +how it stands +task", "1 +running +Write an essay", "(.*\n)*> *$")
    screen.type("/cancel 3" + ENTER)
    screen.wait_for("There is no task 3 for that; /tasks lists them.")
    screen.type("/cancel" + ENTER)
    screen.wait_for("> /cancel", "Task 1 is cancelled.")
    agent.tasks[next(iter(agent.tasks))].update(status="completed", result="An _essay_.", ended_at=1.0, created_at=0.0)
    screen.type("/result 1" + ENTER)
    screen.wait_for("> /result 1", "An essay.")
    screen.type("/good Well done" + ENTER)
    screen.wait_for("Noted: the last answer was good.")
    screen.type("/model large" + ENTER)
    screen.wait_for("large-model answers in this conversation from now on.")
    screen.type("/status" + ENTER)
    screen.wait_for("> /status", "model +role +state.*")

    left(screen)
    assert agent.asked("rate_answer") == [{"rating": "good", "comment": "Well done"}]


def test_a_conversation_is_saved_as_markdown_and_never_over_a_file_unasked(
    agent: PlayedUXAgent, tmp_path: Path
) -> None:
    (tmp_path / "notes.md").write_text("precious")
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("Hello there", "", "> *$")
    screen.type("/save notes.md" + ENTER)
    screen.wait_for("notes.md exists; overwrite it. .y/N.")
    screen.type("n" + ENTER)
    screen.wait_for("Nothing was written.", "> *$")
    assert (tmp_path / "notes.md").read_text() == "precious"
    screen.type("/save notes.md" + ENTER)
    screen.wait_for("Nothing was written.", "> /save notes.md", "notes.md exists; overwrite it. .y/N.")
    screen.type("y" + ENTER)
    screen.wait_for("Wrote 2 messages to notes.md.", "> *$")

    left(screen)
    text = (tmp_path / "notes.md").read_text()
    assert re.search(r"## You \(.* UTC\)\n\nHello\n\n## tale \(.* UTC\)\n\nHello there\n", text)


def test_what_was_typed_is_there_again_in_the_next_conversation(agent: PlayedUXAgent, tale_home: Path) -> None:
    screen = opened()
    screen.type("Hello" + ENTER)
    screen.wait_for("Hello there", "", "> *$")
    left(screen)
    screen = opened()
    screen.type("\x1b[A")
    screen.wait_for("> Hello$")
    screen.type(INTERRUPT)
    screen.wait_for(READY, "> *$")
    left(screen)

    assert (tale_home / "chat_history").stat().st_mode & 0o777 == 0o600


def test_on_a_narrow_terminal_without_colours_nothing_is_wider_than_it(
    agent: PlayedUXAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.words = (f"{'long' * 30} and 漢字{'漢' * 30} wide\x1b[2J.\n\n```python\ndef f(): pass\n```\n",)
    agent.reply = agent.words[0]
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(columns=40)
    screen.wait_for("> *$")
    screen.type("Write about 漢字漢字漢字漢字漢字漢字漢字 and more" + ENTER)
    screen.wait_for(". 1. Write about .*", " +running", "> *$")
    screen.type("Hello" + ENTER)
    screen.wait_for(" def f.*", "(.*\n)*. 1. Write about .*", " +running", "> *$")

    shown = left(screen)
    assert "".join(shown).count("long") == 30
    assert "\x1b[2J" not in screen.raw
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9)[0-8][;m]", screen.raw)


def test_help_does_not_load_what_only_a_conversation_needs() -> None:
    code = (
        "import sys\nfrom tale.cli.main import main\nmain(['chat', '--help'])\nprint('prompt_toolkit' in sys.modules)"
    )
    done = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.endswith("False\n")
