"""`tale submit --file`: hands in many tasks, and follows them to their ends."""

import asyncio
import json
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import typer

from tale.cli.bulk_progress import BulkProgress, bulk_progress_on
from tale.cli.edge import FAILED, INTERRUPTED, USAGE, complain
from tale.cli.following import follow_all
from tale.cli.gateway import running
from tale.cli.interrupting import are_cancelled
from tale.cli.rendering import Screen
from tale.cli.submit_options import read_text
from tale.cli.task_file import Line, TaskFile
from tale.cli.tasks import ending
from tale.exceptions import TaskException, ValidationException
from tale.mcp.http_client import HTTPMCPClient
from tale.settings import Settings

STDIN: Final = Path("-")
MOST_AT_ONCE: Final = 500  # as the gateway takes them
MOST_BYTES_AT_ONCE: Final = 900_000  # aiohttp sends up to 1 MiB at once without warning of it
FAULTS_SHOWN: Final = 20
SHORTEST_WAIT_S: Final = 0.5

Handed = tuple[Line, str]


def submit_file(
    settings: Settings, path: Path, options: Mapping[str, Any], *, wait: bool, as_json: bool, anew: bool, cancel: bool
) -> None:
    """Hand in the tasks of a file and print how each ended: with `as_json` a line of JSON each, else id and status.

    With `cancel`, Ctrl-C cancels what was handed in.
    """
    lines = _read(settings, path, options, salt=str(uuid.uuid4()) if anew else "")
    screen = Screen()
    errand = _Errand(settings, screen, as_json=as_json)
    try:
        with bulk_progress_on(screen.err, len(lines), quiet=as_json) as progress:
            asyncio.run(errand.run(lines, progress, wait=wait))
    except KeyboardInterrupt:
        complain(_after_interrupt(settings, errand, anew=anew, cancel=cancel))
        raise typer.Exit(INTERRUPTED) from None
    finally:
        errand.show_kept()
    if wait:
        counts = ", ".join(f"{count} {name}" for name, count in errand.ended.items())
        screen.aside(f"{len(lines)} tasks: {counts}.")
        if set(errand.ended) - {"completed"}:
            raise typer.Exit(FAILED)


def _after_interrupt(settings: Settings, errand: "_Errand", *, anew: bool, cancel: bool) -> str:
    if not cancel:
        again = "without --anew " if anew else ""
        return f"Interrupted; what was handed in runs on. The same command {again}takes it up again."
    if not are_cancelled(settings, [task_id for _, task_id in errand.handed]):
        return "Interrupted, but not all tasks could be cancelled; `tale list` shows what runs on."
    rest = "" if errand.all_handed_in else " What was just on its way may have arrived: `tale list` shows it."
    return f"Interrupted; what was handed in is cancelled where it had not ended.{rest}"


class _Errand:
    """The tasks on their way. On a terminal, what is printed of them is kept until the progress is gone."""

    def __init__(self, settings: Settings, screen: Screen, *, as_json: bool) -> None:
        self._settings = settings
        self._as_json = as_json
        self._keeps = screen.out.is_terminal
        self._kept: list[str] = []
        self.handed: list[Handed] = []
        self.all_handed_in = False
        self.ended: Counter[str] = Counter()

    async def run(self, lines: Sequence[Line], progress: BulkProgress, *, wait: bool) -> None:
        async with running(self._settings, progress.step, note=progress.say) as client:
            for batch in batches(lines):
                await hand_in(client, batch, progress, self.handed)
                progress.step(f"{len(self.handed)} tasks handed in")
        self.all_handed_in = True
        if not wait:
            for line, task_id in self.handed:
                self._print({"line": line.number, "id": task_id}, task_id)
            return
        async with aclosing(follow_all(self._settings, [task_id for _, task_id in self.handed], progress)) as views:
            position = 0
            async for view in views:
                line = self.handed[position][0]
                position += 1
                self._note(line, view)
                progress.ended()

    def show_kept(self) -> None:
        sys.stdout.write("".join(self._kept))
        sys.stdout.flush()

    def _note(self, line: Line, view: dict[str, Any]) -> None:
        self.ended[view["status"]] += 1
        self._print({"line": line.number, **view}, f"{view['id']}  {view['status']}")
        if view["status"] != "completed" and not self._as_json:
            complain(f"Line {line.number}: {ending(view)}")

    def _print(self, value: Mapping[str, Any], text: str) -> None:
        shown = f"{json.dumps(value, ensure_ascii=False) if self._as_json else text}\n"
        if self._keeps:
            self._kept.append(shown)
        else:
            sys.stdout.write(shown)
            sys.stdout.flush()


def _read(settings: Settings, path: Path, options: Mapping[str, Any], *, salt: str) -> list[Line]:
    """The tasks of the file; ends the command, with the numbers of the lines, where some are none."""
    lines, faults = TaskFile(settings, options, salt=salt).read(_text_of(path))
    name = "stdin" if path == STDIN else str(path)
    for fault in faults[:FAULTS_SHOWN]:
        complain(f"{name}, line {fault.number}: {fault.reason}")
    if faults:
        left_out = f" ({len(faults) - FAULTS_SHOWN} more are not shown)" if len(faults) > FAULTS_SHOWN else ""
        complain(f"Nothing was handed in: {len(faults)} lines cannot be used{left_out}.")
        raise typer.Exit(USAGE)
    if not lines:
        raise ValidationException(f'{name} holds no tasks; a line is an object such as {{"text": "Write a haiku"}}.')
    return lines


def _text_of(path: Path) -> str:
    if path != STDIN:
        return read_text(path, "--file")
    if sys.stdin is None or sys.stdin.isatty():
        raise ValidationException("--file - reads the tasks from a pipe: cat tasks.jsonl | tale submit --file -")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationException(f"--file: stdin is no UTF-8 text (byte {error.start + 1}); convert it.") from error


def batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """As many tasks as one request may have, at least one."""
    batch: list[Line] = []
    held = 0
    for line in lines:
        size = len(json.dumps(line.request))
        if batch and (len(batch) == MOST_AT_ONCE or held + size > MOST_BYTES_AT_ONCE):
            yield batch
            batch, held = [], 0
        batch.append(line)
        held += size
    yield batch


async def hand_in(client: HTTPMCPClient, batch: Sequence[Line], progress: BulkProgress, handed: list[Handed]) -> None:
    """Add the tasks with their ids to `handed`.

    When the queue has no room for all, parts are tried, and at last room is waited for.
    """
    while True:
        try:
            # The keys make it safe to send again what may have arrived.
            answer = await client.call_tool(
                "submit_tasks", {"tasks": [line.request for line in batch]}, idempotent=True
            )
            handed += [(line, task["id"]) for line, task in zip(batch, answer["tasks"], strict=True)]
            return
        except TaskException as error:
            pause_s = error.context.get("retry_after_s")
            if not isinstance(pause_s, int | float):
                raise
            if len(batch) > 1:
                half = len(batch) // 2
                await hand_in(client, batch[:half], progress, handed)
                return await hand_in(client, batch[half:], progress, handed)
            progress.step("The queue is full; waiting for room")
            await asyncio.sleep(max(SHORTEST_WAIT_S, pause_s))
