"""The project's own requests: each can be checked, priors and savings share nothing, code in answers is confined."""

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes.past_attempts import past

from tale.learning.prompts import VARIANTS

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
WORKLOAD = DATA / "workload"
SHARES = {"chat": 0.4, "simple": 0.3, "code": 0.2, "repeat": 0.1}
ALIKE = 0.45  # share of four-letter pieces in common, beyond which two texts look made from one pattern


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def pieces(text: str) -> set[str]:
    letters = " ".join(re.findall(r"\w+", text.casefold()))
    return {letters[place : place + 4] for place in range(max(1, len(letters) - 3))}


def is_right(check: dict[str, Any], answer: str) -> bool:
    from workload.checks import is_right

    return is_right(check, answer)


@pytest.mark.parametrize(("name", "least"), [("priors", 400), ("savings", 440)])
def test_each_kind_of_request_has_its_share(name: str, least: int) -> None:
    kinds = Counter(line["kind"] for line in lines_of(WORKLOAD / f"{name}.jsonl"))
    assert kinds.total() >= least and set(kinds) == set(SHARES)
    assert all(abs(kinds[kind] / kinds.total() - share) < 0.01 for kind, share in SHARES.items()), kinds


@pytest.mark.parametrize("name", ["priors", "savings"])
def test_a_near_repeat_names_an_earlier_request_whose_text_is_another(name: str) -> None:
    before: dict[str, str] = {}
    for line in lines_of(WORKLOAD / f"{name}.jsonl"):
        assert (line["kind"] == "repeat") == ("of" in line)
        assert line["text"] not in before.values() and line["id"] not in before
        assert "of" not in line or line["of"] in before
        before[line["id"]] = line["text"]


def test_each_check_passes_a_right_answer_and_fails_a_wrong_one() -> None:
    from workload.checks import all_right

    checks = {
        line["id"]: line["check"] for name in ("priors", "savings") for line in lines_of(WORKLOAD / f"{name}.jsonl")
    }
    samples = lines_of(WORKLOAD / "answers.jsonl")
    assert [line["id"] for line in samples] == list(checks)
    right = all_right([(checks[line["id"]], line["right"]) for line in samples])
    wrong = all_right([(checks[line["id"]], line["wrong"]) for line in samples])
    refused = [line["id"] for line, passed in zip(samples, right, strict=True) if not passed]
    let_through = [line["id"] for line, passed in zip(samples, wrong, strict=True) if passed]
    assert (refused, let_through) == ([], [])


def test_priors_and_savings_share_neither_text_nor_pattern() -> None:
    priors, savings = (
        [(line["id"], pieces(line["text"])) for line in lines_of(WORKLOAD / f"{name}.jsonl")]
        for name in ("priors", "savings")
    )
    alike = [
        (one, other)
        for one, ours in priors
        for other, theirs in savings
        if ALIKE < len(ours) / len(theirs) < 1 / ALIKE and len(ours & theirs) > ALIKE * len(ours | theirs)
    ]
    assert alike == []


def test_runs_and_priors_are_of_requests_as_they_are_now() -> None:
    from workload.requests import read_requests

    requests = {request.id: request for request in read_requests(WORKLOAD / "priors.jsonl")}
    runs = lines_of(WORKLOAD / "runs.jsonl")
    assert len({(run["request"], run["model"]) for run in runs}) == len(runs)
    assert [run for run in runs if requests[run["request"]].text_hash != run["text"]] == []
    known = {(run["request"], run["model"], run["output_tokens"], run["success"]) for run in runs}
    for prior in lines_of(DATA / "priors/priors.jsonl"):
        assert (prior["task_id"], prior["model"], prior["output_tokens"], prior["succeeded"]) in known
        assert prior["text"] == requests[prior["task_id"]].text


