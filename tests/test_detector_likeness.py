"""What likeness to learned messages adds to the detection, with a small encoder of letters in the large one's place."""

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copy
from zlib import crc32

import numpy as np
import pytest
from fakes.servers import LEARNING_PATIENCE_S, until

from tale.learning.intent_data import WORDS_FILE, data_folder, read_examples
from tale.learning.intent_encoder import MODULE, VIEWS, WIDTH, Vectors, read_encoder, vectors_of
from tale.learning.intent_learner import IntentLearner
from tale.learning.intent_likeness import LANDMARKS, Likeness, learned
from tale.learning.intent_store import Header, Standing, load, save
from tale.learning.intent_training import accuracy_of, trained
from tale.learning.intent_words import Meanings, read_meanings
from tale.learning.intents import IntentModel

DATA = data_folder()
EXAMPLES = read_examples(DATA / "intents")[::12]
UNSEEN = read_examples(DATA / "intents_unseen")[::3]
MEANINGS = read_meanings(DATA / WORDS_FILE)
STANDING = Standing(1.0, 2.0, 3, 4, corrections_left_out=False, accuracy=0.5)


class LetterEncoder:
    """Vectors by which groups of four letters a text has; remembers what it was given."""

    name = "letters"

    def __init__(self) -> None:
        self.given: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.given += texts
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for start in range(len(text)):
                row[crc32(text[start : start + 4].lower().encode()) % WIDTH] += 1
            row /= np.linalg.norm(row) or 1.0
        return vectors


@pytest.fixture(scope="module")
def model() -> IntentModel:
    return trained(EXAMPLES, MEANINGS, encoder=LetterEncoder())


def test_a_message_is_read_as_a_whole_and_by_its_first_and_its_last_sentence() -> None:
    encoder = LetterEncoder()
    vectors = vectors_of(["Nice poem. Now stop.", "Stop"], encoder)
    assert vectors.shape == (len(VIEWS), 2, WIDTH)
    assert encoder.given == ["Nice poem. Now stop.", "Nice poem.", "Now stop.", "Stop"]
    assert (vectors[0, 1] == vectors[1, 1]).all()


def test_material_is_not_read() -> None:
    encoder = LetterEncoder()
    vectors_of(["Shorten this:\n```\nsecret = 1\n```", ""], encoder)
    assert not any("secret" in text for text in encoder.given)


def test_likeness_tells_what_was_learned_and_what_is_near_it() -> None:
    texts = ["stop the letter", "halt the letter", "why is the sky blue", "why is the sea green"] * 3
    wanted = np.array([1, 1, 0, 0] * 3)
    halves = np.arange(12) % 2 == 0
    folds = [(np.flatnonzero(halves), np.flatnonzero(~halves)), (np.flatnonzero(~halves), np.flatnonzero(halves))]
    vectors = vectors_of(texts, LetterEncoder())
    likeness, margins = learned(vectors, wanted, np.ones(12), labels=2, groups=texts, folds=folds)
    assert (margins.argmax(axis=1) == wanted).all()
    asked = vectors_of(["why is the sea so blue", "please halt my letter"], LetterEncoder())
    assert likeness.margins(asked).argmax(axis=1).tolist() == [0, 1]


