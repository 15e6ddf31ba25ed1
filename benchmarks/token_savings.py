"""How many tokens does tale need, beside sending everything to the task model, and is it right as often?

python benchmarks/token_savings.py                        20 requests: shows that it works, proves nothing
python benchmarks/token_savings.py --full                 all of data/workload/savings.jsonl; limits are judged
python benchmarks/token_savings.py --requests 100 --policies 'naive; tale' --keep outcomes.jsonl

A full run takes some three hours. With --keep it can be ended and begun again: what a policy has done to its end is
taken from the file. Keep one file for one version of tale on one machine.

Each policy gets a service of its own and the same requests, one after the other. A request costs what the service
recorded of all calls from its start until none was open any more: the answer, retries, acknowledgements, detection,
shadows. A weighted token is one of the task model's; one of the small model counts by its share of the parameters.
"naive, concise" is what instructions alone bring: the task model is told "direct" in place of a task's own ones.
Trimming cannot be taken out: it is done with conversations alone, and each request is a text by itself.
Answers are judged by the request's check, which no model and no policy gets to see. Intervals are from a paired
bootstrap over requests; a request and its near-repeats are drawn together.
"""

import argparse
import asyncio
import json
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from harness import Row, ServiceUnderTest, running_service, show, until_models_ready
from rich.console import Console
from rich.table import Table

from tale.learning.prompts import instruction_of
from tale.mcp.http_client import HTTPMCPClient
from tale.models.choice import EMBEDDED_MODELS
from tale.monitoring.targets import limit_of
from tale.orchestration.task_prompt import TASK_TEMPERATURE

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from workload.checks import is_right
from workload.requests import Request, read_requests, shuffled

REQUESTS = Path(__file__).parent.parent / "data/workload/savings.jsonl"
WEIGHTS = {"qwen2.5-coder:0.5b": 0.494 / 1.544, "qwen2.5-coder:1.5b": 1.0}  # billions of parameters, by their makers
CAP_TOKENS = 2_048
CONCISE = "direct"  # of the instructions that tale knows, the shortest that everything can be told
TASK_LIMIT_S = 1_800
SHORT_RUN = 20
RESAMPLES = 10_000
SEED = 7
MOST_WEIGHTED = 100 * (1 - limit_of("token_savings"))  # % of naive
MOST_LOST = 5.0  # points of success, at the upper end of the interval
SHARES = {
    "output": "output_tokens",
    "all": "all_tokens",
    "weighted output": "weighted_output_tokens",
    "weighted": "weighted_tokens",
    "time": "total_s",
}


