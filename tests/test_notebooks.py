"""The notebooks run from top to bottom, on the sample history and on other databases, and come to conclusions."""

import asyncio
import random
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from fakes.learned_history import predicted
from fakes.sample_history import SMALL, Sample, call, keep, seeded
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from sqlalchemy import insert

from tale.cli.demo import sample_path
from tale.records import Attempt, Task, TaskStatus
from tale.storage.database import Database
from tale.storage.learning_tables import predictions
from tale.storage.sample_file import load_sample

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("01_token_usage", "02_latency_targets", "03_learning_quality", "04_routing_economics")
PATIENCE_S = 120
FIGURE = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the kernels use a home and folders of their own; those of this process are not changed back in the midst."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("notebooks")
    variables = {"TALE_HOME": "home", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "run", "JUPYTER_DATA_DIR": "data"}
    for name, place in variables.items():
        patch.setenv(name, str(folder / place))
    patch.delenv("TALE_DATABASE_URL", raising=False)
    yield
    patch.undo()


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def on(source: str, book: NotebookNode) -> NotebookNode:
    """The notebook with the one variable at its top changed."""
    cell = next(cell for cell in book.cells if cell.cell_type == "code")
    assert cell.source.startswith("SOURCE = None")
    cell.source = cell.source.replace("SOURCE = None", f"SOURCE = {source!r}", 1)
    return book


def executed(books: Sequence[NotebookNode]) -> None:
    """Run all cells of the notebooks, all at a time; raises CellExecutionError."""

    async def all_of_them() -> None:
        clients = [
            NotebookClient(book, timeout=PATIENCE_S, resources={"metadata": {"path": str(FOLDER)}}) for book in books
        ]
        await asyncio.gather(*(client.async_execute() for client in clients))

    asyncio.run(all_of_them())


def figures_of(book: NotebookNode) -> list[NotebookNode]:
    shown = [output.get("data", {}) for cell in book.cells for output in cell.get("outputs", ())]
    return [data[FIGURE] for data in shown if FIGURE in data]


def conclusion_of(book: NotebookNode) -> str:
    heading, cell = book.cells[-2:]
    assert heading.source == "## Conclusion"
    return cell.outputs[-1]["data"]["text/markdown"]


@pytest.fixture(scope="module")
def books(apart: None) -> dict[str, NotebookNode]:
    """All notebooks, executed on the sample history as they are; the first loads it."""
    read_books = {name: read(name) for name in NAMES}
    first, *others = read_books.values()
    executed([first])
    executed(others)
    return read_books


def test_these_are_all_notebooks_and_none_is_committed_with_what_it_printed() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    for name in NAMES:
        book = read(name)
        nbformat.validate(book)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_draws_its_figures_and_concludes_with_what_it_computed(
    books: dict[str, NotebookNode], name: str
) -> None:
    drawn = figures_of(books[name])
    assert len(drawn) >= 4
    assert all(each["layout"]["title"]["text"] and any(_points(trace) for trace in each["data"]) for each in drawn)
    told = conclusion_of(books[name])
    assert len(re.findall(r"^- ", told, re.MULTILINE)) == 3
    assert re.search(r"\d", told) and "nan" not in told.lower() and "None" not in told


def _points(trace: NotebookNode) -> bool:
    """Whether there is anything to see of a trace."""
    return any(trace.get(axis) for axis in ("x", "y", "z"))


def test_one_variable_has_it_look_at_a_database_of_ones_own(tmp_path: Path) -> None:
    made = seeded(f"sqlite:///{tmp_path}/tale.db", now=time.time())
    book = on(str(tmp_path / "tale.db"), read("01_token_usage"))
    executed([book])
    calls = sum(call.ended_at is not None for call in made.calls)
    head = next(cell for cell in book.cells if cell.get("outputs")).outputs[-1]["data"]["text/markdown"]
    assert head.startswith(f"**{calls:,} calls**")


def keep_one_task(url: str, **ended: Any) -> None:
    """A history of one task with what was expected of it, and one answer of the chat, by an engine without a cache."""
    now, asked = time.time(), str(uuid.uuid4())
    at = {"started_at": now - 90, "ended_at": now - 80, "attempt": 1}
    task = Task(asked, "Write a haiku.", TaskStatus.COMPLETED, now - 91, model=SMALL, role="ux", **at)
    done = replace(call(random.Random(1), now - 90, now), cached_tokens=None, **ended)
    attempt = Attempt(asked, 1, now - 90, now - 80, "completed", SMALL)
    calls = [replace(done, id=asked, operation="execute", task_id=asked, attempt=1), done]
    told = [row | {"ux_success": None, "task_success": None, "succeeded": None} for row in predicted([task])]

    async def kept() -> None:
        await keep(url, Sample(calls, [task], [attempt]), now=now)
        database = Database.open(url)
        await database.write(lambda c: c.execute(insert(predictions), told).rowcount)
        await database.close()

    asyncio.run(kept())


def test_a_single_task_and_an_engine_that_tells_of_no_cache_are_enough(tmp_path: Path) -> None:
    keep_one_task(f"sqlite:///{tmp_path}/tale.db")
    found = {name: on(str(tmp_path / "tale.db"), read(name)) for name in NAMES}
    executed(list(found.values()))
    told = {name: conclusion_of(book) for name, book in found.items()}
    assert all(text.count("- ") == 3 and "nan" not in text and "None" not in text for text in told.values())
    assert "the engine does not tell" in told["01_token_usage"]
    purposes = next(each for each in figures_of(found["01_token_usage"]) if "kind of call" in str(each["layout"]))
    assert all(value > 0 for trace in purposes["data"] if trace["name"] == "read" for value in trace["x"])
    assert told["02_latency_targets"].startswith("- **100% of the answers began within 1 s.**\n")
    assert "Of no task are both known" in told["03_learning_quality"]
    assert "no chances were told" in told["04_routing_economics"]


def test_where_all_calls_failed_a_notebook_says_so_or_what_there_is(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("input_tokens", "output_tokens", "time_to_first_token_s"))
    keep_one_task(f"sqlite:///{tmp_path}/tale.db", error_class="ModelException", **nothing)
    books = {name: on(str(tmp_path / "tale.db"), read(name)) for name in ("01_token_usage", "04_routing_economics")}
    executed([books["04_routing_economics"]])
    assert "no engine has told" in conclusion_of(books["04_routing_economics"])
    with pytest.raises(CellExecutionError, match="no calls in this time that tell their tokens"):
        executed([books["01_token_usage"]])


@pytest.mark.postgres
def test_one_variable_has_it_look_at_postgresql(postgres_url: str, books: dict[str, NotebookNode]) -> None:
    async def kept() -> None:
        database = Database.open(postgres_url)
        await load_sample(database, sample_path(), now=time.time())
        await database.close()

    asyncio.run(kept())
    name = "04_routing_economics"
    book = on(postgres_url, read(name))
    executed([book])
    assert conclusion_of(book) == conclusion_of(books[name])
