"""Routes by expected gain, complexity by outcome, and the figures both are judged by."""

import random

import numpy as np
import pytest
from sklearn.base import clone

from tale.exceptions import ValidationException
from tale.learning.artefacts import from_bytes, to_bytes
from tale.learning.complexity import complexity_shares, likeliest
from tale.learning.evaluation import (
    apgr,
    bootstrap,
    calibration_error,
    calls_for_gap,
    coverage,
    kendall_tau,
    pinball_loss,
    r2_of_log,
    routing_curve,
)
from tale.learning.features import Request
from tale.learning.router import MOST_LOST, Prices, SuccessRouter, route

# P(small succeeds), P(large succeeds) of each subject: the third is for nobody.
SUBJECTS = {"greeting": (0.95, 0.97), "sorting": (0.3, 0.9), "theorem": (0.03, 0.06)}
PRICES = Prices(small=0.3, large=1.0, success=5.0)


def outcomes(rows: int, *, seed: int = 0) -> tuple[list[Request], list[tuple[float | None, float | None]]]:
    chance = random.Random(seed)
    requests: list[Request] = []
    found: list[tuple[float | None, float | None]] = []
    for number in range(rows):
        subject = chance.choice(list(SUBJECTS))
        small, large = SUBJECTS[subject]
        requests.append(Request(f"Give me a {subject} for case {number}", "m"))
        found.append((float(chance.random() < small), float(chance.random() < large)))
    return requests, found


@pytest.fixture(scope="module")
def router() -> SuccessRouter:
    return SuccessRouter(trees=30).fit(*outcomes(500))


def asked(subject: str) -> Request:
    return Request(f"Give me a {subject} for another case", "m")


def test_the_large_model_is_chosen_where_it_alone_succeeds(router: SuccessRouter):
    choices = {subject: route(*router.predict_proba([asked(subject)])[0], prices=PRICES).choice for subject in SUBJECTS}
    assert choices == {"greeting": "small", "sorting": "large", "theorem": "small"}


def test_probabilities_are_those_of_the_subject_on_average(router: SuccessRouter):
    for subject, (small, large) in SUBJECTS.items():
        unseen = [Request(f"Give me a {subject} for case {number}", "m") for number in range(1_000, 1_100)]
        assert router.predict_proba(unseen).mean(axis=0) == pytest.approx([small, large], abs=0.1)


def test_probabilities_are_calibrated_on_unseen_requests(router: SuccessRouter):
    requests, found = outcomes(600, seed=1)
    likely = router.predict_proba(requests)
    for head in range(2):
        assert calibration_error(np.array([pair[head] for pair in found]), likely[:, head]) < 0.06


def test_the_gain_is_the_difference_of_both_heads(router: SuccessRouter):
    likely = router.predict_proba([asked("sorting")])[0]
    assert router.predict([asked("sorting")])[0] == pytest.approx(likely[1] - likely[0])


def test_what_came_of_the_same_text_before_counts():
    requests, found = outcomes(200)
    odd = Request("Give me a theorem that the small model knows by heart", "m")
    learned = SuccessRouter(trees=20).fit([*requests, *[odd] * 10], [*found, *[(1.0, 1.0)] * 10])
    assert learned.predict_proba([odd])[0, 0] > 0.7


def test_a_model_that_was_not_asked_leaves_its_head_open():
    requests, found = outcomes(300)
    half = [(small, None) if number % 2 else (None, large) for number, (small, large) in enumerate(found)]
    likely = SuccessRouter(trees=20).fit(requests, half).predict_proba([asked("sorting")])[0]
    assert likely == pytest.approx([0.3, 0.9], abs=0.2)


def test_one_row_is_not_taken_for_certainty():
    likely = SuccessRouter().fit([Request("a", "m")], [(1.0, None)]).predict_proba([Request("b", "m")])[0]
    assert 0.5 <= likely[0] < 0.7
    assert 0 < likely[1] < 1


def test_outcomes_of_one_class_give_that_class():
    requests, _ = outcomes(100)
    likely = SuccessRouter(trees=10).fit(requests, [(1.0, 1.0)] * 100).predict_proba(requests[:3])
    assert (likely > 0.98).all()
    assert (likely < 1).all()


@pytest.mark.parametrize("pairs", [[], [(None, None)]])
def test_no_known_outcome_is_one_clear_error(pairs: list[tuple[None, None]]):
    with pytest.raises(ValidationException, match="nothing to learn"):
        SuccessRouter().fit([Request("a", "m")] * len(pairs), pairs)


def test_a_router_that_learned_nothing_says_so():
    with pytest.raises(ValidationException, match="call fit first"):
        SuccessRouter().predict([Request("a", "m")])


