"""The counts of a process: by kind, up to bounds, and of what is known."""

from dataclasses import replace

import pytest

from tale.metrics.call_counts import CallCounts, Durations, ModelKey, RequestKey
from tale.records import McpCall, ModelCall

CALL = ModelCall("id", 1.0, "task", "execute", "large", "embedded", requested_model="large", ended_at=2.0)
KEY = ModelKey("embedded", "large", "task", "execute")
REQUEST = McpCall("id", 1.0, "tale-gateway", "tools/call", 0.02, "ok", tool="submit_task")


def test_a_duration_counts_for_the_first_bound_that_it_does_not_exceed() -> None:
    durations = Durations((0.1, 1.0))
    for duration_s in (0.0, 0.1, 0.1000001, 1.0, 7.0, None):
        durations.add(duration_s)
    assert (durations.counts, durations.sum_s) == ([2, 2, 1], pytest.approx(8.2000001))


def test_unknown_tokens_are_counted_apart_and_not_as_none() -> None:
    counts = CallCounts()
    counts.model_call_ended(replace(CALL, input_tokens=7, output_tokens=0))
    counts.model_call_ended(replace(CALL, error_class="NetworkException"))
    counts.model_call_ended(replace(CALL, error_class="Cancelled", output_tokens=2))
    told = counts.models[KEY]
    assert told.outcomes == {"completed": 1, "failed": 1, "cancelled": 1}
    assert (told.tokens, told.unreported) == ({"input_tokens": 7, "output_tokens": 2}, 1)
    assert sum(told.total.counts) == 0


def test_a_stand_in_is_counted_under_the_model_that_answered() -> None:
    counts = CallCounts()
    counts.model_call_ended(replace(CALL, model="small", requested_model="large"))
    counts.model_call_ended(CALL)
    assert counts.models[KEY._replace(model="small")].fallbacks == 1
    assert counts.models[KEY].fallbacks == 0


def test_a_name_counts_as_known_once_a_request_with_it_was_served() -> None:
    counts = CallCounts()
    failed = replace(REQUEST, outcome="error", tool="made-up")
    counts.request_answered(failed)
    counts.request_answered(REQUEST)
    counts.request_answered(failed)
    counts.request_answered(replace(REQUEST, outcome="tool_error"))
    found = {key: dict(told.outcomes) for key, told in counts.requests.items()}
    assert found == {
        RequestKey("tale-gateway", "unknown", ""): {"error": 1},
        RequestKey("tale-gateway", "tools/call", "submit_task"): {"ok": 1, "tool_error": 1},
        RequestKey("tale-gateway", "tools/call", ""): {"error": 1},
    }
