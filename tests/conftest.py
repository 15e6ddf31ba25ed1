"""What all tests share."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from fakes.command_line import Outcome, free_port
from fakes.gateway import FakeGateway, serving
from fakes.postgres import empty_database, running_postgres

# A property that holds is not refuted by a busy machine: speed is the business of benchmarks/.
hypothesis.settings.register_profile("tale", deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", hypothesis.settings.get_profile("tale"), max_examples=2_000)
hypothesis.settings.load_profile("tale")


def pytest_configure() -> None:
    """Have what a test starts end at Ctrl-C, which a shell ignores for all that it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many calls were played and held against their rows (test_accounting.py)."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [each for report in reports for each in getattr(report, "user_properties", ())]
    if played := sum(int(str(value)) for name, value in properties if name == "calls_played"):
        terminalreporter.write_line(f"{played:,} model calls were played and held against their rows.")


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


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server of these tests' own."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """An empty PostgreSQL database."""
    return empty_database(postgres_server)
