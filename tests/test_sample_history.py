"""The sample history is what tale did and nothing else: whole, small, without answers, and made as its script says."""

import random
import re
from pathlib import Path
from typing import Any

import aiohttp
import polars as pl
import pytest
from sqlalchemy import Table, insert

from tale.cli.demo import sample_path
from tale.storage.database import Database
from tale.storage.reader import reading
from tale.storage.sample_file import LEFT_OUT, export_sample, load_sample
from tale.storage.tables import model_calls, task_dependencies, tasks

ROOT = Path(__file__).parent.parent
NOW = 1_800_000_030.0
FEWEST_CALLS = 1_500
MOST_BYTES = 2_000_000
PLACES = re.compile(r"/(home|root|tmp|work|Users|var)/|127\.0\.0\.1")
PARTS = ("queue_s", "load_s", "prefill_s", "decode_s", "other_s")


@pytest.fixture(scope="module")
def sample() -> pl.DataFrame:
    return pl.read_parquet(sample_path())


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


def rows(sample: pl.DataFrame, table: str) -> pl.DataFrame:
    return sample.filter(pl.col("table") == table)


def test_it_holds_many_calls_of_both_models_in_a_small_file(sample: pl.DataFrame) -> None:
    calls = rows(sample, "model_calls")
    assert len(calls) >= FEWEST_CALLS
    assert sample_path().stat().st_size < MOST_BYTES
    held = calls.group_by("model").len().sort("model")
    assert held["model"].to_list() == ["qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b"]
    assert held["len"].min() >= 100
    assert {"chat", "execute", "acknowledge"} <= set(calls["operation"])


def test_calls_and_tasks_end_in_all_the_ways_in_which_they_can(sample: pl.DataFrame) -> None:
    calls, tasks = rows(sample, "model_calls"), rows(sample, "tasks")
    assert set(tasks["status"]) == {"completed", "failed", "cancelled"}
    assert {"Cancelled"} < set(calls["error_class"].drop_nulls())
    assert {"stop", "length"} <= set(calls["finish_reason"].drop_nulls())
    assert {"CheckFailed", "TimeoutError"} <= set(rows(sample, "attempts")["error_class"].drop_nulls())
    assert tasks["attempt"].max() > 1
    assert not rows(sample, "task_dependencies").is_empty()
    assert set(rows(sample, "feedback")["rating"]) == {"good", "bad"}
    assert rows(sample, "tasks")["conversation_id"].drop_nulls().len() > 0


def test_predictions_were_made_before_their_answers_and_most_know_the_truth(sample: pl.DataFrame) -> None:
    predictions = rows(sample, "predictions")
    assert (predictions["made_at"] < predictions["ended_at"].fill_null(float("inf"))).all()
    assert predictions["true_output_tokens"].drop_nulls().len() > 0.8 * len(predictions)
    assert set(predictions["succeeded"]) == {True, False, None}
    assert set(predictions["version"]) <= set(rows(sample, "engine_versions")["id"])


def test_the_figures_of_each_call_agree_with_each_other(sample: pl.DataFrame) -> None:
    calls = rows(sample, "model_calls")
    assert (calls["started_at"] <= calls["ended_at"]).all()
    told = calls.drop_nulls([*PARTS, "total_s"])
    assert len(told) > 0.8 * len(calls)
    assert (told.select(pl.sum_horizontal(PARTS)).to_series() - told["total_s"]).abs().max() < 0.01
    counted = calls.drop_nulls(["input_tokens", "cached_tokens"])
    assert (counted["cached_tokens"] <= counted["input_tokens"]).all()


def test_nothing_is_in_it_that_models_wrote_or_that_names_a_machine(sample: pl.DataFrame) -> None:
    assert not {"result", "content", "summary", "artefact", "engine"} & set(sample.columns)
    texts = [text for name, kind in sample.schema.items() if kind == pl.String for text in sample[name].drop_nulls()]
    assert [text for text in texts if PLACES.search(text)] == []


def test_people_said_nothing_but_what_the_project_wrote_for_them(sample: pl.DataFrame) -> None:
    from sample.people import own_words
    from sample.words import read_words

    words = read_words(ROOT / "data")
    known = {*words.chat, *words.task, *words.status, *(each.text for each in (*words.questions, *words.requests))}
    assert set(rows(sample, "tasks")["text"]) - known - own_words() == set()


def test_each_column_is_told_in_the_readme(sample: pl.DataFrame) -> None:
    section = (ROOT / "data/README.md").read_text("utf-8").split("## sample_history.parquet")[1].split("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", section))
    assert set(sample.columns) - told == set()
    assert {table.name for table in LEFT_OUT} - told == set()


