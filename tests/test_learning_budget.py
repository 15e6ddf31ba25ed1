"""Token budgets: what is expected, what is promised, how it adapts, how it is kept."""

import json
import random
import zipfile
from io import BytesIO

import numpy as np
import pytest
from sklearn.base import clone

from tale.exceptions import ModelException, ValidationException
from tale.learning.artefacts import from_bytes, to_bytes
from tale.learning.conformal import AdaptiveLevel, AdaptiveOffset, Scores
from tale.learning.features import Request
from tale.learning.lexical import Lexicon
from tale.learning.neighbours import History
from tale.learning.token_budget import TokenBudgetModel

SIZES = {"word": 5, "sentence": 30, "paragraph": 120, "page": 600}
MODELS = {"brief": 0.5, "wordy": 2.0}


def answers(count: int, *, seed: int = 0) -> tuple[list[Request], list[float]]:
    """Requests whose answers depend on what is asked, on the model, and on chance."""
    chance = random.Random(seed)
    requests: list[Request] = []
    tokens: list[float] = []
    for number in range(count):
        size, model = chance.choice(list(SIZES)), chance.choice(list(MODELS))
        requests.append(Request(f"Write a {size} about subject {number}.", model))
        tokens.append(round(SIZES[size] * MODELS[model] * chance.lognormvariate(0, 0.3)) + 1)
    return requests, tokens


@pytest.fixture(scope="module")
def model() -> TokenBudgetModel:
    return TokenBudgetModel(trees=30).fit(*answers(600))


def test_longer_things_and_wordier_models_are_expected_to_take_more(model: TokenBudgetModel):
    asked = [Request(f"Write a {size} about rain.", name) for size in ("word", "page") for name in MODELS]
    short_brief, short_wordy, long_brief, long_wordy = model.predict(asked)
    assert short_brief < short_wordy < long_brief < long_wordy


def test_unseen_answers_stay_within_their_budgets_as_often_as_stated(model: TokenBudgetModel):
    requests, tokens = answers(800, seed=1)
    for level in (0.8, 0.95):
        covered = np.mean(np.array(tokens) <= model.predict_quantile(requests, level))
        assert covered == pytest.approx(level, abs=0.04)


def test_budgets_follow_the_request_and_spend_less_than_one_for_all(model: TokenBudgetModel):
    requests, tokens = answers(400, seed=2)
    assert model.predict_quantile(requests, 0.95).mean() < 0.8 * np.quantile(tokens, 0.95)


def test_the_stated_budget_is_at_most_the_hard_cap(model: TokenBudgetModel):
    budgets = model.budgets(answers(50, seed=3)[0])
    assert all(
        1 <= each.stated_tokens <= each.hard_tokens for each in budgets if each.stated_tokens and each.hard_tokens
    )
    assert all(each.hard_tokens is not None for each in budgets)


def test_each_kind_may_have_a_level_of_its_own(model: TokenBudgetModel):
    requests = answers(20, seed=4)[0]
    kinds = {each.kind for each in model.budgets(requests)}
    mapped = model.predict_quantile(requests, dict.fromkeys(kinds, 0.9))
    assert mapped.tolist() == model.predict_quantile(requests, 0.9).tolist()
    assert model.predict_quantile(requests, {"": 0.9}).tolist() == mapped.tolist()


def test_earlier_answers_to_the_same_text_correct_what_the_text_suggests():
    requests, tokens = answers(400)
    odd = Request("Write a word about the longest story ever told.", "brief")
    learned = TokenBudgetModel(trees=30).fit([*requests, *[odd] * 8], [*tokens, *[900] * 8])
    alone = TokenBudgetModel(trees=30, use_history=False).fit([*requests, *[odd] * 8], [*tokens, *[900] * 8])
    again = Request("write a WORD about the longest story ever told.", "brief")
    assert learned.predict([again])[0] > 2 * alone.predict([again])[0]
    assert learned.budgets([again])[0].earlier_answers == 8


def test_an_answer_counts_more_where_its_model_goes_with_the_others():
    chance = np.random.default_rng(0)
    requests: list[Request] = []
    tokens: list[float | None] = []
    for number in range(150):
        own = chance.normal()  # what this text adds, which nothing in it tells
        for name, share in (("steady", 1.0), ("even", 1.0), ("erratic", 0.0)):
            requests.append(Request(f"Report {number}", name))
            tokens.append(float(np.exp(5 + share * own + 0.2 * chance.normal() + (1 - share) * chance.normal())))
    found: dict[str, float] = {}
    for name in ("even", "erratic"):
        model = TokenBudgetModel(trees=20).fit([*requests, Request("Report on all", name)], [*tokens, 1_500])
        found[name] = model.predict([Request("Report on all", "steady")])[0]
    assert found["even"] > 2 * found["erratic"]


