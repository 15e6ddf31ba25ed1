"""Kills tale's processes while tasks run, then looks whether each acknowledged task ended once: `python -m chaos`."""

import argparse
import asyncio
import logging
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

from chaos.audit import LOST, Audit, Findings
from chaos.casting import SLOTS, Adapter, EngineKind, Layout, casting, database_server
from chaos.deaths import HARMLESS, planned
from chaos.engine import answer_to
from chaos.scene import Scene
from chaos.users import Users

TOKENS: Final[dict[EngineKind, int]] = {"played": 64, "real": 12}  # of an answer, at most
LEAST_AT_WORK: Final = 0.5  # share of the kills that must have found tasks at work
SPREAD: Final = 0.9  # share of the tasks over which the kills are spread
LOOK_S: Final = 0.05


@dataclass(frozen=True)
class Run:
    """One run: so many tasks and kills, over one database and one way to part the roles."""

    adapter: Adapter
    layout: Layout
    engine: EngineKind
    tasks: int
    kills: int
    seed: int

    def __str__(self) -> str:
        return f"{self.adapter}, roles {self.layout}, {self.engine} engine, seed {self.seed}"


def main() -> int:
    """Do all runs that are asked for; 1 when something was lost, done twice or left open."""
    given = _parsed()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("chaos").setLevel(logging.INFO if given.verbose else logging.WARNING)
    complaints: list[str] = []
    for adapter in given.adapter:
        with database_server(adapter) as server:
            for layout in given.layout:
                engine = given.engine or ("played" if layout == "together" else "real")
                run = Run(adapter, layout, engine, given.tasks, given.kills, given.seed)
                complaints += asyncio.run(_limited(run, server, given.limit_s))
    for complaint in complaints:
        print(f"WRONG: {complaint}")
    print("This must not be." if complaints else "Nothing was lost, nothing was done twice.")
    return 1 if complaints else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--adapter", nargs="+", choices=get_args(Adapter), default=get_args(Adapter))
    parser.add_argument("--layout", nargs="+", choices=get_args(Layout), default=get_args(Layout))
    parser.add_argument("--engine", choices=get_args(EngineKind), help="default: real where the roles are apart")
    parser.add_argument("--tasks", type=int, default=500, help="of each run")
    parser.add_argument("--kills", type=int, default=40, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=900.0, help="after which a run has failed")
    parser.add_argument("--verbose", action="store_true", help="tell of each kill")
    return parser.parse_args()


async def _limited(run: Run, server: str | None, limit_s: float) -> list[str]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit_s):
            wrong = await _carried_out(run, server)
    except TimeoutError:
        wrong = [f"it was not over after {limit_s:g} s"]
    print(f"  {time.monotonic() - began:.0f} s\n", flush=True)
    return [f"{run}: {complaint}" for complaint in wrong]


async def _carried_out(run: Run, server: str | None) -> list[str]:
    with TemporaryDirectory(prefix="tale-chaos-") as folder:
        async with casting(Path(folder), run.layout, run.engine, server) as (home, cast):
            audit = Audit(home.settings.database)
            try:
                scene = Scene(home, cast, audit)
                await scene.start()
                audit.witness()
                users = Users(home, run.tasks, seed=run.seed, max_output_tokens=TOKENS[run.engine])
                await _play(run, scene, users, audit)
                wrong = await users.ask_again()
                await home.close()
                answers = {task_id: answer_to(number) for task_id, number in users.numbers.items()}
                found = audit.findings(users.acknowledged, answers if run.engine == "played" else None)
            finally:
                audit.close()
    _tell(run, scene, users, found)
    return [*wrong, *found.complaints, *_wrong_toll(run, scene, found)]


async def _play(run: Run, scene: Scene, users: Users, audit: Audit) -> None:
    """Let the users hand in and the processes die, until all tasks have ended."""
    draw = random.Random(run.seed)
    async with asyncio.TaskGroup() as group:
        keeper = group.create_task(scene.keep())
        handing_in = group.create_task(users.hand_in(audit.ended))
        for number, death in enumerate(planned(scene.targets, run.kills, run.seed)):
            await _until_ended(audit, number * run.tasks * SPREAD / run.kills)
            await scene.die(death, draw.random())
        await handing_in
        await _until_ended(audit, run.tasks)
        keeper.cancel()


async def _until_ended(audit: Audit, count: float) -> None:
    while await asyncio.to_thread(audit.ended) < count:
        await asyncio.sleep(LOOK_S)


def _wrong_toll(run: Run, scene: Scene, found: Findings) -> list[str]:
    """Too few kills to prove anything, or more failed attempts than the kills explain."""
    wrong: list[str] = []
    kills, at_work = scene.toll.kills, scene.toll.at_work.total()
    if kills.total() < run.kills or at_work < run.kills * LEAST_AT_WORK:
        wrong.append(f"only {kills.total()} of {run.kills} kills were made, {at_work} of them while tasks ran")
    failures = sum(found.outcomes[outcome] for outcome in LOST)
    explained = SLOTS * sum(count for target, count in kills.items() if target not in HARMLESS)
    if failures > explained:
        wrong.append(f"{failures} attempts failed; the kills explain {explained}")
    return wrong


def _tell(run: Run, scene: Scene, users: Users, found: Findings) -> None:
    toll = scene.toll
    print(f"{run}: {len(users.acknowledged)} tasks acknowledged, by {users.asked} requests")
    print(f"  kills: {toll.kills.total()}, of which {toll.at_work.total()} while tasks ran: {_counts(toll.kills)}")
    print(f"  started again by hand, as the next command would: {scene.started_by_hand}")
    print(f"  tasks: {_counts(found.statuses)}; most attempts at one: {found.most_attempts}")
    print(f"  attempts: {_counts(found.outcomes)}; most at one that failed: {found.most_failures}")
    print(f"  model calls: {_counts(found.calls)}")
    if found.causes:
        print(f"  failed tasks: {_counts(found.causes)}")


def _counts(counted: Counter[Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted.most_common())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
