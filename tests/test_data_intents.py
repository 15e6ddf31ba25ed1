"""The labelled messages are whole, unambiguous, and fit for a split by phrasing and by voice."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tale.learning.intent_data import ACTIONS

FOLDER = Path(__file__).parent.parent / "data" / "intents"
LABELS = {"chat", "task", "status", "control", "ambiguous"}
KEYS = {"text", "label", "template", "language"}
VOICES = sorted(FOLDER.glob("*.jsonl"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


ALL = [line for path in VOICES for line in lines_of(path)]


@pytest.mark.parametrize("path", VOICES, ids=[path.stem for path in VOICES])
def test_each_line_has_its_keys_and_no_text_comes_twice(path: Path) -> None:
    lines = lines_of(path)
    for line in lines:
        assert set(line) - {"action"} == KEYS
        assert line["label"] == "control" or "action" not in line
        assert all(isinstance(value, str) for value in line.values())
        assert line["label"] in LABELS
        assert line["template"]
        assert len(line["language"]) == 2
    assert [text for text, count in Counter(line["text"] for line in lines).items() if count > 1] == []
    assert {line["label"] for line in lines} == LABELS


def test_there_are_enough_of_each_label_and_language() -> None:
    assert len(ALL) >= 1_500
    counts = Counter(line["label"] for line in ALL)
    assert min(counts.values()) >= 0.1 * len(ALL)
    assert len({line["language"] for line in ALL}) >= 8


def test_control_messages_tell_their_action_and_each_action_is_met_often_enough() -> None:
    controls = [line for line in ALL if line["label"] == "control"]
    counts = Counter(line["action"] for line in controls if "action" in line)
    assert set(counts) == set(ACTIONS) and min(counts.values()) >= 40
    assert len(controls) - counts.total() <= 4


def test_no_message_has_two_labels() -> None:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for line in ALL:
        labels["".join(character for character in line["text"].lower() if character.isalnum())].add(line["label"])
    assert [text for text, found in labels.items() if len(found) > 1] == []


@pytest.mark.parametrize("word", ["write", "stop", "status", "task", "explain", "list", "cancel"])
def test_no_word_gives_a_label_away(word: str) -> None:
    found = {line["label"] for line in ALL if word in line["text"].lower().split()}
    assert len(found) >= 4