def test_the_mean_is_told_by_how_far_answers_go_beyond_the_middle_and_one_that_never_ends_is_not_the_rule():
    chance = random.Random(5)
    requests, tokens = answers(900)
    often = [Request(each.text, "erratic") for each in requests]
    longer = [count * (10 if chance.random() < 0.1 else 1) for count in tokens]
    once = [Request(each.text, "endless") for each in requests]
    learned = TokenBudgetModel(trees=20).fit([*requests, *often, *once], [*tokens, *longer, *tokens[:-1], 1e7])
    asked = [Request("Write a page about snow.", name) for name in ("wordy", "erratic", "endless", "unheard of")]
    wordy, erratic, endless, unknown = learned.outlook(asked).smear.tolist()
    assert (wordy, unknown) == (pytest.approx(1.05, abs=0.03), 1.0)
    assert endless < 1.4 < 1.7 < erratic < 2.3
    assert TokenBudgetModel(trees=20).fit(requests[:1], [9]).outlook(asked).smear.tolist() == [1.0] * 4


def test_kinds_told_in_training_are_recognised_in_texts():
    requests, tokens = answers(300)
    told = [Request(each.text, each.model, kind=each.text.split()[2]) for each in requests]
    budgets = TokenBudgetModel(trees=20).fit(told, tokens).budgets([Request("Write a page about snow.", "brief")])
    assert budgets[0].kind == "page"


def test_a_model_never_seen_is_taken_for_an_average_one(model: TokenBudgetModel):
    brief, unknown, wordy = model.predict(
        [Request("Write a page about rain.", name) for name in ("brief", "?", "wordy")]
    )
    assert brief < unknown < wordy


@pytest.mark.parametrize("text", ["", "x" * 10_000, "word " * 2_000])
def test_odd_texts_have_sensible_budgets(model: TokenBudgetModel, text: str):
    budget = model.budgets([Request(text, "brief")])[0]
    assert budget.hard_tokens is not None
    assert 0 <= budget.expected_tokens <= budget.hard_tokens < 10_000


def test_rows_without_known_tokens_are_left_out():
    requests, tokens = answers(60)
    unknown = [Request("Write a page.", "brief")] * 3
    with_unknown = TokenBudgetModel(trees=10).fit([*requests, *unknown], [*tokens, None, float("nan"), float("inf")])
    without = TokenBudgetModel(trees=10).fit(requests, tokens)
    assert with_unknown.predict(requests).tolist() == without.predict(requests).tolist()


@pytest.mark.parametrize("tokens", [[], [None], [float("nan")]])
def test_nothing_to_learn_from_is_one_clear_error(tokens: list[float | None]):
    with pytest.raises(ValidationException, match="nothing to learn"):
        TokenBudgetModel().fit([Request("a", "m")] * len(tokens), tokens)


def test_a_model_that_learned_nothing_says_so():
    with pytest.raises(ValidationException, match="call fit first"):
        TokenBudgetModel().predict([Request("a", "m")])


def test_one_answer_is_enough_to_expect_something_but_not_to_promise():
    budget = TokenBudgetModel().fit([Request("Hi", "m")], [12]).budgets([Request("Hello", "m")])[0]
    assert (budget.expected_tokens, budget.stated_tokens, budget.hard_tokens) == (12, None, None)


def test_answers_that_are_all_alike_give_that_length():
    requests, _ = answers(50)
    budget = TokenBudgetModel(trees=10).fit(requests, [40] * 50).budgets(requests[:1])[0]
    assert (budget.expected_tokens, budget.hard_tokens) == (40, 40)


def test_an_empty_batch_gives_an_empty_answer(model: TokenBudgetModel):
    assert model.predict([]).shape == (0,)
    assert model.budgets([]) == []


def test_parameters_are_those_of_scikit_learn():
    assert clone(TokenBudgetModel(trees=7)).get_params()["trees"] == 7


def test_a_score_is_promised_only_where_enough_were_seen():
    kinds = np.array(["a"] * 18)
    scores = Scores().fit(np.arange(18.0), np.zeros(18), np.ones(18), kinds)
    assert np.isinf(scores.limits(0.95, np.zeros(1), np.ones(1), kinds[:1]))
    assert scores.limits(0.9, np.zeros(1), np.ones(1), kinds[:1]).tolist() == [17]