@pytest.mark.parametrize(
    ("check", "answer", "right"),
    [
        ({"kind": "contains_any", "values": ["Bogota"]}, "It is **Bogotá**.", True),
        ({"kind": "contains_any", "values": ["bat"]}, "It is the wombat.", False),
        ({"kind": "contains_any", "values": ["東京"]}, "東京です。", True),
        ({"kind": "contains_any", "values": ["yes"], "unless": ["no"]}, "Yes and no.", False),
        ({"kind": "contains_all", "values": ["red", "blue|azure"]}, "Azure and red", True),
        ({"kind": "contains_all", "values": ["red", "blue"]}, "Red", False),
        ({"kind": "regex", "pattern": "^a,b$"}, "```csv\na,b\n```", True),
        ({"kind": "number", "value": 1024}, "2 to the power of 10 is 1,024.", True),
        ({"kind": "number", "value": 10}, "10 is the exponent, so the result is 1024", False),
        ({"kind": "number", "value": -3}, "x = \u22123", True),
        ({"kind": "number", "value": 3.14, "tolerance": 0.01}, "about 3.1416", True),
        ({"kind": "number", "value": 5}, "I cannot say.", False),
        ({"kind": "exact_set", "values": ["a", "b"]}, "Here they are:\n1. b\n2. a", True),
        ({"kind": "exact_set", "values": ["a", "b"], "ordered": True}, "b, a", False),
        ({"kind": "exact_set", "values": ["a", "b"]}, "a, b and c", False),
        ({"kind": "json_schema", "schema": {"const": {"a": 1}}}, 'Sure: {"a": 1} is it.', True),
        ({"kind": "json_schema", "schema": {"const": {"a": 1}}}, "{'a': 1}", False),
        ({"kind": "json_schema", "schema": {"const": {"a": 1}}}, "none", False),
        ({"kind": "python_tests", "tests": "assert f(2) == 4"}, "def f(n):\n    return n * 2", True),
        ({"kind": "python_tests", "tests": "assert f(2) == 4"}, "Use this:\n```\nf = lambda n: n * 2\n```", True),
        ({"kind": "python_tests", "tests": "assert f(2) == 4"}, "```python\ndef f(n)\n```", False),
    ],
)
def test_a_check_takes_an_answer_as_a_careful_reader_would(check: dict[str, Any], answer: str, right: bool) -> None:
    assert is_right(check, answer) is right


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "held = bytearray(2**30)",
        "input()",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import os; os.remove('OUTSIDE')",
        "open('OUTSIDE', 'w')",
        "open('here', 'w').write('x' * 2**22)",
    ],
)
def test_code_that_runs_wild_neither_passes_nor_gets_away(code: str, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.write_text("as it was")
    tame = "from __future__ import annotations\nopen('here', 'w').write('x')"
    answers = [f"```python\n{text}\n```" for text in (code.replace("OUTSIDE", str(outside)), tame)]
    check = {"kind": "python_tests", "tests": "assert True"}
    assert [is_right(check, answer) for answer in answers] == [False, True]
    assert outside.read_text() == "as it was"


CALLS = """CREATE TABLE model_calls (trace_id, ended_at, input_tokens, output_tokens, cached_tokens, queue_s, load_s,
    prefill_s, decode_s, total_s)"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A gateway whose larger model knows that one and one is two, and what it was asked."""
    asked: list[dict[str, Any]] = []
    database = sqlite3.connect(tmp_path / "tale.db", isolation_level=None)
    database.execute(CALLS)

    async def chat(request: web.Request) -> web.Response:
        asked.append(await request.json())
        trace = request.headers.get("traceparent", "-none-").split("-")[1]
        figures = (trace, 1_800_000_000 + len(asked), 30, 4, 0, 0.0, 0.0, 0.1, 0.2, 0.3)
        database.execute(f"INSERT INTO model_calls VALUES ({', '.join('?' * len(figures))})", figures)
        text = "It is 2." if asked[-1]["model"].endswith("1.5b") else "It is 3."
        return web.json_response({"choices": [{"finish_reason": "stop", "message": {"content": text}}]})

    async def live(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/health/live", live), web.post("/v1/chat/completions", chat)])
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/"), asked
    database.close()


async def test_what_was_answered_is_not_asked_again_but_can_be_judged_anew(
    tmp_path: Path, gateway: tuple[str, list[dict[str, Any]]]
) -> None:
    from collect_priors import Folders, check_again, collect, write_priors

    url, asked = gateway
    folders = Folders(tmp_path, tmp_path / "requests.jsonl", tmp_path / "runs.jsonl", tmp_path / "priors" / "all.jsonl")

    def ask_for(number: int) -> None:
        request = {"id": "a", "kind": "simple", "text": "1 + 1?", "check": {"kind": "number", "value": number}}
        folders.requests.write_text(json.dumps(request) + "\n")

    ask_for(2)
    assert [await collect(url, folders, until=time.time() + 600) for _ in range(2)] == [2, 0]
    assert sorted(body["model"][-4:] for body in asked) == ["0.5b", "1.5b"]
    assert {(body["max_tokens"], body["messages"][1]["content"]) for body in asked} == {(2_048, "1 + 1?")}
    assert {run["model"][-4:]: run["success"] for run in lines_of(folders.runs)} == {"0.5b": False, "1.5b": True}
    ask_for(3)
    check_again(folders)
    assert write_priors(folders) == 2
    assert {prior["role"]: prior["succeeded"] for prior in lines_of(folders.priors)} == {"ux": True, "task": False}
    assert await collect(url, folders, until=0.0) == 0


def test_whether_an_answer_that_was_cut_was_right_counts_as_unknown() -> None:
    runs = lines_of(WORKLOAD / "variants.jsonl")
    cut = [run["finish_reason"] == "length" and run["output_tokens"] < 2_048 for run in runs]  # others never end
    whole = [None if was_cut else run["success"] for was_cut, run in zip(cut, runs, strict=True)]
    assert None in whole
    assert [prior["succeeded"] for prior in lines_of(DATA / "priors/variants.jsonl")] == whole


def test_an_answer_that_its_recording_cut_is_neither_learned_as_wrong_nor_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from savings_replay import NEEDED, attempts, read_runs, replayable
    from workload.requests import read_requests

    requests, runs = read_requests(WORKLOAD / "priors.jsonl"), read_runs()
    cut = {key for key, run in runs.items() if run["finish_reason"] == "length" and run["output_tokens"] == 256}
    learned = {(each.task_id, each.role, each.variant): each.succeeded for each in attempts(requests, runs)}
    assert {learned[key] for key in cut if key in learned} == {None}
    answered = {each.id for each in requests if all((each.id, *way) in runs for way in NEEDED)}
    replayed = {each.id for each in replayable(requests, runs)}
    assert replayed == answered - {name for name, *way in cut if tuple(way) in NEEDED} != answered


def test_how_long_an_answer_is_said_to_be_is_told_by_attempts_at_other_requests() -> None:
    from collect_variants import stated_tokens
    from workload.requests import read_requests

    requests = read_requests(WORKLOAD / "priors.jsonl")[:10]
    others, first = past(60, roles=("task",)), requests[0]
    theirs = [replace(row, task_id=first.id, text=first.text, output_tokens=1_500) for row in others[:5]]
    told = stated_tokens(requests, [*others, *theirs])
    assert set(told) == {(each.id, role) for each in requests for role in ("ux", "task")}
    assert told[first.id, "task"] < 700


def test_priors_are_attempts_that_the_learning_engine_can_read() -> None:
    from tale.learning.priors import read_priors

    rows = read_priors(DATA / "priors")
    assert {row.role for row in rows} == {"ux", "task"} and all(row.output_tokens is not None for row in rows)


def test_each_policy_has_settings_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from token_savings import POLICIES

    from tale.settings import load_settings

    assert {"naive", "naive, concise", "tale", "tale without variants", "tale without limits"} <= set(POLICIES)
    for policy in POLICIES.values():
        load_settings({**policy.settings, "backend": "embedded"}, environment={}, folder=ROOT / "tests")


async def test_the_concise_baseline_replaces_the_instructions_as_the_replay_does(
    monkeypatch: pytest.MonkeyPatch, gateway: tuple[str, list[dict[str, Any]]]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from token_savings import as_concise_call

    class Service:
        def url(self, role: str) -> str:
            return gateway[0]

    assert await as_concise_call(Service(), None, "1 + 1?") == "It is 2."
    ((body,),) = (gateway[1],)
    assert [message["content"] for message in body["messages"]] == [VARIANTS["direct"], "1 + 1?"]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("qwen2.5-coder:1.5b", 2_048, 0.2)


def test_savings_are_told_with_intervals_that_hold_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from token_savings import Outcome, share_of, success_lost

    def outcomes(policy: str, tokens: int, wrong: int) -> list[Outcome]:
        return [
            Outcome(
                policy, f"r{n}", f"c{n // 2}", "chat", "", n >= wrong, tokens, tokens + n, tokens, tokens, 1, 0, 1.0
            )
            for n in range(100)
        ]

    naive, ours = outcomes("naive", 100, wrong=10), outcomes("tale", 40, wrong=20)
    assert share_of("output_tokens", ours, naive) == pytest.approx((40, 40, 40))
    share, low, high = share_of("all_tokens", ours, naive)
    assert low < share < high
    lost, least, most = success_lost(ours, naive)
    assert lost == pytest.approx(10) and 0 < least < lost < most < 25
