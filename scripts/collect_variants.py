"""Asks both embedded models the prior requests with other instructions; keeps what it cost and if it was right.

TALE_HOME=~/.tale python scripts/collect_variants.py /some/folder               until all are answered
python scripts/collect_variants.py /some/folder --minutes 60                    goes on where it stopped

A model is asked the requests that scripts/collect_priors.py has its answer to. data/workload/variants.jsonl gets what
each answer cost and whether it was right, data/priors/variants.jsonl the same as attempts at tasks. The number of words
that the variant "limited" names is that of an engine that has learned from other requests.
"""

import argparse
import asyncio
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
from collect_priors import CAP_TOKENS, DATA, ROLES, environment_of, link_models, recorded, service, told, until_up
from workload.checks import is_right
from workload.requests import Request, read_lines, read_requests, short_hash, shuffled

from tale.learning.intent_data import data_folder
from tale.learning.performance_engine import PerformanceEngine
from tale.learning.priors import PRIORS, read_priors
from tale.learning.prompts import DEFAULT, STATED, VARIANTS, instruction_of, words_of_tokens
from tale.orchestration.task_prompt import TASK_TEMPERATURE
from tale.predictions import PastAttempt, TaskQuestion, is_whole
from tale.records import Role
from tale.traces import new_trace_id

RUNS: Final = DATA / "workload/variants.jsonl"
FOLDS: Final = 5
Job = tuple[Request, str]


def stated_tokens(requests: Sequence[Request], known: Sequence[PastAttempt]) -> dict[tuple[str, Role], int]:
    """How long answers will be, by engines that know nothing of a request, nor of one like it."""
    priors = [row for row in known if row.variant == DEFAULT]
    fold_of = {each.id: int(short_hash(each.of or each.id), 16) % FOLDS for each in requests}
    found: dict[tuple[str, Role], int] = {}
    for fold in range(FOLDS):
        engine = PerformanceEngine(trees=80).fit([row for row in priors if fold_of.get(row.task_id) != fold])
        for request in (each for each in requests if fold_of[each.id] == fold):
            for role in ("ux", "task"):
                question = TaskQuestion(request.text, 2_048, role=role, again=True)
                found[request.id, role] = engine.predict(question).output_tokens
    return found


async def answered(
    http: aiohttp.ClientSession, url: str, home: Path, model: str, job: Job, tokens: int
) -> dict[str, Any]:
    """What came of a request with a variant of the instructions."""
    request, variant = job
    trace = new_trace_id()
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": instruction_of(variant, tokens)},
            {"role": "user", "content": request.text},
        ],
        "max_tokens": CAP_TOKENS,
        "temperature": TASK_TEMPERATURE,
    }
    headers = {"traceparent": f"00-{trace}-{trace[:16]}-01"}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        choice = (await response.json())["choices"][0]
    figures = recorded(home / "tale.db", trace)
    named = {"request": request.id, "kind": request.kind, "text": request.text_hash, "model": model, "variant": variant}
    return named | {
        **({"stated_words": words_of_tokens(tokens)} if variant == STATED else {}),
        "input_tokens": figures["input_tokens"],
        "output_tokens": figures["output_tokens"],
        "finish_reason": choice["finish_reason"],
        "success": await asyncio.to_thread(is_right, request.check, choice["message"]["content"] or ""),
    }


async def collect(url: str, home: Path, *, until: float) -> None:
    """Ask what is missing until the clock (Unix seconds) says stop, each model one thing at a time."""
    done = {(line["request"], line["model"], line["variant"]) for line in read_lines(RUNS)}
    requests = shuffled(read_requests(DATA / "workload/priors.jsonl"))
    asked = {(line["request"], line["model"]) for line in read_lines(DATA / "workload/runs.jsonl")}
    lengths = stated_tokens(requests, read_priors(data_folder() / PRIORS))

    async def lane(http: aiohttp.ClientSession, model: str, jobs: Iterator[Job]) -> None:
        for job in jobs:
            if time.time() >= until:
                break
            line = await answered(http, url, home, model, job, lengths[job[0].id, ROLES[model]])
            with RUNS.open("a", encoding="utf-8") as file:
                file.write(told(line))

    limits = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=limits, raise_for_status=True) as http:
        await until_up(http, url)
        variants = [name for name in VARIANTS if name != DEFAULT]
        missing = {
            model: [
                (each, name)
                for each in requests
                for name in variants
                if (each.id, model) in asked and (each.id, model, name) not in done
            ]
            for model in ROLES
        }
        await asyncio.gather(*(lane(http, model, iter(jobs)) for model, jobs in missing.items()))


def write_priors() -> int:
    """Write the runs as attempts at tasks; returns how many there are.

    What an answer that was cut would have come to is not known: tale does not cut so early.
    """
    texts = {request.id: request.text for request in read_requests(DATA / "workload/priors.jsonl")}
    lines = [
        {
            "task_id": run["request"],
            "ended_at": 0.0,
            "text": texts[run["request"]],
            "role": ROLES[run["model"]],
            "model": run["model"],
            "output_tokens": run["output_tokens"],
            "finish_reason": run["finish_reason"],
            "succeeded": run["success"] if is_whole(run["output_tokens"], run["finish_reason"]) else None,
            "variant": run["variant"],
        }
        for run in read_lines(RUNS)
    ]
    (DATA / "priors/variants.jsonl").write_text("".join(map(told, lines)), "utf-8")
    return len(lines)


def main() -> None:
    """Collect, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="folder of the service, kept between runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop asking after this time")
    parser.add_argument("--threads", type=int, help="of each engine; default: the cores")
    options = parser.parse_args()
    if options.minutes > 0:
        until = time.time() + options.minutes * 60
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service ends with us
        link_models(options.home)
        with service(options.home, environment_of(options.home, options.threads)) as url:
            asyncio.run(collect(url, options.home, until=until))
    print(f"{write_priors()} attempts are in variants.jsonl.")


if __name__ == "__main__":
    main()