@dataclass(frozen=True)
class Policy:
    """How a request becomes an answer ("" where it becomes none), and the settings of the service that does it."""

    answer: Callable[[ServiceUnderTest, HTTPMCPClient, str], Awaitable[str]]
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one request cost under one policy, and what came of it."""

    policy: str
    request: str
    cluster: str
    kind: str
    text: str
    right: bool
    output_tokens: int
    all_tokens: int
    weighted_output_tokens: float
    weighted_tokens: float
    calls: int
    untold_calls: int  # that ended before their engine told their tokens: what they cost is missing here
    total_s: float


async def as_task(service: ServiceUnderTest, client: HTTPMCPClient, text: str) -> str:
    """Hand the text in as a task and wait for its end."""
    task = await client.call_tool("submit_task", {"text": text})
    while task["status"] not in ("completed", "failed", "cancelled"):
        task = await client.call_tool("wait_for_task", {"task_id": task["id"], "timeout_s": 60})
    return (task["result"] or "") if task["status"] == "completed" else ""


async def as_concise_call(service: ServiceUnderTest, client: HTTPMCPClient, text: str) -> str:
    """Ask the task model what a task would ask it, but for the instructions."""
    body = {
        "model": EMBEDDED_MODELS[1],
        "messages": [
            {"role": "system", "content": instruction_of(CONCISE, None)},
            {"role": "user", "content": text},
        ],
        "max_tokens": CAP_TOKENS,
        "temperature": TASK_TEMPERATURE,
    }
    limits = aiohttp.ClientTimeout(total=TASK_LIMIT_S)
    async with (
        aiohttp.ClientSession(timeout=limits) as http,
        http.post(f"{service.url('gateway')}/v1/chat/completions", json=body) as response,
    ):
        told = await response.json()
    return (told["choices"][0]["message"]["content"] or "") if response.ok else ""


FIXED = {"routing": "off", "learning": "off", "acknowledge": "false", "max_output_tokens": CAP_TOKENS}
POLICIES = {  # to take out one more part of tale, give it a setting and add a line
    "naive": Policy(as_task, FIXED),
    "naive, concise": Policy(as_concise_call, FIXED),
    "tale": Policy(as_task),
    "tale without routing": Policy(as_task, {"routing": "off"}),
    "tale without variants": Policy(as_task, {"learned_instructions": "off"}),
    "tale without limits": Policy(as_task, {"learned_limits": "off"}),
    "tale without learning": Policy(as_task, {"learning": "off"}),
    "tale without acknowledging": Policy(as_task, {"acknowledge": "false"}),
}


async def run_policy(name: str, requests: Sequence[Request]) -> list[Outcome]:
    """Put the requests to a service of the policy's own."""
    policy = POLICIES[name]
    with running_service(backend="embedded", task_timeout_s=TASK_LIMIT_S, **policy.settings) as service:
        async with service.client() as client:
            await until_models_ready(client, "ux")
            await policy.answer(service, client, "Say hello.")  # loads the task model, where the policy uses it
            outcomes: list[Outcome] = []
            for request in requests:
                print(f"{name}: {len(outcomes)} of {len(requests)}", end="\r", file=sys.stderr, flush=True)
                outcomes.append(await run_request(name, request, service, client))
            return outcomes


async def run_request(name: str, request: Request, service: ServiceUnderTest, client: HTTPMCPClient) -> Outcome:
    """One request, from handing it in until nothing is open."""
    began, start = time.time(), time.perf_counter()
    text = await POLICIES[name].answer(service, client, request.text)
    total_s = time.perf_counter() - start
    calls = await calls_since(service.home / "tale.db", began)
    costs = [(WEIGHTS[call["model"]], call["input_tokens"] or 0, call["output_tokens"] or 0) for call in calls]
    return Outcome(
        policy=name,
        request=request.id,
        cluster=request.of or request.id,
        kind=request.kind,
        text=text,
        right=is_right(request.check, text),
        output_tokens=sum(written for _, _, written in costs),
        all_tokens=sum(read + written for _, read, written in costs),
        weighted_output_tokens=sum(weight * written for weight, _, written in costs),
        weighted_tokens=sum(weight * (read + written) for weight, read, written in costs),
        calls=len(calls),
        untold_calls=sum(call["output_tokens"] is None for call in calls),
        total_s=total_s,
    )


async def calls_since(database: Path, began: float) -> list[dict[str, Any]]:
    """The model calls that began since then, when none of them is open any more."""
    query = "SELECT model, input_tokens, output_tokens, ended_at FROM model_calls WHERE started_at >= ?"
    while True:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            calls = [dict(row) for row in connection.execute(query, (began,))]
        finally:
            connection.close()
        if all(call["ended_at"] is not None for call in calls):
            return calls
        await asyncio.sleep(0.05)


def read_kept(path: Path, requests: Sequence[Request]) -> dict[str, list[Outcome]]:
    """The outcomes of the policies that the file holds for all of these requests; none where there is no file."""
    kept: defaultdict[str, dict[str, Outcome]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        outcome = Outcome(**json.loads(line))
        kept[outcome.policy][outcome.request] = outcome
    wanted = [request.id for request in requests]
    return {name: [own[each] for each in wanted] for name, own in kept.items() if own.keys() >= set(wanted)}


def keep(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Add outcomes to the file, one JSON object a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(outcome), ensure_ascii=False) + "\n" for outcome in outcomes)


def resampled(outcomes: Sequence[Outcome]) -> np.ndarray:
    """How often each request is drawn, (RESAMPLES, n): whole clusters, with replacement, alike for all policies."""
    clusters = sorted({outcome.cluster for outcome in outcomes})
    place = [clusters.index(outcome.cluster) for outcome in outcomes]
    random = np.random.default_rng(SEED)
    return random.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)), RESAMPLES)[:, place]