def test_what_counts_most_is_learned_even_among_many() -> None:
    many = LANDMARKS + 50
    vectors = np.random.default_rng(1).normal(size=(len(VIEWS), many, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    wanted, counts = np.zeros(many, dtype=np.int64), np.ones(many)
    wanted[-1], counts[-1] = 1, 5.0
    likeness, _ = learned(vectors, wanted, counts, labels=2, groups=[str(row) for row in range(many)], folds=[])
    assert likeness.landmarks.shape == (len(VIEWS), LANDMARKS, WIDTH)
    assert likeness.margins(vectors[:, -1:]).argmax() == 1
    assert likeness.margins(vectors[:, :50]).argmax(axis=1).tolist() == [0] * 50


def test_one_message_is_told_with_likeness_as_many_at_once_are(model: IntentModel) -> None:
    told = model.probabilities([each.text for each in UNSEEN[:40]])
    for each, row in zip(UNSEEN, told, strict=False):
        found = model.detect(each.text)
        assert list(found.probabilities.values()) == pytest.approx(row, abs=1e-4)
        assert found.reasons


def test_a_model_with_likeness_is_the_same_when_it_is_read_back(model: IntentModel, tmp_path: Path) -> None:
    header = Header("digest", "letters")
    save(tmp_path / "model", model, header, STANDING)
    found = load(tmp_path / "model", header, MEANINGS, LetterEncoder())
    assert found is not None
    texts = [each.text for each in UNSEEN[:40]]
    assert found[0].probabilities(texts) == pytest.approx(model.probabilities(texts), abs=1e-5)
    assert [found[0].detect(text) for text in texts] == [model.detect(text) for text in texts]
    plain = IntentModel.from_parts({**model.to_parts(), "likeness": None, "actions": None}, MEANINGS)
    assert not np.allclose(plain.probabilities(texts), model.probabilities(texts), atol=1e-3)


@pytest.mark.parametrize("encoder", [None, "another"])
def test_a_model_of_another_encoder_is_not_used(model: IntentModel, tmp_path: Path, encoder: str | None) -> None:
    save(tmp_path / "model", model, Header("digest", "letters"), STANDING)
    assert load(tmp_path / "model", Header("digest", encoder), MEANINGS, LetterEncoder()) is None


def test_actions_that_do_not_fit_are_refused(model: IntentModel) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        IntentModel.from_parts({**model.to_parts(), "likeness": None}, MEANINGS)


def test_landmarks_that_do_not_fit_are_refused(model: IntentModel) -> None:
    assert model.likeness is not None
    parts = model.likeness.to_parts()
    with pytest.raises(ValueError, match="do not fit"):
        Likeness.from_parts({**parts, "coefficients": parts["coefficients"][:-1]})


def test_what_is_learned_in_one_language_holds_in_another() -> None:
    english = [each for each in EXAMPLES if each.language == "en"]
    italian = [each for each in EXAMPLES if each.language == "it"]
    plain = accuracy_of(trained(english, Meanings()), italian)
    encoded = accuracy_of(trained(english, Meanings(), encoder=read_encoder()), italian)
    assert plain is not None
    assert encoded is not None
    assert encoded > plain + 0.1


async def test_what_is_learned_without_the_encoder_serves_until_it_has_been_learned_with_it(tmp_path: Path) -> None:
    for name in ("intents", "intents_unseen"):
        (tmp_path / name).mkdir()
        copy(DATA / "intents" / "near_misses.jsonl", tmp_path / name)
    copy(DATA / WORDS_FILE, tmp_path)
    learner = IntentLearner(tmp_path / "new" / "model", list, folder=tmp_path)
    learner.start()
    await until(lambda: learner.standing is not None, patience_s=LEARNING_PATIENCE_S)
    first = learner.standing
    assert learner.state == "learning" and learner.detect("hi").source == "model"
    await until(lambda: learner.state == "ready", patience_s=LEARNING_PATIENCE_S)
    await learner.stop()
    assert first and learner.standing and learner.standing.trained_at > first.trained_at


def test_without_its_package_there_is_no_encoder_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"{MODULE}.py").write_text("raise ImportError('half of it is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == MODULE}
    try:
        assert read_encoder() is None
    finally:
        sys.modules.update(kept)
    assert "told by words alone" in caplog.text and "half of it is missing" in caplog.text


def test_what_the_encoder_cannot_read_has_no_length() -> None:
    encoder = read_encoder()
    assert encoder is not None
    lengths = np.linalg.norm(encoder.encode(["stop it", "रुको", ""]), axis=1)
    assert lengths == pytest.approx([1, 0, 0], abs=1e-3)