async def test_what_is_loaded_is_what_was_recorded_but_for_the_time(sample: pl.DataFrame, tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    loaded = await load_sample(database, sample_path(), now=NOW)
    await database.close()
    with reading(f"sqlite:///{tmp_path}/tale.db") as reader:
        assert reader is not None
        counts = export_sample(reader, tmp_path / "again.parquet")
    assert counts == loaded.rows
    again = pl.read_parquet(tmp_path / "again.parquet").select(sample.columns)
    moments = [name for name in sample.columns if name == "at" or name.endswith("_at")]
    assert again.drop(moments).equals(sample.drop(moments))
    shifts = pl.concat([(again[name] - sample[name]).drop_nulls() for name in moments])
    assert shifts.max() - shifts.min() < 1e-3 and round(shifts.mean()) % 60 == 0


async def test_a_task_that_has_not_ended_stays_behind_with_all_that_refers_to_it(tmp_path: Path) -> None:
    database = Database.open(f"sqlite:///{tmp_path}/tale.db")
    named = {"created_at": 1.0, "priority": 0, "timeout_s": 9, "attempt": 0, "failures": 0, "text": "Name five rivers."}
    call = {"started_at": 1.0, "role": "ux", "operation": "chat", "model": "m", "provider": "p"}
    made: list[tuple[Table, dict[str, Any]]] = [
        (tasks, {"id": "waits", "status": "queued", "ended_at": None, **named}),
        (tasks, {"id": "given up", "status": "cancelled", "ended_at": 2.0, **named}),
        (task_dependencies, {"task_id": "given up", "after_id": "waits", "position": 0}),
        (model_calls, {"id": "a", "ended_at": 2.0, **call}),
        (model_calls, {"id": "b", "ended_at": None, **call}),
    ]
    for table, row in made:
        await database.write(lambda connection, table=table, row=row: connection.execute(insert(table), row).rowcount)
    await database.close()
    with reading(f"sqlite:///{tmp_path}/tale.db") as reader:
        assert reader is not None
        counts = export_sample(reader, tmp_path / "sample.parquet")
    assert (counts["tasks"], counts["task_dependencies"], counts["model_calls"]) == (1, 0, 1)


class Listener:
    """Servers that keep what they are asked and answer as if all had gone well; plain HTTP they break off."""

    url = "http://127.0.0.1:9"

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    async def call_tool(self, name: str, arguments: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The answer to any tool that people use."""
        self.asked.append((name, arguments))
        talk = {"conversation_id": "c", "reply": "4", "task_id": None}
        return {**talk, "id": "t", "status": "completed", "result": "4", "tasks": [{"id": "t1"}, {"id": "t2"}]}

    def post(self, url: str, *, json: Any) -> Any:
        """Note what was sent, and break off."""
        self.asked.append((url, json))
        raise aiohttp.ClientConnectionError

    def get(self, url: str, **_: Any) -> Any:
        """The same."""
        raise aiohttp.ClientConnectionError


async def test_what_a_visit_asks_for_depends_on_its_number_alone() -> None:
    from sample.people import Person, visit
    from sample.words import read_words

    words = read_words(ROOT / "data")

    async def asked_by(number: int) -> list[tuple[str, Any]]:
        servers: Any = Listener()
        await visit(Person(number, servers, servers, servers, words, random.Random(number)))
        return servers.asked

    every = [await asked_by(number) for number in range(60)]
    assert every == [await asked_by(number) for number in range(60)]
    tools = {name for asked in every for name, _ in asked}
    assert {"conversation", "rate_answer", "submit_task", "submit_tasks", "cancel_task", "record_feedback"} <= tools


def test_tasks_are_none_of_those_that_tale_has_learned_from_beforehand() -> None:
    from sample.words import read_words
    from workload.requests import read_requests

    learned = {each.text for each in read_requests(ROOT / "data/workload/priors.jsonl")}
    assert not {each.text for each in read_words(ROOT / "data").requests} & learned


def test_a_check_that_a_task_states_passes_the_answer_that_is_right() -> None:
    from sample.words import expectation_of, read_words
    from workload.requests import read_lines

    right = {each["id"]: each["right"] for each in read_lines(ROOT / "data/workload/answers.jsonl")}
    stated = [(each, expect) for each in read_words(ROOT / "data").requests if (expect := expectation_of(each))]
    assert len(stated) > 200
    patterns = [(each, expect["regex"]) for each, expect in stated if "regex" in expect]
    failing = [each.id for each, pattern in patterns if not re.search(pattern, right[each.id])]
    assert failing == []
