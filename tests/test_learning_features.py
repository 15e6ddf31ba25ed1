"""What a request looks like in numbers: features, words, kinds, neighbours, trees."""

import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.ensemble import ExtraTreesRegressor

from tale.learning.encoding import Encoder
from tale.learning.features import FEATURE_NAMES, Conversation, Request, features_of, kind_of, words_of
from tale.learning.forest import Forest
from tale.learning.lexical import Lexicon
from tale.learning.neighbours import History, same_text_key
from tale.learning.text_ensemble import TextEnsemble

TOPICS = ("a river", "the moon", "old trains", "wild bees")


def feature(name: str, text: str, *, conversation: Conversation | None = None) -> float:
    request = Request(text, "m", conversation=conversation or Conversation())
    return float(features_of([request])[0, FEATURE_NAMES.index(name)])


def texts(count: int) -> list[str]:
    return [f"Write {number % 9 + 2} words about {TOPICS[number % 4]}, version {number}" for number in range(count)]


@pytest.mark.parametrize("text", ["", " \n ", "x" * 10_000, "é漢字🙂" * 500, "\x00\x01", "1,,,, words", "a\n\n\n\nb"])
def test_any_text_has_finite_features(text: str):
    row = features_of([Request(text, "m")])
    assert row.shape == (1, len(FEATURE_NAMES))
    assert np.isfinite(row).all()


def test_no_requests_have_no_rows_but_all_columns():
    assert features_of([]).shape == (0, len(FEATURE_NAMES))


def test_a_stated_length_is_read_in_tokens_whatever_its_unit():
    assert feature("log_asked_length", "Write 200 words on bees.") == pytest.approx(np.log1p(270))
    assert feature("log_asked_length", "Answer in two sentences.") == pytest.approx(np.log1p(50))
    assert feature("asks_length", "Tell me about bees.") == 0


def test_a_motto_is_expected_to_be_shorter_than_a_syllabus():
    assert feature("form_after_action", "Give the brand a motto.") < feature("form_after_action", "Design a syllabus.")


def test_a_question_for_a_fact_opens_shorter_than_one_for_a_way():
    assert feature("opening_first", "What is the capital of Peru?") < feature("opening_first", "How do I boil eggs?")


def test_material_that_follows_the_instruction_is_told_apart_from_it():
    text = "Classify the review.\n\n" + "The food was great. " * 50
    assert feature("has_material", text) == 1
    assert feature("log_material", text) > feature("log_instruction", text)


def test_a_problem_has_as_many_numbers_as_it_gives_in_figures_or_words():
    text = "Tom has 1,200 eggs, sells half of them and gives three to each of 4 friends."
    counts = {
        "numbers": 3,
        "numbers_distinct": 3,
        "numbers_largest": 1_200,
        "numbers_of_parts": 1,
        "numbers_as_rates": 1,
    }
    assert {name: np.expm1(feature(name, text)) for name in counts} == pytest.approx(counts)


def test_loops_and_depth_are_those_of_code_not_of_words():
    code = "def f(x):\n    for y in x:\n        while y:\n            y.pop()\n    return x"
    counts = {"code_loops": 2, "code_calls": 1, "code_depth": 12}
    assert {name: np.expm1(feature(name, code)) for name in counts} == pytest.approx(counts)
    assert feature("code_loops", "Wait for me, and for a while look for the cat.") == 0


def test_an_unknown_conversation_differs_from_an_empty_one():
    assert feature("log_turns", "Go on.") == -1
    assert feature("log_turns", "Go on.", conversation=Conversation(turns=0)) == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("def add(a, b):\n    return a + b", "code"),
        ("Python: `flatten(items)` returns a list of all elements, however deep.", "code"),
        ("Implement bubble sort in Python.", "code"),
        ("Solve the equation 3x + 10 = 5(x - 2).", "mathematics"),
        ("Which is it?\nA. one\nB. two\nC. three\nD. four", "choice"),
        ("Please rewrite this paragraph.", "edit"),
        ("Write a poem on rain.", "story"),
        ("Who wrote Faust?", "question"),
        ("", "other"),
    ],
)
def test_the_kind_of_task_shows_in_the_text(text: str, kind: str):
    assert kind_of(text) == kind


def test_words_keep_what_makes_them_one():
    assert words_of("Don\u2019t re-write C++ code") == ["don't", "re-write", "c++", "code"]


def test_words_that_only_one_text_has_are_no_terms():
    lexicon = Lexicon()
    vectors = lexicon.fit(["red apple", "red pear", "red"])
    assert set(lexicon.terms_) == {"red"}
    assert issparse(vectors)
    assert vectors.shape == (3, 1)


