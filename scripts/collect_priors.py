"""Asks both embedded models each prior request, through a tale service; keeps what it cost and if it was right.

TALE_HOME=~/.tale python scripts/collect_priors.py /some/folder                until all are answered
python scripts/collect_priors.py /some/folder --minutes 60                     goes on where it stopped
python scripts/collect_priors.py /some/folder --check-again                    after a change of checks; asks nothing

The folder becomes the service's home; the model files of TALE_HOME are linked into it. A task's own instructions, its
temperature and a cap of 2,048 tokens are used; nothing is acknowledged, routed or cut. The answers stay in the folder
(answers.jsonl). data/workload/runs.jsonl gets what each cost, its length and its hash; data/priors/priors.jsonl is the
same as attempts at tasks, for tale to learn from. What was answered is not asked again, unless its text has changed.
"""

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiohttp
from free_ports import free_ports
from workload.checks import all_right, is_right
from workload.requests import Request, read_lines, read_requests, short_hash, shuffled

from tale.models.catalog import find_model
from tale.models.choice import EMBEDDED_MODELS, TASK_SLOTS, UX_SLOTS
from tale.orchestration.task_prompt import TASK_TEMPERATURE, messages_for
from tale.records import Task, TaskStatus
from tale.traces import new_trace_id

DATA: Final = Path(__file__).parent.parent / "data"
CAP_TOKENS: Final = 2_048
START_LIMIT_S: Final = 60.0
FIGURES: Final = "ended_at, input_tokens, output_tokens, cached_tokens, queue_s, load_s, prefill_s, decode_s, total_s"
SECONDS_DIGITS: Final = 4
ROLES: Final = dict(zip(EMBEDDED_MODELS, ("ux", "task"), strict=True))


@dataclass(frozen=True)
class Folders:
    """Where requests come from, and where what came of them goes."""

    home: Path
    requests: Path = DATA / "workload/priors.jsonl"
    runs: Path = DATA / "workload/runs.jsonl"
    priors: Path = DATA / "priors/priors.jsonl"

    @property
    def answers(self) -> Path:
        """The texts of the answers, which are not shipped."""
        return self.home / "answers.jsonl"


def environment_of(home: Path, threads: int | None) -> dict[str, str]:
    """Variables of a service that asks whom it is told to, and nobody else."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    ports = {f"TALE_{role.upper()}_PORT": str(port) for role, port in free_ports().items()}
    chosen = {"HOME": home, "BACKEND": "embedded", "LEARNING": "off", "PREWARM": "false", "IDLE_STOP_S": 0}
    if threads:
        chosen["ENGINE_THREADS"] = threads
    return clean | ports | {f"TALE_{name}": str(value) for name, value in chosen.items()}


def link_models(home: Path) -> None:
    """Link the models of TALE_HOME into the home, where they are not yet."""
    source = Path(os.environ.get("TALE_HOME", "~/.tale")).expanduser() / "models"
    (home / "models").mkdir(parents=True, exist_ok=True)
    for path in source.glob("*"):
        if not (home / "models" / path.name).exists():
            os.link(path, home / "models" / path.name)


@contextmanager
def service(home: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The address of a gateway that is being started; it is ended afterwards."""
    url = f"http://127.0.0.1:{environment['TALE_GATEWAY_PORT']}"
    command = [sys.executable, "-m", "tale.servers.bootstrap", "--roles", "gateway,execution"]
    with (home / "output.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(START_LIMIT_S)


async def until_up(http: aiohttp.ClientSession, url: str) -> None:
    """Return when the gateway answers."""
    async with asyncio.timeout(START_LIMIT_S):
        while True:
            try:
                async with http.get(f"{url}/health/live"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


async def answer_of(http: aiohttp.ClientSession, url: str, model: str, request: Request) -> tuple[str, str, str]:
    """Trace, finish reason and text of the model's answer."""
    trace = new_trace_id()
    task = Task(trace, request.text, TaskStatus.QUEUED, created_at=0.0)
    body = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages_for(task)],
        "max_tokens": CAP_TOKENS,
        "temperature": TASK_TEMPERATURE,
    }
    headers = {"traceparent": f"00-{trace}-{trace[:16]}-01"}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        choice = (await response.json())["choices"][0]
    return trace, choice["finish_reason"], choice["message"]["content"] or ""


