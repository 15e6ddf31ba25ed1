"""The engine learns from a history, says how sure it is, gets better, and never serves what is worse."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from fakes.past_attempts import past

from tale.exceptions import ModelException, ValidationException
from tale.learning.drift import CoverageWatch
from tale.learning.engine_explain import explain
from tale.learning.engine_judgement import Score, is_to_serve, judge
from tale.learning.engine_route import Chances, choose
from tale.learning.engine_rows import prepared
from tale.learning.performance_engine import PerformanceEngine
from tale.predictions import TaskQuestion

HAIKU = TaskQuestion("Write a haiku about snow", 2_048)
HISTORY = TaskQuestion("Explain in detail the history of tea", 2_048)


@pytest.fixture(scope="module")
def engine_bytes() -> bytes:
    return PerformanceEngine(trees=40).fit(past(200)).to_bytes()


@pytest.fixture
def engine(engine_bytes: bytes) -> PerformanceEngine:
    return PerformanceEngine.from_bytes(engine_bytes)


def test_lengths_are_told_by_the_text_with_limits_that_hold(engine: PerformanceEngine) -> None:
    haiku, history = engine.predict(HAIKU), engine.predict(HISTORY)
    assert haiku.output_tokens < 100 < history.output_tokens
    for each in (haiku, history):
        assert 1 <= each.lower_tokens <= each.output_tokens <= each.upper_tokens <= 2_048
    later = past(200, seed=9)
    checked = engine.update(later)
    assert 0.9 <= sum(each.covered for each in checked) / len(checked) <= 1.0


def test_what_is_not_known_is_none_and_the_task_model_does_it() -> None:
    engine = PerformanceEngine(trees=20).fit(past(60, small_succeeds=None, roles=("task",)))
    expected = engine.predict(HAIKU)
    assert (expected.complexity, expected.gain, expected.ux_success, expected.role) == (None, None, None, "task")
    only_small = PerformanceEngine(trees=20).fit(past(60, roles=("ux",)))
    assert only_small.predict(HAIKU).task_success is None


def test_too_few_known_lengths_are_refused_and_unknown_ones_left_out() -> None:
    rows = past(30)
    unknown = [replace(row, output_tokens=None) for row in rows[:10]]
    with pytest.raises(ValidationException, match="There are 20 answers of known length"):
        PerformanceEngine().fit([*unknown, *rows[10:]])
    with pytest.raises(ValidationException, match="There are 0"):
        PerformanceEngine().fit([])
    assert PerformanceEngine(trees=20).fit([*past(10, seed=2), *rows]).rows_ == 40


def test_an_answer_that_was_cut_does_not_tell_how_long_it_would_have_been(engine: PerformanceEngine) -> None:
    rows = past(60, roles=("task",))
    cut = [replace(row, task_id=f"{n}", output_tokens=16, finish_reason="length") for n, row in enumerate(rows)]
    learned = PerformanceEngine(trees=20).fit([*cut, *rows])
    assert learned.rows_ == 60 and learned.predict(HISTORY).output_tokens > 300
    limit, expected = engine.predict(HISTORY).upper_tokens, engine.predict(HISTORY).output_tokens
    short = replace(rows[0], text=HISTORY.text, output_tokens=16, finish_reason="length")
    assert engine.update([short] * 9) == []
    assert (engine.predict(HISTORY).upper_tokens, engine.predict(HISTORY).output_tokens) == (limit, expected)
    (checked,) = engine.update([replace(short, output_tokens=2 * limit)])
    assert not checked.covered
    assert (engine.predict(HISTORY).upper_tokens > limit, engine.predict(HISTORY).output_tokens) == (True, expected)
    endless = replace(short, output_tokens=2_048)
    assert len(engine.update([endless])) == 1 and engine.predict(HISTORY).output_tokens > expected


@pytest.mark.parametrize("text", ["", "x" * 10_000, "🎉🎉🎉", "\x00"])
def test_odd_texts_and_odd_histories_give_sensible_answers(engine: PerformanceEngine, text: str) -> None:
    assert 1 <= engine.predict(TaskQuestion(text, 300)).upper_tokens <= 300
    same = [replace(row, output_tokens=7, text=text, succeeded=True) for row in past(40)]
    constant = PerformanceEngine(trees=20).fit(same)
    assert constant.predict(TaskQuestion(text, 300)).output_tokens == 7


def test_answers_to_the_very_same_text_count_at_once(engine: PerformanceEngine) -> None:
    before = engine.predict(HAIKU).output_tokens
    row = replace(past(1)[0], text=HAIKU.text, output_tokens=400, task_id="long", model="large")
    engine.update([row, row, row])
    after = engine.predict(HAIKU)
    assert before < 60 and 200 < after.output_tokens <= 400
    assert after.neighbours[0] == "long"


def test_a_short_answer_is_too_long_where_a_shorter_one_was_said(engine: PerformanceEngine) -> None:
    capital = TaskQuestion("Name the capital of Peru", 2_048)
    before = engine.predict(capital).upper_tokens
    assert before < 20
    row = replace(past(1, roles=("task",))[0], output_tokens=20)
    checked = engine.update([replace(row, text=f"Name the capital of land {n}", task_id=str(n)) for n in range(60)])
    assert not any(each.covered for each in checked)
    assert engine.predict(capital).upper_tokens > before


def test_limits_widen_where_answers_drift(engine: PerformanceEngine) -> None:
    before = engine.predict(HISTORY).upper_tokens
    drifted = [replace(row, text=f"{row.text} {n}") for n, row in enumerate(past(60, seed=3, stretch=1.6))]
    engine.update(drifted)
    assert engine.predict(HISTORY).upper_tokens > before


def test_instructions_that_make_answers_shorter_are_used_and_their_lengths_are_those_to_expect() -> None:
    rows = past(120, roles=("task",)) + past(120, seed=2, begin=200, roles=("task",), stretch=0.4, variant="sentence")
    engine = PerformanceEngine.from_bytes(PerformanceEngine(trees=20).fit(rows).to_bytes())
    found = engine.predict(HISTORY)
    assert (found.variant, found.stated_tokens) == ("sentence", None)
    assert found.task_output_tokens is not None and found.output_tokens < 0.6 * found.task_output_tokens
    for fixed in ({"again": True}, {"has_schema": True}, {"keeps_instructions": True}):
        assert engine.predict(replace(HISTORY, **fixed)).variant == "default"
    checked = replace(HISTORY, has_check=True)
    tried = [engine.predict(checked, randomness=random.Random(seed)) for seed in range(60)]
    stated = next(each for each in tried if each.variant == "limited")
    assert stated.explored and stated.stated_tokens is not None
    assert 0.5 < sum(each.variant == "sentence" for each in tried) / len(tried) < 1
    assert engine.predict(checked).variant == "sentence"


def test_a_letter_that_nobody_checks_keeps_its_instructions_however_brief_answers_to_trivia_may_be() -> None:
    rows = past(300, roles=("task",)) + past(300, seed=2, begin=300, roles=("task",), stretch=0.4, variant="sentence")
    trivia = [row for row in rows if row.text.startswith("Name")]
    letter = TaskQuestion("Could you write me a nice invitation to the fete of our street?", 2_048)
    letters = [
        replace(row, task_id=f"letter {n}", text=f"{letter.text} {n}?", output_tokens=300, succeeded=None)
        for n, row in enumerate(past(40, seed=3, begin=600, roles=("task",)))
    ]
    engine = PerformanceEngine(trees=20).fit([*trivia, *letters])
    assert engine.predict(TaskQuestion("Name the capital of Peru", 2_048)).variant == "sentence"
    assert engine.predict(letter).variant == "default"


def test_a_small_model_whose_answers_are_seldom_but_then_far_longer_is_not_taken_for_cheap() -> None:
    checked = replace(HISTORY, has_check=True)
    rows = past(300, small_succeeds=0.7)
    assert PerformanceEngine(trees=20).fit(rows).predict(checked).role == "ux"
    few = [
        replace(row, output_tokens=15 * (row.output_tokens or 0)) if row.role == "ux" and n % 6 == 0 else row
        for n, row in enumerate(rows)
    ]
    assert PerformanceEngine(trees=20).fit(few).predict(checked).role == "task"


def test_what_is_known_of_one_pair_of_models_is_not_said_of_another() -> None:
    both = past(300)
    sentences = past(150, seed=2, begin=300, roles=("task",), stretch=0.4, variant="sentence")
    engine = PerformanceEngine(trees=20).fit([*both, *sentences])
    ours = engine.predict(replace(HISTORY, role="task"))
    theirs = engine.predict(replace(HISTORY, ux_model="7b", task_model="14b"))
    assert ours.ux_success is not None and ours.variant == "sentence"
    assert (theirs.role, theirs.ux_success, theirs.task_success, theirs.variant) == ("task", None, None, "default")
    assert theirs.output_tokens == ours.task_output_tokens  # there is nothing better to go by
    found = explain(engine, replace(HISTORY, ux_model="7b", task_model="14b")).alternatives
    assert [each.model for each in found] == ["7b", "14b"]
    later = [replace(row, model=f"new {row.model}") for row in past(30, seed=3, begin=500)]
    follower = PerformanceEngine(trees=20).fit([*both, *later])
    assert sum(follower.tried_.values()) == 30
    assert follower.predict(HISTORY).ux_success is not None


def test_one_model_for_both_roles_saves_nothing_by_being_asked_as_the_small_one() -> None:
    rows = [replace(row, model="one") for row in past(160, small_succeeds=1.0)]
    engine = PerformanceEngine(trees=20).fit(rows)
    checked = replace(HISTORY, has_check=True)
    assert engine.predict(checked).ux_success is not None
    assert engine.predict(checked).role == engine.predict(HISTORY).role == "task"


def test_an_engine_is_the_same_after_it_was_stored(engine: PerformanceEngine) -> None:
    again = PerformanceEngine.from_bytes(engine.to_bytes())
    assert again.predict(HAIKU) == engine.predict(HAIKU)
    assert again.get_params() == engine.get_params() == {"seed": 0, "trees": 40}
    assert again.router_ and again.router_.heads_.encoder_ is again.budget_.lengths_.encoder_  # kept once


def test_what_cannot_be_read_is_refused_in_one_sentence(engine_bytes: bytes) -> None:
    head, _, rest = engine_bytes.partition(b"\n")
    other = json.dumps({**json.loads(head), "magic": "tale-engine 1"}).encode()
    older = engine_bytes.replace(b'"sklearn": "', b'"sklearn": "0', 1)
    for data in (b"", b"nonsense", b"{}", engine_bytes[:2_000], other + b"\n" + rest, older[:-1]):
        with pytest.raises(ModelException):
            PerformanceEngine.from_bytes(data)


def test_the_small_model_is_relied_on_by_evidence_alone() -> None:
    plain, checked = HAIKU, replace(HAIKU, has_check=True)
    assert choose(Chances(None, None, 0), plain).role == "task"
    assert choose(Chances(0.99, 0.99, 19), plain).role == "task"
    assert choose(Chances(0.99, 0.99, 200), plain).role == "ux"
    assert choose(Chances(0.9, 0.97, 200), plain).role == "task"
    assert choose(Chances(0.9, 0.97, 200), checked).role == "ux"  # a failure is noticed
    assert choose(Chances(0.3, 0.97, 200), checked).role == "task"
    assert choose(Chances(0.99, 0.99, 200), replace(plain, role="task")).role == "task"


def test_what_is_tried_again_is_hard_and_says_nothing_of_how_the_task_model_does_with_the_others() -> None:
    chance = random.Random(5)
    large = [replace(row, succeeded=chance.random() < 0.85) for row in past(100, roles=("task",))]
    small = past(300, seed=2, begin=200, roles=("ux",), small_succeeds=0.6)
    again = [
        replace(row, role="task", model="large", succeeded=chance.random() < 0.5, is_retry=True)
        for row in small
        if not row.succeeded
    ]
    found = PerformanceEngine(trees=20).fit([*large, *small, *again]).predict(HAIKU)
    alone = PerformanceEngine(trees=20).fit([*large, *small]).predict(HAIKU)
    assert found.task_success is not None and found.task_success > 0.75
    assert (found.role, found.variant) == (alone.role, alone.variant) == ("task", "default")
    as_others = [replace(row, is_retry=False) for row in again]
    misled = PerformanceEngine(trees=20).fit([*large, *small, *as_others]).predict(HAIKU)
    assert misled.task_success is not None and misled.task_success < 0.75


def test_instructions_are_judged_by_tasks_that_could_have_had_others(engine: PerformanceEngine) -> None:
    before = engine.prompts_.as_json()
    rows = [replace(row, succeeded=False) for row in past(50, seed=8, roles=("task",))]
    engine.update([replace(row, is_retry=True) for row in rows])
    engine.update([replace(row, has_schema=True) for row in rows])
    assert engine.prompts_.as_json() == before
    engine.update(rows)
    assert engine.prompts_.as_json() != before


def test_where_the_small_model_does_checked_tasks_a_few_still_tell_how_the_task_model_does() -> None:
    chance = random.Random(4)
    checked = replace(HAIKU, has_check=True)
    done = [choose(Chances(0.9, 0.97, 200), checked, randomness=chance) for _ in range(2_000)]
    assert 20 <= sum(each.explored for each in done) <= 60
    assert all((each.role == "task") == each.explored for each in done)
    assert not any(choose(Chances(0.99, 0.99, 200), HAIKU, randomness=chance).explored for _ in range(500))


def test_only_checked_tasks_are_tried_on_the_small_model_and_few_of_them() -> None:
    chance = random.Random(4)
    checked = replace(HAIKU, has_check=True)
    tried = [choose(Chances(None, 0.9, 0), checked, randomness=chance) for _ in range(2_000)]
    assert 60 <= sum(each.explored for each in tried) <= 140
    assert all((each.role == "ux") == each.explored for each in tried)
    assert not any(choose(Chances(None, 0.9, 0), HAIKU, randomness=chance).explored for _ in range(500))
    assert not any(choose(Chances(0.05, 0.9, 50), checked, randomness=chance).explored for _ in range(500))


def test_no_key_outweighs_the_others_and_lengths_stay() -> None:
    honest = past(100)
    poison = [replace(row, succeeded=False) for row in past(4_000, seed=5, key_name="mallory", begin=50)]
    rows = prepared([*honest, *poison])
    theirs = [row for row in rows if row.key_name == "mallory"]
    assert sum(row.succeeded is not None for row in theirs) == 25
    assert sum(row.succeeded is not None for row in rows) == 125
    few = prepared([*honest[:8], *poison])
    assert sum(row.succeeded is not None for row in few) == 8 + 10
    assert all(row.output_tokens for row in rows) and rows == sorted(rows, key=lambda row: row.ended_at)


def test_of_all_labels_that_count_no_key_has_more_than_a_fifth_however_many_keys_bring_theirs() -> None:
    honest = past(100)
    for counts, expected in (((4_000, 1_000), (33, 33)), ((4_000, 4_000), (33, 33)), ((20, 4_000), (20, 30))):
        theirs = [past(count, seed=5, begin=n, key_name=f"key {n}") for n, count in enumerate(counts)]
        rows = prepared([*honest, *theirs[0], *theirs[1]])
        found = Counter(row.key_name for row in rows if row.succeeded is not None)
        assert found == {None: 100, "key 0": expected[0], "key 1": expected[1]}
        assert all(found[f"key {n}"] <= 0.2 * found.total() for n in range(2))
    team = [replace(row, key_name=f"key {n % 5}") for n, row in enumerate(past(250))]
    assert prepared(team) == team


def test_who_uses_tale_through_one_key_learns_as_its_owner_does_until_others_tell_something() -> None:
    rows = past(200, key_name="laptop")
    assert prepared(rows) == rows
    own = PerformanceEngine(trees=20).fit(rows, priors=past(60, seed=2))
    assert own.tried_ == PerformanceEngine(trees=20).fit(past(200), priors=past(60, seed=2)).tried_
    assert own.arms_["large"][""]["default"]["of_key"]["laptop"] == sum(row.role == "task" for row in rows)
    other = past(1, seed=3, begin=200)
    learned = PerformanceEngine(trees=20).fit([*rows, *other])
    assert sum(learned.tried_.values()) == 10 + 1


def test_one_key_cannot_have_instructions_chosen_by_what_it_alone_says_of_them() -> None:
    rows = past(300, roles=("task",)) + past(20, seed=2, begin=300, roles=("task",), stretch=0.4, variant="sentence")
    theirs = past(60, seed=3, begin=400, roles=("task",), stretch=0.4, variant="sentence", key_name="mallory")
    engine = PerformanceEngine(trees=20).fit([*rows, *theirs])
    assert engine.arms_["large"][""]["sentence"]["of_key"] == {"mallory": 10}
    engine.update([replace(row, task_id=f"again {n}") for n, row in enumerate(theirs)])
    assert engine.prompts_.as_json()["large"][""]["sentence"]["of_key"] == {"mallory": 10}


def test_a_new_version_is_promoted_only_where_it_does_better_on_what_came_later(engine: PerformanceEngine) -> None:
    first = judge(past(80))
    assert (first.verdict, first.rows) == ("promoted", 60)
    assert first.metrics is not None and first.metrics["new"]["loss"] < first.metrics["plain"]["loss"]
    chance = random.Random(2)
    noise = [replace(row, text=f"task {chance.random()}", output_tokens=chance.choice([3, 900])) for row in past(80)]
    assert judge(noise).verdict == "rejected"
    assert judge(past(20)).verdict == "waiting"
    priors = past(100, stretch=4.0, seed=6)
    by_priors = judge([], priors=priors)
    assert (by_priors.verdict, by_priors.rows) == ("promoted", 75)
    own = judge(past(60, begin=200), priors=priors, serving=by_priors.engine)
    assert own.metrics is not None and own.metrics["new"]["judged"] == 30
    assert (own.verdict, own.rows) == ("promoted", 130)
    assert judge(past(200), serving=engine).verdict == "waiting"  # it has seen all of them


def score(loss: float, brier: float | None) -> Score:
    return Score(60, loss, 50.0, 0.95, 200.0, 40, brier)


@pytest.mark.parametrize(
    ("new", "plain", "serving", "serves"),
    [
        (score(0.5, 0.20), score(0.7, 0.19), None, True),
        (score(0.5, 0.20), score(0.7, None), None, True),  # nothing is known of success
        (score(0.5, 0.40), score(0.7, 0.28), None, False),
        (score(0.5, 0.40), score(0.7, 0.28), score(0.7, 0.41), True),  # of the two that might serve it is the better
        (score(0.5, 0.40), score(0.7, 0.28), score(0.7, 0.30), False),
        (score(0.8, 0.20), score(0.7, 0.28), score(0.9, 0.41), False),
    ],
)
def test_success_that_is_told_worse_than_by_plain_figures_keeps_no_worse_version_in_place(
    new: Score, plain: Score, serving: Score | None, serves: bool
) -> None:
    scores = {"new": new, "plain": plain} | ({"serving": serving} if serving else {})
    assert is_to_serve(scores) is serves


def test_the_version_before_serves_again_where_the_one_that_serves_does_worse(engine: PerformanceEngine) -> None:
    misled = PerformanceEngine(trees=20).fit(past(100, stretch=8.0, seed=6))
    later = past(40, seed=7, begin=300)
    found = judge([*past(100, stretch=8.0, seed=6), *later], serving=misled, previous=engine)
    assert found.verdict == "rolled_back"


def test_an_explanation_names_parts_alternatives_and_tasks_like_it(engine: PerformanceEngine) -> None:
    found = explain(engine, HISTORY)
    assert found.parts and found.parts[0].factor > 1.2
    assert [(each.role, each.model) for each in found.alternatives] == [("ux", "small"), ("task", "large")]
    assert found.alternatives[0].weighted_tokens < found.alternatives[1].weighted_tokens
    assert found.like and 0 < found.like[0].likeness <= 1


def test_misses_that_cannot_be_chance_are_called_drift_until_they_end() -> None:
    watch = CoverageWatch(0.95)

    def states(answers: Iterable[bool]) -> list[bool]:
        """What the watch says after each answer, without repeats."""
        said: list[bool] = []
        for covered in answers:
            watch.observe(covered=covered)
            said += [watch.drifted] if said[-1:] != [watch.drifted] else []
        return said

    assert states(number % 20 != 0 for number in range(100)) == [False]
    assert watch.observed == 0.95
    assert states([False] * 20) == [False, True]
    assert states(number % 7 != 0 for number in range(300)) == [True]  # 86 %, to and fro about what told it
    assert states([True] * 100) == [True, False]
