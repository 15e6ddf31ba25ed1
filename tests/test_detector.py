"""What a message asks for: by fixed phrases, by plain rules, and as it was learned."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from skops.io import dumps

from tale.conversation.detector import by_rule, fallback
from tale.conversation.orders import Order, order_told
from tale.learning.intent_data import (
    CORRECTION_WEIGHT,
    LABELS,
    SHARE_OF_ALL_KEYS,
    SHARE_OF_ONE_KEY,
    WORDS_FILE,
    Example,
    data_folder,
    digest_of,
    read_examples,
    weighed,
)
from tale.learning.intent_reasons import OTHERWISE, SHAPES
from tale.learning.intent_store import Header, Standing, load, save
from tale.learning.intent_text import shortened, streams_of, taken_apart
from tale.learning.intent_training import accuracy_of, train, trained
from tale.learning.intent_words import Meanings, read_meanings
from tale.learning.intents import VECTORIZERS, IntentModel
from tale.records import Action, Correction, Intent

DATA = data_folder()
EXAMPLES = read_examples(DATA / "intents")
UNSEEN = read_examples(DATA / "intents_unseen")
MEANINGS = read_meanings(DATA / WORDS_FILE)
STANDING = Standing(1.0, 2.0, 3, 4, corrections_left_out=False, accuracy=0.5)


@pytest.fixture(scope="module")
def learned(learned_intents: Path) -> IntentModel:
    found = load(learned_intents, Header(digest_of(DATA, [])), MEANINGS)
    assert found is not None
    return found[0]


def correction(text: str, label: Intent, *, key: str | None = None, at: float = 1.0) -> Correction:
    return Correction(f"{key}-{text}-{at}", at, text, label, "chat", key_name=key)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("stop", "control"),
        ("STOP!!!", "control"),
        ("Please cancel that.", "control"),
        ("cancel the second one", "control"),
        ("pause task 12, please", "control"),
        ("Abbrechen!", "control"),
        ("arrête", "control"),
        ("取消", "control"),
        ("status?", "status"),
        ("Is it done yet?", None),
        ("is it done?", "status"),
        ("¿Cuánto falta?", "status"),
        ("やあ", None),
        ("Thank you!", "chat"),
        ("Guten Morgen", "chat"),
        ("", "ambiguous"),
        (" \n\t ", "ambiguous"),
        ("\0", "ambiguous"),
        ("stop sign", None),
        ("cancel culture", None),
        ("How do I cancel a subscription?", None),
        ("don't stop", None),
    ],
)
def test_fixed_phrases_are_certain_and_nothing_else_is(text: str, label: Intent | None) -> None:
    found = by_rule(text)
    assert (found and found.label) == label
    assert found is None or (found.source == "rule" and found.reasons and found.confidence > 0.9)


def test_no_fixed_phrase_contradicts_a_labelled_message() -> None:
    ruled = [(each.text, by_rule(each.text), each.label) for each in [*EXAMPLES, *UNSEEN]]
    assert [(text, found.label, label) for text, found, label in ruled if found and found.label != label] == []


@given(st.text(max_size=200))
def test_rules_have_an_answer_to_whatever_is_typed(text: str) -> None:
    found = by_rule(text) or fallback(text)
    assert found.label in get_args(Intent)
    assert 0 < found.confidence < 1


def test_the_plain_rules_are_as_sure_as_they_are_right() -> None:
    told = [(found.confidence, found.label == each.label) for each in EXAMPLES[::3] for found in [fallback(each.text)]]
    for level in {confidence for confidence, _ in told}:
        right = [is_right for confidence, is_right in told if confidence == level]
        assert abs(sum(right) / len(right) - level) < 0.1


def test_the_plain_rules_know_the_usual_words_of_each_label() -> None:
    assert fallback("Could you please write a letter to my landlord?").label == "task"
    assert fallback("Please stop the letter").label == "control"
    assert fallback("Is my letter ready?").label == "status"
    assert fallback("Why is the sky blue?").label == "chat"
    assert fallback("Schreib mir bitte einen Brief").label == "task"
    assert fallback("帮我写一封信").label == "task"


def test_nothing_that_is_kept_out_is_learned_from() -> None:
    learned_from = {"".join(filter(str.isalnum, each.text.casefold())) for each in EXAMPLES}
    kept_out = {"".join(filter(str.isalnum, each.text.casefold())) for each in UNSEEN} - {""}
    assert not learned_from & kept_out


def test_messages_in_a_style_that_was_never_learned_are_understood(learned: IntentModel) -> None:
    assert len(UNSEEN) >= 300
    accuracy = accuracy_of(learned, UNSEEN)
    assert accuracy is not None
    assert accuracy >= 0.9


def test_probabilities_of_unseen_messages_are_honest(learned: IntentModel) -> None:
    told = learned.probabilities([each.text for each in UNSEEN])
    right = [LABELS[int(row.argmax())] == each.label for row, each in zip(told, UNSEEN, strict=True)]
    assert told.shape == (len(UNSEEN), len(LABELS))
    assert told.sum(axis=1) == pytest.approx(1)
    assert abs(float(told.max(axis=1).mean()) - sum(right) / len(right)) < 0.08


@pytest.mark.parametrize(
    ("text", "label", "reason"),
    [
        ("Write a short poem about an old lighthouse.", "task", "it orders that something be made"),
        ("Is my poem about the lighthouse ready?", "status", "it asks whether something is done"),
        ("Stop the poem about the lighthouse, please", "control", "it tells something to stop"),
        ("What is the difference between a poem and a song?", "chat", "it is a question about a fact or a notion"),
        ("lighthouse", "ambiguous", "it is a single word"),
    ],
)
def test_a_detection_says_why_in_plain_words(learned: IntentModel, text: str, label: Intent, reason: str) -> None:
    found = learned.detect(text)
    assert found.label == label
    assert found.source == "model"
    assert found.confidence == found.probabilities[label] == max(found.probabilities.values())
    assert reason in found.reasons


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("I would ask you to discontinue the second of them.", "stop"),
        ("Let's not do the script for the backups after all.", "stop"),
        ("put the rota on ice until I know who's coming", "pause"),
        ("would you pick the meeting minutes up where it stopped?", "resume"),
        ("Give the text on volcanoes another chance, please", "retry"),
        ("The winter letter can go to the back of the line.", "last"),
        ("bump 7 to top", "first"),
        ("Use the smaller engine for my jobs until Friday.", "small_model"),
        ("please forget this whole conversation", "clear"),
        ("don't call me sir", "wish"),
        ("Brich den Brief an die Hausverwaltung bitte ab", "stop"),
    ],
)
def test_what_a_control_message_orders_is_told_with_its_probability(
    learned: IntentModel, text: str, action: Action
) -> None:
    found = learned.detect(text)
    assert (found.label, found.action) == ("control", action)
    assert found.action_confidence is not None and 0.2 < found.action_confidence <= 1.0
    assert order_told(text, replace(found, action_confidence=0.9)) == Order(action)
    assert order_told(text, replace(found, action_confidence=0.3)) == Order("unclear")


def test_what_unseen_control_messages_order_is_told_and_of_others_nothing(learned: IntentModel) -> None:
    found = [(each, learned.detect(each.text)) for each in UNSEEN]
    controls = [(each.action, told.action) for each, told in found if each.action and told.label == "control"]
    assert len(controls) > 100
    assert sum(wanted == action for wanted, action in controls) / len(controls) >= 0.85
    assert all(told.action is None for _, told in found if told.label != "control")


def test_one_message_is_told_as_many_at_once_are(learned: IntentModel) -> None:
    told = learned.probabilities([each.text for each in UNSEEN[::3]])
    for each, row in zip(UNSEEN[::3], told, strict=True):
        assert list(learned.detect(each.text).probabilities.values()) == pytest.approx(row, abs=1e-4)


def test_features_are_read_as_scikit_learn_reads_them(learned: IntentModel) -> None:
    texts = [each.text for each in UNSEEN[:40]]
    for name, reader in learned.readers.items():
        known = TfidfVectorizer(vocabulary=list(reader.terms), **{**VECTORIZERS[name], "min_df": 1})
        known.idf_ = reader.rarities
        rows = known.transform([streams_of(text, MEANINGS)[name] for text in texts]).toarray()
        for text, row in zip(texts, rows, strict=True):
            places, values = reader.read(streams_of(text, MEANINGS)[name])
            assert {place - reader.first for place in places} == set(row.nonzero()[0])
            assert [row[place - reader.first] for place in places] == pytest.approx(values)


def test_no_reason_is_a_piece_of_a_word(learned: IntentModel) -> None:
    plain = {*MEANINGS.reasons.values(), *SHAPES.values(), OTHERWISE}
    for each in UNSEEN[::2]:
        reasons = learned.detect(each.text).reasons
        assert reasons
        assert plain.issuperset(reasons)


@pytest.mark.parametrize(
    "text", ["", " ", "\0\0", "🙃🙃", "?" * 50, "a" * 10_000, "word " * 20_000, "\ud800", "\n" * 9]
)
def test_odd_messages_have_a_label_too(learned: IntentModel, text: str) -> None:
    assert learned.detect(text).label in LABELS


def test_a_long_message_is_read_at_both_ends() -> None:
    text = f"Please summarise this:\n{'dull words ' * 2_000}\nin two lines"
    assert len(shortened(text)) < 2_500
    assert shortened(text).startswith("Please summarise")
    assert shortened(text).endswith("in two lines")


def test_material_and_quotations_do_not_count_as_orders() -> None:
    asked = taken_apart('He said "please write me a long poem at once"\n```\nstop()\n```\nin main.py').asked
    assert "poem" not in asked
    assert "stop" not in asked
    assert taken_apart("fix main.py").marks == {"file"}


def test_meanings_are_found_in_any_of_the_languages() -> None:
    assert MEANINGS.of(["kannst", "du", "bitte", "aufhoren"]) == ["ability", "please", "stop"]
    assert MEANINGS.of(["帮我写一封信"])[0] == "make"
    assert Meanings().of(["anything", "7", "?"]) == ["_", "NUM", "?"]


def test_a_stored_model_is_the_same_when_it_is_read_back(tmp_path: Path) -> None:
    model = trained(EXAMPLES[::16], MEANINGS)
    save(tmp_path / "model", model, Header("digest"), STANDING)
    found = load(tmp_path / "model", Header("digest"), MEANINGS)
    assert found is not None
    assert found[1] == STANDING
    texts = [each.text for each in UNSEEN[:50]]
    assert found[0].probabilities(texts) == pytest.approx(model.probabilities(texts), abs=1e-5)


@pytest.fixture
def stored(learned: IntentModel, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "model"
    save(path, learned, Header("digest"), STANDING)
    assert load(path, Header("digest"), MEANINGS)
    yield path
    assert load(path, Header("digest"), MEANINGS) is None


def test_a_damaged_model_is_not_used(stored: Path) -> None:
    content = bytearray(stored.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    stored.write_bytes(content)


@pytest.mark.parametrize("kept", [0, 10, 1_000])
def test_half_a_model_is_not_used(stored: Path, kept: int) -> None:
    stored.write_bytes(stored.read_bytes()[:kept])


@pytest.mark.parametrize("change", [{"version": 999}, {"sklearn": "0.1"}, {"digest": "other"}])
def test_a_model_made_of_something_else_is_not_used(stored: Path, change: dict[str, object]) -> None:
    first, _, rest = stored.read_bytes().partition(b"\n")
    told = json.loads(first)
    told["header"] |= change
    stored.write_bytes(json.dumps(told).encode() + b"\n" + rest)


def test_a_model_that_brings_code_of_others_is_not_used(stored: Path) -> None:
    first, _, _ = stored.read_bytes().partition(b"\n")
    stored.write_bytes(first + b"\n" + dumps({"weights": Example("a", "chat", "b", "c", "d")}))


def test_one_file_that_is_changed_changes_the_digest(tmp_path: Path) -> None:
    small_data(tmp_path)
    before = digest_of(tmp_path, [])
    assert digest_of(tmp_path, [correction("hi", "task")]) != before
    (tmp_path / WORDS_FILE).write_text("[make]\nen: write\n")
    assert digest_of(tmp_path, []) != before


def small_data(folder: Path, *, every: int = 16) -> None:
    """A data folder that is learned in a moment."""
    for name, examples in (("intents", EXAMPLES[::every]), ("intents_unseen", UNSEEN)):
        (folder / name).mkdir()
        lines = [
            json.dumps({"text": each.text, "label": each.label, "template": each.template, "language": each.language})
            for each in examples
        ]
        (folder / name / "voice.jsonl").write_text("\n".join(lines))
    (folder / WORDS_FILE).write_bytes((DATA / WORDS_FILE).read_bytes())


def test_what_a_user_put_right_is_learned(tmp_path: Path) -> None:
    small_data(tmp_path)
    text = "ping the gang about the thing"
    standing = train(tmp_path / "model", [correction(text, "task")], folder=tmp_path)
    assert (standing.corrections, standing.corrections_left_out) == (1, False)
    header = Header(digest_of(tmp_path, [correction(text, "task")]))
    found = load(tmp_path / "model", header, MEANINGS)
    assert found is not None
    assert found[0].detect(text).label == "task"


def test_corrections_that_make_it_worse_are_left_out(tmp_path: Path) -> None:
    small_data(tmp_path)
    wrong = [
        correction(each.text, "task" if each.label != "task" else "chat", key=f"key {number}")
        for number, each in enumerate(UNSEEN)
    ]
    standing = train(tmp_path / "model", wrong, folder=tmp_path)
    assert standing.corrections_left_out
    found = load(tmp_path / "model", Header(digest_of(tmp_path, wrong)), MEANINGS)
    assert found is not None
    assert standing.accuracy == accuracy_of(found[0], UNSEEN)


def test_nobody_turns_the_detection_round_by_sheer_number() -> None:
    one_key = [correction(f"message {number}", "task", key="zealot") for number in range(1_000)]
    assert sum(weight for _, weight in weighed(one_key, 1_000.0)) == pytest.approx(SHARE_OF_ONE_KEY * 1_000)
    many_keys = [replace(each, key_name=f"key {number % 50}") for number, each in enumerate(one_key)]
    assert sum(weight for _, weight in weighed(many_keys, 1_000.0)) == pytest.approx(SHARE_OF_ALL_KEYS * 1_000)
    assert [weight for _, weight in weighed(one_key[:1], 1_000.0)] == [CORRECTION_WEIGHT]


def test_of_two_corrections_of_a_message_by_one_key_the_newer_counts() -> None:
    given = [
        correction("Hm", "task", at=2.0),
        correction("hm ", "chat", at=1.0),
        correction("hm", "status", key="other"),
    ]
    assert {(each.key_name, each.label) for each, _ in weighed(given, 100.0)} == {(None, "task"), ("other", "status")}


def test_corrections_that_nothing_can_be_learned_from_do_not_count() -> None:
    given = [
        correction("  ", "task"),
        correction("x" * 5_000, "task"),
        replace(correction("a", "chat"), label="nonsense"),
    ]  # type: ignore[arg-type]  # as a database of another version may hold it
    assert weighed(given, 100.0) == []