def recorded(database: Path, trace: str) -> dict[str, Any]:
    """What tale recorded of the call of that trace."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        query = f"SELECT {FIGURES} FROM model_calls WHERE trace_id = ? AND ended_at IS NOT NULL"
        found = connection.execute(query, (trace,)).fetchone()
    finally:
        connection.close()
    values = zip(FIGURES.split(", "), found, strict=True)
    return {name: round(value, SECONDS_DIGITS) if isinstance(value, float) else value for name, value in values}


def told(line: Mapping[str, Any]) -> str:
    """A line of a file with one object a line."""
    return json.dumps(line, ensure_ascii=False) + "\n"


async def collect(url: str, folders: Folders, *, until: float) -> int:
    """Ask what is missing until the clock (Unix seconds) says stop; returns how many answers came.

    Each model is asked as many things at a time as it has slots, and does not wait for the other.
    """
    done = {(line["request"], line["model"], line["text"]) for line in read_lines(folders.runs)}
    limits = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=limits, raise_for_status=True) as http:
        await until_up(http, url)
        lanes: list[Coroutine[None, None, int]] = []
        for model, slots in zip(EMBEDDED_MODELS, (UX_SLOTS, TASK_SLOTS), strict=True):
            missing = iter(
                [
                    request
                    for request in shuffled(read_requests(folders.requests))
                    if (request.id, model, request.text_hash) not in done
                ]
            )
            lanes += [lane(http, url, folders, model, missing, until=until) for _ in range(slots)]
        return sum(await asyncio.gather(*lanes))


async def lane(
    http: aiohttp.ClientSession, url: str, folders: Folders, model: str, missing: Iterator[Request], *, until: float
) -> int:
    """Ask one after the other of what is missing of a model; returns how many answers came."""
    asked = 0
    versions = {"tale": version("tale"), "xllamacpp": version("xllamacpp")}
    for request in missing:
        if time.time() >= until:
            break
        trace, finish_reason, answer = await answer_of(http, url, model, request)
        named = {"request": request.id, "kind": request.kind, "text": request.text_hash, "model": model}
        kept = {
            "finish_reason": finish_reason,
            "success": await asyncio.to_thread(is_right, request.check, answer),
            "answer_characters": len(answer),
            "answer_hash": short_hash(answer),
            "model_sha256": find_model(model).sha256[:16],
        }
        for path, line in (
            (folders.answers, named | {"answer": answer}),
            (folders.runs, named | recorded(folders.home / "tale.db", trace) | kept | versions),
        ):
            with path.open("a", encoding="utf-8") as file:
                file.write(told(line))
        asked += 1
    return asked


def check_again(folders: Folders) -> None:
    """Write the successes anew by the checks as they are now; runs whose answer or request is gone are dropped."""
    requests = {request.id: request for request in read_requests(folders.requests)}
    answers = {short_hash(line["answer"]): line["answer"] for line in read_lines(folders.answers)}
    runs = [
        run
        for run in read_lines(folders.runs)
        if run["answer_hash"] in answers
        and run["request"] in requests
        and requests[run["request"]].text_hash == run["text"]
    ]
    verdicts = all_right([(requests[run["request"]].check, answers[run["answer_hash"]]) for run in runs])
    lines = [told(run | {"success": verdict}) for run, verdict in zip(runs, verdicts, strict=True)]
    folders.runs.write_text("".join(lines), "utf-8")


def write_priors(folders: Folders) -> int:
    """Write the runs of requests as they are now as attempts at tasks; returns how many there are."""
    requests = {request.id: request for request in read_requests(folders.requests)}
    priors = [
        {
            "task_id": run["request"],
            "ended_at": run["ended_at"],
            "text": requests[run["request"]].text,
            "role": ROLES[run["model"]],
            "model": run["model"],
            "output_tokens": run["output_tokens"],
            "finish_reason": run["finish_reason"],
            "succeeded": run["success"],
        }
        for run in sorted(read_lines(folders.runs), key=lambda run: run["ended_at"])
        if run["request"] in requests and requests[run["request"]].text_hash == run["text"]
    ]
    folders.priors.parent.mkdir(parents=True, exist_ok=True)
    folders.priors.write_text("".join(map(told, priors)), "utf-8")
    return len(priors)


def main() -> None:
    """Collect, or check again, and say how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="folder of the service, kept between runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop asking after this time")
    parser.add_argument("--threads", type=int, help="of each engine; default: the cores")
    parser.add_argument("--check-again", action="store_true", help="judge the kept answers anew and ask nothing")
    options = parser.parse_args()
    folders = Folders(options.home)
    if options.check_again:
        check_again(folders)
    else:
        until = time.time() + options.minutes * 60
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service ends with us
        link_models(folders.home)
        with service(folders.home, environment_of(folders.home, options.threads)) as url:
            print(f"{asyncio.run(collect(url, folders, until=until))} answers came.")
    print(f"{write_priors(folders)} attempts are in {folders.priors.name}.")


if __name__ == "__main__":
    main()
