"""What all tests share."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.doctest import DoctestModule
from fakes.command_line import Outcome, free_port
from fakes.gateway import FakeGateway, serving
from fakes.new_database import upgraded
from fakes.played_ux_agent import PlayedUXAgent
from fakes.postgres import copied_database, empty_database, running_postgres
from filelock import FileLock

from tale.storage.upgrade import upgrade, upgrade_engine

# A property that holds is not refuted by a busy machine: speed is the business of benchmarks/.
hypothesis.settings.register_profile("tale", deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", hypothesis.settings.get_profile("tale"), max_examples=2_000)
hypothesis.settings.load_profile("tale")

SLOW = (  # files of ten seconds and more, those that start servers in between others
    "test_learning_server",
    "test_cli_servers",
    "test_storage_task_moves",
    "test_system_integration",
    "test_day_of_traffic",
    "test_detector_likeness",
    "test_server_manager",
    "test_dashboard",
    "test_learning_live",
    "test_detector",
    "test_notebooks",
    "test_durability",
    "test_cli_chat_terminal",
    "test_engine_learner",
    "test_accounting",
    "test_ux_survival",
    "test_sample_history",
    "test_analytics_postgres",
    "test_dashboard_models",
)


def pytest_configure() -> None:
    """Have what a test starts end at Ctrl-C, which a shell ignores for all that it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Import no file for the examples in its docstrings that holds none."""
    found = yield
    return [each for each in found if not isinstance(each, DoctestModule) or ">>>" in file_path.read_text("utf-8")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process is left with one at the end, then those of many tests."""
    counts = Counter(item.path for item in items)
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), -counts[item.path], str(item.path)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many calls were played and held against their rows (test_accounting.py)."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [each for report in reports for each in getattr(report, "user_properties", ())]
    if played := sum(int(str(value)) for name, value in properties if name == "calls_played"):
        terminalreporter.write_line(f"{played:,} model calls were played and held against their rows.")


@pytest.fixture(scope="session", autouse=True)
def new_databases_in_a_moment() -> Iterator[None]:
    """What opens a new database finds it made; test_migrations.py and others see how it is made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tale.storage.database.upgrade_engine", upgraded)
        yield


@pytest.fixture
def migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens a new database makes it by the migrations, as users' is."""
    monkeypatch.setattr("tale.storage.database.upgrade_engine", upgrade_engine)


@pytest.fixture
def tale_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a command: a home and ports of its own, no settings from outside."""
    ours = [name for name in os.environ if name.startswith("TALE_")]
    for name in (*ours, "OLLAMA_HOST", "COLUMNS", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    monkeypatch.setenv("TALE_HOME", str(home))
    monkeypatch.setenv("TALE_BACKEND", "embedded")
    monkeypatch.setenv("TALE_LEARNING", "off")  # seconds of learning for each home
    for role in ("GATEWAY", "EXECUTION", "UX_AGENT", "MODEL", "LEARNING"):
        monkeypatch.setenv(f"TALE_{role}_PORT", str(free_port()))
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def gateway(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A gateway that commands find running; it stands for the UX agent too."""
    fake = FakeGateway(home=str(tale_home))
    with serving(fake) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        monkeypatch.setenv("TALE_UX_AGENT_PORT", str(port))
        yield fake


@pytest.fixture
def tale(tale_home: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command in this process, its output in pipes."""
    from tale.cli.main import main

    def run(*arguments: str) -> Outcome:
        capfd.readouterr()
        code = main(arguments)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The smallest real model, fetched once for all test runs (about 100 MB)."""
    import asyncio

    from tale.models.download import ModelFiles

    folder = Path(os.environ.get("TALE_TEST_MODELS") or Path.home() / ".cache" / "tale-tests" / "models")
    asyncio.run(ModelFiles(folder, hub_url="https://huggingface.co").fetch("smollm2:135m"))
    return folder


@pytest.fixture
def agent(tale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedUXAgent]:
    """A service that `tale chat` finds running."""
    played = PlayedUXAgent(home=str(tale_home))
    with serving(played) as port:
        monkeypatch.setenv("TALE_GATEWAY_PORT", str(port))
        monkeypatch.setenv("TALE_UX_AGENT_PORT", str(port))
        yield played


@pytest.fixture(scope="session")
def learned_intents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is learned from the project's messages alone, by the first test process that asks for it."""
    from tale.learning.intent_data import data_folder
    from tale.learning.intent_training import train

    folder = tmp_path_factory.getbasetemp()
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "intents.model"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            train(path, [], folder=data_folder())
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of these tests' own."""
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def made_on_postgres(postgres_server: str) -> str:
    """A PostgreSQL database as the migrations make it, which is copied and never used."""
    url = empty_database(postgres_server)
    upgrade(url)
    return url


@pytest.fixture
def postgres_url(postgres_server: str, made_on_postgres: str) -> str:
    """A new PostgreSQL database, with nothing in its tables."""
    return copied_database(postgres_server, made_on_postgres)


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> str:
    """An empty PostgreSQL database."""
    return empty_database(postgres_server)