def test_vectors_have_unit_length_or_none():
    lexicon = Lexicon()
    lexicon.fit(texts(40))
    dense = lexicon.dense(lexicon.sparse([*texts(5), "zzz"]))
    lengths = np.linalg.norm(dense, axis=1)
    assert lengths[:5] == pytest.approx(1, abs=1e-5)
    assert lengths[5] == 0


def test_vectors_are_the_same_for_the_same_texts():
    first, second = Lexicon(), Lexicon()
    one, two = first.fit(texts(60)), second.fit(texts(60))
    assert first.dense(one) == pytest.approx(second.dense(two), abs=1e-5)


def test_an_embedding_that_is_missing_counts_as_the_mean():
    encoder = Encoder()
    encoder.fit([Request(text, "m", embedding=(0.6, 0.8) if row % 2 else (1, 0)) for row, text in enumerate(texts(10))])
    encoded = encoder.encode(
        [Request("a", "m"), Request("b", "m", embedding=(1.0,)), Request("c", "m", embedding=(0, 1))]
    )
    assert encoded.embeddings == pytest.approx(np.array([[0, 0], [0, 0], [-0.8, 0.6]]))
    assert encoded.gist.shape == (3, 2)


def test_requests_that_were_encoded_before_are_the_same_whoever_is_asked():
    encoder = Encoder()
    encoder.fit([Request(text, "m") for text in (*texts(10), texts(1)[0])])
    known = Request(texts(5)[4], "another", kind="list")
    asked = [known, Request("Say hello", "m"), Request(texts(3)[2], "m"), known]
    asked.append(Request(texts(5)[4], "m", conversation=Conversation(turns=3)))
    again, anew = encoder.encode_again(asked), encoder.encode(asked)
    assert again.table == pytest.approx(anew.table)
    assert again.words.toarray() == pytest.approx(anew.words.toarray())
    assert len(encoder.encode_again([])) == 0


def test_the_forest_predicts_what_scikit_learn_does():
    generator = np.random.default_rng(0)
    rows, targets = generator.normal(size=(300, 6)), generator.normal(size=(300, 2))
    forest = Forest(trees=10, smallest_leaf=3, seed=0).fit(rows, targets, weights=np.ones(300))
    theirs = ExtraTreesRegressor(10, min_samples_leaf=3, max_features=0.2, random_state=0).fit(rows, targets)
    assert forest.predict(rows) == pytest.approx(theirs.predict(rows))


def history_of(known: list[str], means: list[float]) -> tuple[History, Encoder]:
    encoder = Encoder()
    encoded = encoder.fit([Request(text, "m") for text in known])
    keys = [same_text_key(text) for text in known]
    answers = np.full(len(known), 2.0)
    return History(keys, encoded, surprises=np.array(means)[:, None], answers=answers, half_sure=1.0), encoder


def test_the_very_same_text_is_found_whatever_its_blanks_and_capitals():
    history, encoder = history_of(texts(20), [float(number) for number in range(20)])
    again = f"  {texts(20)[7].upper()}\n"
    found = history.evidence([same_text_key(again)], encoder.encode([Request(again, "m")]))
    assert (found.same.tolist(), found.answers.tolist(), found.surprises.tolist()) == ([7], [2.0], [[7.0]])


def test_a_nearly_equal_text_counts_for_less_than_the_same_and_another_for_nothing():
    known = [*texts(20), "Explain how the tides of the northern sea rise and fall in spring and autumn, in detail"]
    known += ["Explain how the tides of the northern sea rise and fall in spring and in autumn, in much detail"]
    history, encoder = history_of(known, [1.0] * len(known))
    near = "Explain how the tides of the northern sea rise and fall in spring and autumn, in detail please"
    asked = [near, "Sing"]
    found = history.evidence([same_text_key(text) for text in asked], encoder.encode([Request(t, "m") for t in asked]))
    assert 0 < found.answers[0] < 4
    assert found.answers[1] == 0
    assert found.same.tolist() == [-1, -1]


def test_predictions_for_training_texts_come_from_models_that_have_not_seen_them():
    """Noise cannot be learned: what was seen would fit it, what was left out must not."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(200, 1))
    encoded = Encoder().fit([Request(text, "m") for text in texts(200)])
    ensemble = TextEnsemble(trees=30).fit(encoded, noise, weights=np.ones(200))
    assert abs(np.corrcoef(ensemble.unseen_[:, 0], noise[:, 0])[0, 1]) < 0.25
