"""Whatever an engine sends and a caller does, a call leaves one row that says what was used, and how it ended."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fakes.ledger import KINDS, Client, Kind, Ledger, opened
from fakes.tapes import Story
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tale.models import ollama_backend, openai_backend

NEL = "\x85"  # at which the client's library ends a line that Ollama goes on with
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NEL), min_size=1, max_size=5)
tokens = st.integers(0, 5_000)


@st.composite
def usages(draw: Callable[[st.SearchStrategy[int | bool]], int]) -> tuple[tuple[str, int], ...]:
    """Figures of which any may be missing; cached tokens are part of the input, reasoning of the output."""
    whole = {"input": draw(tokens), "output": draw(tokens)}
    whole["cached"] = draw(st.integers(0, whole["input"]))
    whole["reasoning"] = draw(st.integers(0, whole["output"]))
    return tuple((name, value) for name, value in whole.items() if draw(st.booleans()))


stories = st.builds(
    Story,
    words=st.lists(words, max_size=4).map(tuple),
    reasoning=st.one_of(st.just(""), words),
    calls_tool=st.booleans(),
    usage=usages(),
    usage_at=st.sampled_from(("last", "own line", "every", "first", "spread")),
    timings_ms=st.one_of(st.none(), st.tuples(st.floats(0, 50), st.floats(0, 50))),
    ending=st.sampled_from(
        ("well", "well", "well", "quiet", "cut", "cut in a line", "error", "garbage", "stall", "refused", "lost")
    ),
    lines=st.integers(0, 8),
    newline=st.sampled_from(("\n", "\r\n")),
    says_done=st.booleans(),
    piece_bytes=st.one_of(st.none(), st.integers(1, 9)),
)
clients = st.builds(
    Client,
    act=st.sampled_from(("reads", "reads", "completes", "closes", "cancels", "cancels early")),
    after=st.integers(1, 12),
    twice=st.booleans(),
    role=st.sampled_from(("ux", "task")),
)


# An engine that is lost twice at once may be found lost as it is loaded anew, and is then left alone for a while.
plays = st.lists(st.tuples(stories, clients), min_size=1, max_size=3).filter(
    lambda played: sum(story.ending == "lost" for story, _ in played) <= 1
)


@pytest.fixture
async def ledger(
    kind: Kind,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Ledger]:
    for backend in (ollama_backend, openai_backend):  # an engine that is found dead once is left alone for good here
        monkeypatch.setattr(backend, "HEALTH_LIMIT_S", 60.0)
        monkeypatch.setattr(backend, "CONNECT_LIMIT_S", 60.0)
    async with opened(kind, f"sqlite:///{tmp_path}/tale.db") as opened_ledger:
        yield opened_ledger
        record_property("calls_played", opened_ledger.played)


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # one engine and one database for all examples
@given(plays=plays)
@example(plays=[(Story(ending="lost"), Client())])
@example(plays=[(Story(ending="stall", lines=1), Client())])
@example(
    plays=[(Story(words=("Grüße ", "🦉"), piece_bytes=1, usage=(("input", 7), ("output", 0))), Client("completes"))]
)
@example(plays=[(Story(usage=(("output", 9),), timings_ms=(0.0, 5e-324)), Client())])
@example(plays=[(Story(usage=(("input", 9),), usage_at="first", ending="cut", lines=1), Client())])
async def test_every_call_is_accounted_for(ledger: Ledger, plays: list[tuple[Story, Client]]) -> None:
    await ledger.play(plays)