def test_the_level_holds_coverage_while_answers_drift():
    chance = random.Random(0)
    offset = AdaptiveOffset(0.9, errors=[chance.gauss(0, 10) for _ in range(500)])
    covered: list[bool] = []
    for number in range(4_000):
        error = chance.gauss(number / 50, 10)
        covered.append(error <= (offset.tokens() or 0))
        offset.observe(error)
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_without_adapting_the_same_drift_would_break_the_promise():
    chance = random.Random(0)
    fixed = float(np.quantile([chance.gauss(0, 10) for _ in range(500)], 0.9))
    assert np.mean([chance.gauss(number / 50, 10) <= fixed for number in range(4_000)]) < 0.5


def test_the_offset_goes_on_where_it_was_kept():
    offset = AdaptiveOffset(0.9, errors=[float(number) for number in range(50)], window=40)
    for error in (60.0, 70.0, 5.0):
        offset.observe(error)
    again = AdaptiveOffset.from_state(json.loads(json.dumps(offset.state())))
    again.observe(33.0)
    offset.observe(33.0)
    assert (again.tokens(), again.state()) == (offset.tokens(), offset.state())
    assert len(offset.state()["errors"]) == 40


def test_no_errors_give_no_offset():
    assert AdaptiveOffset(0.9).tokens() is None


def test_made_up_answers_cannot_take_the_level_anywhere():
    low = high = AdaptiveLevel(0.9)
    for _ in range(10_000):
        low, high = low.after(covered=True), high.after(covered=False)
    assert low.asked == pytest.approx(0.5)
    assert high.asked == pytest.approx(0.98)


def test_a_stored_model_predicts_as_before(model: TokenBudgetModel):
    requests = answers(30, seed=5)[0]
    again = from_bytes(to_bytes(model), TokenBudgetModel)
    assert again.budgets(requests) == model.budgets(requests)


def test_terms_and_texts_are_stored_in_one_piece_whatever_is_in_them():
    texts = ['say "a\\b" / c', "", "naïve 東京 🙂", *(f"Say {number}" for number in range(300))]
    model = TokenBudgetModel(trees=5).fit([Request(text, "m") for text in texts], list(range(1, len(texts) + 1)))
    history, lexicon = model.lengths_.history_, model.lengths_.encoder_.lexicon_
    stored = to_bytes(history)
    assert from_bytes(stored, History).rows_ == history.rows_
    assert from_bytes(to_bytes(lexicon), Lexicon).terms_ == lexicon.terms_
    with zipfile.ZipFile(BytesIO(stored.partition(b"\n")[2])) as parts:
        assert len(parts.read("schema.json")) < 100 * len(texts)  # three times as much, were they stored one by one


def changed(model: TokenBudgetModel, **header: object) -> bytes:
    first, _, rest = to_bytes(model).partition(b"\n")
    return json.dumps(json.loads(first) | header).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"sklearn": "0.1"}, "another sklearn"),
        ({"version": 99}, "another version"),
        ({"type": "Other"}, "another type"),
    ],
)
def test_a_model_that_something_else_wrote_is_refused(model: TokenBudgetModel, header: dict[str, object], message: str):
    with pytest.raises(ModelException, match=message):
        from_bytes(changed(model, **header), TokenBudgetModel)


@pytest.mark.parametrize("data", [b"", b"\n", b"[]\n", b"\x80\x04pickle", b'{"magic": "other"}\nx', b"\xff\xfe\n"])
def test_bytes_that_are_no_model_are_refused(data: bytes):
    with pytest.raises(ModelException, match="no stored model"):
        from_bytes(data, TokenBudgetModel)


def test_a_model_that_was_cut_off_is_refused(model: TokenBudgetModel):
    with pytest.raises(ModelException, match="damaged"):
        from_bytes(to_bytes(model)[:-500], TokenBudgetModel)


def test_a_type_that_does_not_belong_there_is_refused(model: TokenBudgetModel):
    planted = clone(model)
    planted.seed = random.Random  # pyright: ignore[reportAttributeAccessIssue] - what somebody might plant
    with pytest.raises(ModelException, match="does not belong there"):
        from_bytes(to_bytes(planted), TokenBudgetModel)


def test_without_any_method_the_habits_of_the_models_remain():
    requests, tokens = answers(200)
    brief, wordy = (
        TokenBudgetModel(methods=()).fit(requests, tokens).predict([Request("Sing", name) for name in MODELS])
    )
    assert brief < wordy