def test_a_stored_router_decides_as_before(router: SuccessRouter):
    requests = outcomes(30, seed=2)[0]
    again = from_bytes(to_bytes(router), SuccessRouter)
    assert again.predict(requests).tolist() == router.predict(requests).tolist()
    assert clone(router).get_params() == router.get_params()


def test_the_other_way_is_tried_rarely_and_only_where_it_may_cost_little():
    chance = random.Random(0)
    near = [route(0.6, 0.7, prices=PRICES, randomness=chance, explored=0.1) for _ in range(2_000)]
    far = [route(0.1, 0.9, prices=PRICES, randomness=chance, explored=0.1) for _ in range(2_000)]
    assert sum(each.explored for each in near) / 2_000 == pytest.approx(0.1, abs=0.03)
    assert abs(near[0].gain - near[0].needed_gain) < MOST_LOST
    assert not any(each.explored for each in far)
    assert {each.propensity for each in near} == {0.1, 0.9}
    assert {each.propensity for each in far} == {1.0}


def test_success_that_is_worth_nothing_goes_to_the_cheaper_model():
    assert route(0.0, 1.0, prices=Prices(small=1, large=2, success=0)).choice == "small"


def test_complexity_comes_from_chances_of_success_and_the_length():
    short = complexity_shares(0.8, 0.9, log_tokens=4.0, log_error=0.5)
    assert sum(short.values()) == pytest.approx(1, abs=1e-3)
    assert (short["simple"], short["complex"]) == (pytest.approx(0.8, abs=1e-3), pytest.approx(0.02))
    long = complexity_shares(0.8, 0.9, log_tokens=8.0, log_error=0.5)
    assert (likeliest(short), likeliest(long)) == ("simple", "medium")
    assert likeliest(complexity_shares(0.1, 0.2, log_tokens=4.0, log_error=0.5)) == "complex"
    assert complexity_shares(None, 0.9, log_tokens=4.0, log_error=0.5) == {}


WEAK = np.array([1.0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
STRONG = np.array([1.0, 1, 1, 1, 1, 1, 1, 0, 0, 0])


def test_a_perfect_router_closes_the_gap_with_the_calls_that_matter():
    curve = routing_curve(STRONG - WEAK + np.linspace(0, 0.01, 10), WEAK, STRONG)
    assert calls_for_gap(curve, 0.5) == pytest.approx(20)
    assert calls_for_gap(curve, 1.0) == pytest.approx(40)
    assert apgr(curve) == pytest.approx(0.8)


def test_a_router_that_guesses_recovers_half():
    chance = np.random.default_rng(0)
    weak, strong = np.repeat(WEAK, 500), np.repeat(STRONG, 500)
    curve = routing_curve(chance.random(5_000), weak, strong)
    assert apgr(curve) == pytest.approx(0.5, abs=0.03)
    assert calls_for_gap(curve, 0.5) == pytest.approx(50, abs=5)


def test_scores_that_are_all_alike_give_the_straight_line():
    curve = routing_curve(np.zeros(10), WEAK, STRONG)
    assert (curve.shares.tolist(), apgr(curve)) == ([0, 1], pytest.approx(0.5))


def test_no_gap_has_no_share_of_it():
    assert np.isnan(apgr(routing_curve(np.arange(10.0), WEAK, WEAK)))


def test_intervals_draw_whole_prompts():
    """Twenty answers to each of ten prompts know no more than ten answers do."""
    chance = np.random.default_rng(0)
    values = np.repeat(chance.normal(size=10), 20)
    prompts = [str(number // 20) for number in range(200)]
    together = bootstrap(lambda rows: float(values[rows].mean()), prompts, draws=300)
    apart = bootstrap(lambda rows: float(values[rows].mean()), [str(number) for number in range(200)], draws=300)
    assert together.high - together.low > 3 * (apart.high - apart.low)
    assert together.holds(together.value)


def test_figures_agree_with_what_they_mean():
    truth = np.array([10.0, 20, 30, 40])
    assert r2_of_log(truth, truth) == 1
    assert np.isnan(r2_of_log(np.ones(3), np.ones(3)))
    assert kendall_tau(truth, truth[::-1]) == -1
    assert kendall_tau(truth, np.array([1.0, 2, 2, 1]), ["a", "a", "b", "b"]) == 0
    assert coverage(truth, np.full(4, 30.0)) == 0.75
    assert pinball_loss(truth, truth - 10, 0.9) == pytest.approx(9)
    assert pinball_loss(truth, truth + 10, 0.9) == pytest.approx(1)
    assert calibration_error(np.array([0.0, 1, 0, 1]), np.full(4, 0.5), bins=1) == 0
    assert calibration_error(np.array([0.0, 1, 0, 1]), np.full(4, 0.9), bins=1) == pytest.approx(0.4)