def with_interval(estimate: float, draws: np.ndarray) -> tuple[float, float, float]:
    """The estimate with its 95 % interval."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return estimate, float(low), float(high)


def share_of(name: str, ours: Sequence[Outcome], naive: Sequence[Outcome]) -> tuple[float, float, float]:
    """The sum of a figure as percent of naive's, with its interval."""
    a, b = (np.array([getattr(outcome, name) for outcome in each], float) for each in (ours, naive))
    drawn = resampled(naive)
    return with_interval(100 * a.sum() / b.sum(), 100 * (drawn @ a) / (drawn @ b))


def success_lost(ours: Sequence[Outcome], naive: Sequence[Outcome]) -> tuple[float, float, float]:
    """Points of success less than naive, with the interval."""
    lost = np.array([float(b.right) - float(a.right) for a, b in zip(ours, naive, strict=True)])
    drawn = resampled(naive)
    return with_interval(100 * lost.mean(), 100 * (drawn @ lost) / drawn.sum(axis=1))


def right_share(outcomes: Sequence[Outcome]) -> float:
    """Percent that are right."""
    return 100 * sum(outcome.right for outcome in outcomes) / len(outcomes)


def show_policies(found: Mapping[str, Sequence[Outcome]]) -> None:
    """Print each policy beside naive, and how many answers were right by kind."""
    naive = found["naive"]
    kinds = sorted({outcome.kind for outcome in naive})
    table = Table(title=f"{len(naive)} requests; shares in % of naive, with 95 % intervals", title_justify="left")
    for column in ("policy", *SHARES, "points lost", "calls", "untold", "right %", *kinds):
        table.add_column(column)
    for name, ours in found.items():
        figures = [share_of(figure, ours, naive) for figure in SHARES.values()] + [success_lost(ours, naive)]
        by_kind = [[outcome for outcome in ours if outcome.kind == kind] for kind in kinds]
        table.add_row(
            name,
            *(f"{value:z.0f} ({low:z.0f} to {high:z.0f})" for value, low, high in figures),
            str(sum(outcome.calls for outcome in ours)),
            str(sum(outcome.untold_calls for outcome in ours)),
            *(f"{right_share(some):.0f}" for some in (ours, *by_kind)),
        )
    Console(width=200).print(table)


def main() -> int:
    """Run the policies; shares and success beside naive, and the two goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=SHORT_RUN, help=f"how many; default {SHORT_RUN}")
    parser.add_argument("--full", action="store_true", help="all requests, and the limits are judged")
    parser.add_argument("--policies", default=";".join(POLICIES), help=f"some of: {'; '.join(POLICIES)}")
    parser.add_argument("--keep", type=Path, help="file for the outcomes, and of those that are known already")
    given = parser.parse_args()
    chosen = {name.strip() for name in given.policies.split(";")} | {"naive"}
    if unknown := sorted(chosen - set(POLICIES)):
        parser.error(f"There is no policy {unknown[0]!r}; choose from {'; '.join(POLICIES)}.")
    requests = shuffled(read_requests(REQUESTS))[: None if given.full else given.requests]
    kept = read_kept(given.keep, requests) if given.keep else {}
    found: dict[str, list[Outcome]] = {}
    for name in (name for name in POLICIES if name in chosen):
        found[name] = kept.get(name) or asyncio.run(run_policy(name, requests))
        if given.keep and name not in kept:
            keep(given.keep, found[name])
    if taken := [name for name in found if name in kept]:
        print(f"Not run now but taken from {given.keep}: {'; '.join(taken)}.")
    show_policies(found)
    if "tale" not in found:
        return 0
    weighted, _, _ = share_of("weighted_tokens", found["tale"], found["naive"])
    _, _, lost = success_lost(found["tale"], found["naive"])
    limits = (MOST_WEIGHTED, MOST_LOST) if given.full else (None, None)
    return show(
        f"tale beside naive, {len(requests)} requests",
        [
            Row("weighted tokens, of naive's", weighted, "%", limits[0]),
            Row("success lost, upper end of the interval", lost, "points", limits[1]),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
