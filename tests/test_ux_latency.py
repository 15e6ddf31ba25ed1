"""The benchmark of the conversation is believed only where the larger model was at work all the time."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_tasks_that_another_model_did_or_that_left_it_idle_are_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from ux_latency import Call, who_worked

    calls = [Call("large", 0.0, 60.0, 400), Call("large", 61.0, None, None)]
    told = who_worked(calls, "large", 10.0, 110.0)
    assert told == "The tasks: large, 2 calls, 400 tokens, at work for 99% of the time"
    with pytest.raises(SystemExit, match=r"The tasks were done by large, small, not by large alone\."):
        who_worked([*calls, Call("small", 60.0, 61.0, 10)], "large", 10.0, 110.0)
    with pytest.raises(SystemExit, match=r"The tasks were done by nobody, not by large alone\."):
        who_worked([], "large", 10.0, 110.0)
    with pytest.raises(SystemExit, match=r"large was at work on tasks for only 50% of the time\."):
        who_worked(calls[:1], "large", 10.0, 110.0)
