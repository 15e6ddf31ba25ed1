"""scripts/demo.sh goes through only where the conversation goes as it should."""

import os
import subprocess
from pathlib import Path

import pytest

DEMO = Path(__file__).parent.parent / "scripts/demo.sh"
# Plays the command line: answers as tale does, with the three answers of the conversation from files.
PLAYED = """#!/bin/sh
case "$*" in
    init*) mkdir -p "$2" ;;
    serve) exec sleep 60 ;;
    list*) echo '{"tasks": [{"id": "1"}]}' ;;
    result*) echo 'print("Hello, world!")' ;;
    *Hello,*) echo "Hello! How can I help?" ;;
    *fibonacci*) cat "$ANSWERS/request" ;;
    *"last request"*) cat "$ANSWERS/last" ;;
    *status*"my task"*) cat "$ANSWERS/status" ;;
esac
"""
REQUEST = "Can you write a python function to calculate fibonacci numbers?"
ANSWERS = {
    "request": f"I'm on it, as task 1: “{REQUEST[:59]}…”. You can go on talking.\ndef fibonacci(n):\n    return n",
    "last": f"Your last request was task 1: “{REQUEST}”. It is done, in 7 s.",
    "status": f"Task 1, “{REQUEST[:59]}…”: done, in 7 s.",
}


@pytest.mark.parametrize(
    ("wrong", "missing"),
    [
        ({}, None),
        ({"request": "Sure! Here it is:\ndef fibonacci(n):\n    return n"}, "I'm on it, as task 1: "),
        ({"request": ANSWERS["request"].partition("\n")[0]}, "def .*fib"),
        ({"last": "You said hello."}, "^Your last request was task 1: "),
        ({"status": "It is going well, thank you."}, "^Task 1, "),
    ],
    ids=["as it should", "a request that is taken for chat", "no result", "no last request", "no status"],
)
def test_it_fails_where_an_answer_is_another(tmp_path: Path, wrong: dict[str, str], missing: str | None) -> None:
    answers, programs = tmp_path / "answers", tmp_path / "programs"
    answers.mkdir()
    programs.mkdir()
    for name, words in (ANSWERS | wrong).items():
        (answers / name).write_text(words + "\n", encoding="utf-8")
    (programs / "tale").write_text(PLAYED)
    (programs / "tale").chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "ANSWERS": str(answers),
        "TALE_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run([DEMO], env=os.environ | variables, capture_output=True, text=True)
    assert done.returncode == (0 if missing is None else 1), done.stderr
    if missing:
        assert f"demo: the answer does not hold “{missing}" in done.stderr
