"""The notebooks run from top to bottom, on the sample history and on other databases, and come to conclusions."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pytest
from fakes.sample_history import seeded
from nbclient import NotebookClient
from nbformat import NotebookNode

from tale.cli.demo import sample_path
from tale.storage.database import Database
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
