"""The page Chat: answers stream and can be stopped, tasks are followed, and all of it is there again after a reload."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit.config
from fakes.dashboard_pages import back, buttons, dashboard, held, looked, open_page, point_at, service_of, words
from fakes.servers import Process, rows, settings_for
from streamlit.testing.v1 import AppTest

from tale.settings import Settings


@pytest.fixture(autouse=True)
def pages(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tale_home.mkdir()
    with dashboard(monkeypatch):
        yield


@pytest.fixture
def settings(tale_home: Path, pages: None, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings = settings_for(tale_home)
    point_at(settings, monkeypatch)
    return settings


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    with service_of(settings) as process:
        yield process


def said(app: AppTest, text: str) -> AppTest:
    return app.chat_input[0].set_value(text).run()


def is_answered(app: AppTest) -> bool:
    return bool(app.feedback) and not buttons(app, "Stop")


def test_without_a_service_one_sentence_says_what_to_run() -> None:
    app = open_page("chat")
    assert "The service is not running" in words(app) and "tale servers start" in words(app)
    assert not app.chat_input


def test_a_broken_database_ends_no_page(tale_home: Path) -> None:
    (tale_home / "tale.db").write_text("this is no database " * 500)
    app = open_page("chat")
    assert "tale servers start" in words(app) and "Traceback" not in words(app)


def test_an_empty_conversation_says_what_to_do_and_a_suggestion_is_said(process: Process) -> None:
    app = open_page("chat")
    assert "Say something" in looked(app, lambda page: "Say something" in words(page)).markdown[0].value
    buttons(app, "Hello, what can you do?")[0].click().run()
    assert "Hello world" in words(looked(app, is_answered))


def test_an_answer_streams_and_its_figures_are_those_on_record(settings: Settings, process: Process) -> None:
    gate = held(process.backend)
    app = said(open_page("chat"), "Good morning")
    looked(app, lambda page: "writing" in words(page))  # the script has ended, the answer has not
    assert "Hello" in words(app) and "Hello world" not in words(app)
    assert buttons(app, "Stop")
    gate.set()
    looked(app, is_answered)
    (call,) = rows(settings, "SELECT time_to_first_token_s, output_tokens, model FROM model_calls")
    assert "Hello world" in words(app)
    assert f"{call['output_tokens']} tokens · {call['model']}" in words(app)


def test_an_answer_is_stopped_while_it_is_written_and_what_came_is_kept(settings: Settings, process: Process) -> None:
    held(process.backend)
    app = said(open_page("chat"), "Good morning")
    looked(app, lambda page: "writing" in words(page))
    buttons(app, "Stop")[0].click().run()
    looked(app, lambda page: "Stopped." in words(page) and not buttons(page, "Stop"))
    assert process.backend.stopped == 1
    kept = "SELECT content FROM messages WHERE role = 'assistant'"
    assert rows(settings, kept) == [{"content": "Hello"}]


def test_a_conversation_comes_back_with_its_address(settings: Settings, process: Process) -> None:
    app = looked(said(open_page("chat"), "Good morning"), is_answered)
    address = app.query_params["conversation"]
    assert [row["id"] for row in rows(settings, "SELECT id FROM conversations")] == [address]
    app.feedback[0].set_value(1).run()
    rated = "SELECT rating FROM messages WHERE role = 'assistant'"
    assert rows(settings, rated) == [{"rating": "good"}]
    streamlit.cache_data.clear()
    streamlit.cache_resource.clear()  # as after a restart of the dashboard
    again = looked(open_page("chat", conversation=address), is_answered)
    (call,) = rows(settings, "SELECT output_tokens, model FROM model_calls")
    assert "Good morning" in words(again) and "Hello world" in words(again)
    assert f"{call['output_tokens']} tokens · {call['model']}" in words(again)
    assert again.feedback[0].value == 1
    buttons(again, "New conversation")[0].click().run()
    assert "Say something" in words(looked(again, lambda page: "Say something" in words(page)))
    assert "conversation" not in again.query_params


def test_a_conversation_is_still_in_the_address_after_a_look_at_another_page(process: Process) -> None:
    app = looked(said(open_page("chat"), "Good morning"), is_answered)
    address = app.query_params["conversation"]
    looked(back(app, "chat", without="conversation"), is_answered)
    assert app.query_params["conversation"] == address and "Good morning" in words(app)
    buttons(app, "New conversation")[0].click().run()
    back(app, "chat", without="conversation")
    assert "conversation" not in app.query_params and "Good morning" not in words(app)
    assert buttons(app, "New conversation")[0].disabled


def test_a_task_is_seen_at_work_and_its_result_comes_unasked(process: Process) -> None:
    gate = held(process.backend)
    app = said(open_page("chat"), "Write a poem")
    looked(app, lambda page: "running" in words(page) and page.get("progress"))
    assert "I'm on it" in words(app)
    gate.set()
    looked(app, lambda page: "Task 1 is done" in words(page) and "completed" in words(page))
    assert "Hello world" in words(app) and "2 tokens · large" in words(app)
    assert not app.get("progress")


def test_a_task_of_the_conversation_is_cancelled_from_its_card(settings: Settings, process: Process) -> None:
    held(process.backend)
    app = said(open_page("chat"), "Write a poem")
    looked(app, lambda page: buttons(page, "Cancel") and "running" in words(page))
    buttons(app, "Cancel")[0].click().run()
    looked(app, lambda page: "cancelled" in words(page) and not buttons(page, "Cancel"))
    assert rows(settings, "SELECT status FROM tasks") == [{"status": "cancelled"}]


def test_a_message_outlives_the_servers_and_stands_once(settings: Settings) -> None:
    with service_of(settings) as first:
        held(first.backend)
        app = said(open_page("chat"), "Good morning")
        looked(app, lambda page: "writing" in words(page))
    with service_of(settings):
        app.run()
        looked(app, lambda page: page.chat_input and is_answered(page))
        asked = rows(settings, "SELECT content FROM messages WHERE role = 'user'")
        assert asked == [{"content": "Good morning"}]


def test_what_a_model_writes_is_shown_and_does_nothing(process: Process) -> None:
    process.backend.words = ["<img src=http://192.0.2.1/a> ![a](http://192.0.2.1/b) ", "costs $5 and $6"]
    app = looked(said(open_page("chat"), "Hello"), is_answered)
    (answer,) = [each for each in app.markdown if "192.0.2.1" in each.value]
    assert r"!\[a](http" in answer.value and r"\$5" in answer.value
    assert not answer.allow_html


def test_where_others_reach_the_dashboard_nobody_talks_without_the_key(process: Process) -> None:
    streamlit.config.set_option("server.address", "0.0.0.0")
    assert open_page("chat").chat_input[0].disabled


def test_no_key_stands_on_the_page(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tale_home, api_key="a-key-of-this-test")
    point_at(settings, monkeypatch)
    with service_of(settings):
        monkeypatch.setenv("TALE_API_KEY", "a-key-of-this-test")
        app = looked(said(open_page("chat"), "Hello"), is_answered)
        assert "Hello world" in words(app)
        assert "a-key-of-this-test" not in str(app)


@pytest.mark.parametrize(
    ("text", "is_code"),
    [
        ("![a](http://x/a.png)", False),
        ("[^1]\n\n[^1]: a\n\n    ```\n\n    ![a](http://x/a.png)", False),
        ("- one\n  ```\n- ![a](http://x/a.png)\n  ```", False),
        ("a\r```\r![a](http://x/a.png)\r```", True),
        ("```rust\nlet a = vec![1];\n```", True),
    ],
)
def test_images_are_taken_at_their_word_but_in_code(text: str, is_code: bool) -> None:
    from words import shown

    assert ("![" in shown(text)) is is_code


@pytest.mark.parametrize("block", ["$$", ":::x", "  :::x"])
def test_no_other_block_ends_a_fence_early(block: str) -> None:
    from words import shown

    first = shown(f"{block}\n```\n{block[:3]}\n![a](http://x/a.png)\n```").splitlines()[0]
    assert first.lstrip().startswith("\\")


def test_answers_find_the_calls_that_they_came_from() -> None:
    from chat_view import Figures, figures_of

    turns = [
        {"position": 0, "role": "user", "kind": "chat", "created_at": 10.0},
        {"position": 1, "role": "assistant", "kind": "chat", "created_at": 12.0},
        {"position": 2, "role": "user", "kind": "task", "created_at": 20.0},
        {"position": 3, "role": "assistant", "kind": "hand_off", "created_at": 20.5},
        {"position": 4, "role": "user", "kind": "chat", "created_at": 30.0},
        {"position": 5, "role": "assistant", "kind": "chat", "created_at": 33.0},
    ]
    calls = [
        {"started_at": at, "time_to_first_token_s": first_s, "output_tokens": tokens, "model": "m"}
        for at, first_s, tokens in [(10.1, 0.1, 5), (30.1, None, 2), (31.0, 0.3, 7), (50.0, 0.5, 9)]
    ]
    assert figures_of(turns, calls) == {1: Figures(0.1, 5, "m"), 5: Figures(0.3, 7, "m")}
    assert str(Figures(0.25, 5, "m")) == "first token 250 ms · 5 tokens · m"
    assert str(Figures(None, None, None)) == ""
