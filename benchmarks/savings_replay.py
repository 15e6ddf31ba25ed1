"""What would tale's choices have cost on answers that were really given, beside sending all to the task model?

A replay: both models were asked each request of data/workload with several instructions (runs.jsonl, variants.jsonl);
here engines that have not seen a request, nor one like it, choose among those answers, with the requests parted in five
ways. Nothing is generated, so it takes a minute or two, and every policy meets the very same answers. What it leaves
out: acknowledgements, shadows, trials, and what a second attempt of the same model would have brought. An answer that
is longer than its limit costs a second call that reads everything again, and counts as the uncut one. Of an answer that
was cut where the recording ended it is not known how long or how right it would have been: engines do not learn it, and
requests with such an answer are left out.
`token_savings.py` measures the whole of it, live.

python benchmarks/savings_replay.py
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from token_savings import CONCISE, WEIGHTS, Outcome, right_share, share_of, success_lost

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

from workload.requests import Request, read_lines, read_requests, short_hash

from tale.learning.performance_engine import PerformanceEngine
from tale.learning.prompts import AS_GOOD, VARIANTS
from tale.predictions import PastAttempt, Prediction, TaskQuestion, is_whole

WORKLOAD = Path(__file__).parent.parent / "data/workload"
MODELS = {"ux": "qwen2.5-coder:0.5b", "task": "qwen2.5-coder:1.5b"}
ROLE_OF = {model: role for role, model in MODELS.items()}
NEEDED = tuple((role, variant) for role in ("ux", "task") for variant in VARIANTS)
CAP_TOKENS = 2_048
GO_ON_TOKENS = 20  # of the message by which an answer goes on
SECOND_TRY_TOKENS = 15
NAIVE = ("task", "default")
CONSTANT = "the best constant"  # as the requests of the other folds tell it
FOLDS = 5
PARTINGS = 5  # ways to part the requests into folds: what is chosen for one depends on which others were seen
FIGURES = {"output": "output_tokens", "all": "all_tokens", "weighted": "weighted_tokens"}

Runs = Mapping[tuple[str, str, str], Mapping[str, Any]]  # by request, role and variant


@dataclass(frozen=True)
class Call:
    """An answer that is bought: whose, with which instructions, and where it is cut."""

    role: str
    variant: str
    cap_tokens: int = CAP_TOKENS
    extra_tokens: int = 0


Policy = Callable[[Request, PerformanceEngine, Runs], Sequence[Call]]


def always(role: str, variant: str) -> Policy:
    """The same for every request."""
    return lambda request, engine, runs: [Call(role, variant)]


def best_constant(requests: Sequence[Request], runs: Runs) -> Policy:
    """The way that needs the fewest weighted tokens of those that were right as often as naive, for these requests."""

    def did(role: str, variant: str) -> tuple[float, float]:
        found = [outcome("", each, [Call(role, variant)], runs) for each in requests]
        return sum(each.right for each in found) / len(found), sum(each.weighted_tokens for each in found)

    figures = {way: did(*way) for way in NEEDED}
    wanted, _ = figures[NAIVE]
    good = [way for way, (right, _) in figures.items() if right >= wanted - AS_GOOD]
    return always(*min(good, key=lambda way: figures[way][1]))


def asked(request: Request, engine: PerformanceEngine, **given: Any) -> Prediction:
    """What an engine expects of a request."""
    return engine.predict(TaskQuestion(request.text, CAP_TOKENS, **given))


def as_told(expected: Prediction) -> Call:
    return Call(expected.role, expected.variant, expected.cap_tokens or CAP_TOKENS)


def tale(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    return [as_told(asked(request, engine))]


def without_routing(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    return [as_told(asked(request, engine, role="task"))]


def without_variants(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    return [as_told(asked(request, engine, again=True))]


def without_budget(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    expected = asked(request, engine)
    return [Call(expected.role, expected.variant)]


def checked(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    """A bad answer is noticed: the task model then does it again, the last time with the full instructions."""
    calls = [as_told(asked(request, engine, has_check=True))]
    second = replace(as_told(asked(request, engine, has_check=True, role="task")), extra_tokens=SECOND_TRY_TOKENS)
    for call in (second, Call("task", "default", extra_tokens=SECOND_TRY_TOKENS)):
        if runs[request.id, calls[-1].role, calls[-1].variant]["success"]:
            break
        if (call.role, call.variant) not in [(each.role, each.variant) for each in calls]:
            calls.append(call)
    return calls


def perfect_router(request: Request, engine: PerformanceEngine, runs: Runs) -> Sequence[Call]:
    """Knows beforehand which model will be right with "direct"; what neither will be, the small one does."""
    small, large = (runs[request.id, role, CONCISE]["success"] for role in ("ux", "task"))
    return [Call("task" if large and not small else "ux", CONCISE)]


POLICIES: Mapping[str, Policy] = {
    "naive": always(*NAIVE),
    "naive, concise": always("task", CONCISE),
    "tale": tale,
    "tale without routing": without_routing,
    "tale without variants": without_variants,
    "tale without limits": without_budget,
    "tale, answers checked": checked,
    "a perfect router": perfect_router,
}


def read_runs() -> dict[tuple[str, str, str], dict[str, Any]]:
    """All answers that were given."""
    lines = [*read_lines(WORKLOAD / "runs.jsonl"), *read_lines(WORKLOAD / "variants.jsonl")]
    return {(line["request"], ROLE_OF[line["model"]], line.get("variant", "default")): line for line in lines}


def is_known(run: Mapping[str, Any] | None) -> bool:
    """Whether all of an answer was recorded."""
    return run is not None and is_whole(run["output_tokens"], run["finish_reason"])


def replayable(requests: Sequence[Request], runs: Runs) -> list[Request]:
    """The requests of which all answers are known as a whole."""
    return [request for request in requests if all(is_known(runs.get((request.id, *each))) for each in NEEDED)]


def attempts(requests: Sequence[Request], runs: Runs) -> list[PastAttempt]:
    """The answers to these requests as an engine learns from them."""
    return [
        PastAttempt(
            task_id=request.id,
            ended_at=float(number),
            text=request.text,
            role="ux" if role == "ux" else "task",
            model=MODELS[role],
            output_tokens=run["output_tokens"],
            finish_reason=run["finish_reason"],
            succeeded=run["success"] if is_known(run) else None,
            variant=variant,
        )
        for number, request in enumerate(requests)
        for role, variant in NEEDED
        if (run := runs.get((request.id, role, variant)))
    ]


def outcome(policy: str, request: Request, calls: Sequence[Call], runs: Runs) -> Outcome:
    """What the calls have cost, and whether the last answer was right."""
    read = written = weighted_out = weighted_in = 0.0
    count = 0
    for call in calls:
        run = runs[request.id, call.role, call.variant]
        weight, told = WEIGHTS[MODELS[call.role]], run["input_tokens"] + call.extra_tokens
        is_cut = run["output_tokens"] > call.cap_tokens
        reads = told + (told + call.cap_tokens + GO_ON_TOKENS if is_cut else 0)
        count += 1 + is_cut
        read, written = read + reads, written + run["output_tokens"]
        weighted_in, weighted_out = weighted_in + weight * reads, weighted_out + weight * run["output_tokens"]
    last = calls[-1]
    return Outcome(
        policy=policy,
        request=request.id,
        cluster=request.of or request.id,
        kind=request.kind,
        text="",
        right=bool(runs[request.id, last.role, last.variant]["success"]),
        output_tokens=round(written),
        all_tokens=round(read + written),
        weighted_output_tokens=weighted_out,
        weighted_tokens=weighted_in + weighted_out,
        calls=count,
        untold_calls=0,
        total_s=0.0,
    )


def replayed() -> dict[str, list[Outcome]]:
    """What each policy would have cost on the requests of which all answers are known, for all ways to part them."""
    runs = read_runs()
    everything = read_requests(WORKLOAD / "priors.jsonl")
    whole = replayable(everything, runs)
    found: dict[str, list[Outcome]] = {name: [] for name in (*POLICIES, CONSTANT)}
    for parting in range(PARTINGS):

        def fold(request: Request, parting: int = parting) -> int:
            return int(short_hash(f"{parting} {request.of or request.id}"), 16) % FOLDS

        for number, some in groupby(sorted(whole, key=fold), key=fold):
            engine = PerformanceEngine().fit(attempts([each for each in everything if fold(each) != number], runs))
            constant = best_constant([each for each in whole if fold(each) != number], runs)
            for request in some:
                for name, policy in {**POLICIES, CONSTANT: constant}.items():
                    found[name].append(outcome(name, request, policy(request, engine, runs), runs))
    return found


def main() -> int:
    """Print each policy beside naive."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = replayed()
    naive = found["naive"]
    requests = len(naive) // PARTINGS
    title = f"Replay of {requests} requests; shares in % of naive, with 95 % intervals"
    table = Table(title=title, title_justify="left")
    for column in ("policy", *FIGURES, "points lost", "right %", "calls"):
        table.add_column(column)
    for name, ours in found.items():
        figures = [share_of(figure, ours, naive) for figure in FIGURES.values()] + [success_lost(ours, naive)]
        told = [f"{value:z.0f} ({low:z.0f} to {high:z.0f})" for value, low, high in figures]
        table.add_row(name, *told, f"{right_share(ours):.0f}", f"{sum(each.calls for each in ours) / PARTINGS:.0f}")
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
