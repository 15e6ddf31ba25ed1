"""What was learned and how well it did, as frames: predictions and what came of them, versions, savings."""

import json
from bisect import insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from tale.analytics import frames
from tale.analytics.history import History
from tale.analytics.windows import Window
from tale.predictions import KeptPrediction, Outcome, Prediction, Shadow, tells
from tale.storage.history_reader import EVENT_COLUMNS, PREDICTION_COLUMNS, SHADOW_COLUMNS, VERSION_COLUMNS

MOST_PREDICTIONS: Final = 2_000  # of a window with more the newest, and as many answers before
MOST_SHADOWS: Final = 1_000
MOST_VERSIONS: Final = 50
MOST_EVENTS: Final = 200
MOST_CALLS: Final = 1_000  # of which the latest tell the models
EVER: Final = 0.0
ENDED: Final = PREDICTION_COLUMNS.index("ended_at")
VERDICTS: Final = {"promoted": "promoted", "rejected": "refused", "rolled_back": "rolled back"}
MADE_OF: Final = {
    "at": "ended_at",
    "predicted_tokens": "output_tokens",
    "budget_tokens": "upper_tokens",
    "output_tokens": "true_output_tokens",
    "task_tokens": "task_output_tokens",
}


@dataclass(frozen=True, slots=True)
class Learned:
    """How predictions did in a window, oldest first, and (of all time) versions and events, newest first.

    `models` are those that filled the roles last, whatever the window; `is_whole` is false where it holds more attempts
    than were read.
    """

    window: Window
    predictions: pl.DataFrame  # frames.LEARNED
    versions: pl.DataFrame  # frames.VERSIONS
    events: pl.DataFrame  # frames.LEARNING_EVENTS
    shadows: Sequence[Shadow]  # of all time
    models: Mapping[str, str]
    is_whole: bool = True


def learned(history: History, hours: float, *, model: str | None = None) -> Learned:
    """What was learned, and how that did in the latest hours up to now. Raises DatabaseException."""
    window, reader = history.window(hours), history.reader
    now = history.now() + 1
    rows = reader.predictions(window.since, now, limit=MOST_PREDICTIONS)
    begin = rows[-1][ENDED] if rows else window.since
    predictions = learned_frame(rows[::-1], reader.earlier_answers(begin, limit=MOST_PREDICTIONS))
    events = frames.frame_of(
        reader.learning_events(EVER, now, limit=MOST_EVENTS), frames.LEARNING_EVENTS, EVENT_COLUMNS
    )
    versions = versions_frame(reader.versions(EVER, now, limit=MOST_VERSIONS), events)
    return Learned(
        Window(window.since, now, window.slot_s),
        predictions if model is None else predictions.filter(pl.col("model") == model),
        versions,
        events,
        [shadow_of(row) for row in reader.shadows(EVER, now, limit=MOST_SHADOWS)],
        reader.role_models(limit=MOST_CALLS),
        is_whole=len(rows) < MOST_PREDICTIONS,
    )


def learned_frame(rows: Sequence[Sequence[Any]], answers: Sequence[Sequence[Any]] = ()) -> pl.DataFrame:
    """A frame of LEARNED of rows of storage (PREDICTION_COLUMNS), which come in the order in which attempts ended.

    `answers` are those that ended before (ANSWER_COLUMNS): the simplest guess is the median of both.
    """
    held = [dict(zip(PREDICTION_COLUMNS, row, strict=True)) for row in rows]
    earlier: dict[str, list[int]] = defaultdict(list)
    for role, *answer in answers:
        if tells(*answer):
            insort(earlier[role], answer[0])
    told: list[tuple[Any, ...]] = []
    for row in held:
        known = {name: row[MADE_OF.get(name, name)] for name in frames.LEARNED if MADE_OF.get(name, name) in row}
        known["served_by"] = row["served_by"] or row["role"]
        known["chance"] = None if row["is_retry"] else row[f"{known['served_by']}_success"]
        known["succeeded"] = _succeeded(row)
        known["tells"] = tells(row["true_output_tokens"], row["finish_reason"], row["upper_tokens"])
        known["plain_tokens"] = _plain(earlier[row["role"]], row["true_output_tokens"] if known["tells"] else None)
        told.append(tuple(known[name] for name in frames.LEARNED))
    return frames.frame_of(told, frames.LEARNED)


def versions_frame(rows: Sequence[Sequence[Any]], events: pl.DataFrame) -> pl.DataFrame:
    """A frame of VERSIONS of rows of storage (VERSION_COLUMNS) and the events that tell what became of them."""
    verdicts: dict[str, str] = {}
    for version, kind in events.reverse().select("version", "kind").iter_rows():
        if version is not None and kind in VERDICTS:
            verdicts[version] = VERDICTS[kind]
    told: list[tuple[Any, ...]] = []
    for row in rows:
        known: dict[str, Any] = dict(zip(VERSION_COLUMNS, row, strict=True))
        metrics: dict[str, dict[str, Any]] = json.loads(known["metrics"])
        for column, name in (("loss", "new"), ("serving_loss", "serving"), ("plain_loss", "plain")):
            known[column] = metrics.get(name, {}).get("loss")
        known["verdict"] = verdicts.get(known["id"])
        told.append(tuple(known[name] for name in frames.VERSIONS))
    return frames.frame_of(told, frames.VERSIONS)


def records_of(predictions: pl.DataFrame) -> list[KeptPrediction]:
    """The rows of a frame of LEARNED as records, without the words of their reasons."""
    return [_record(row) for row in predictions.iter_rows(named=True)]


def shadow_of(row: Sequence[Any]) -> Shadow:
    """A task that was done both ways, of a row of storage (SHADOW_COLUMNS)."""
    return Shadow(**dict(zip(SHADOW_COLUMNS, row, strict=True)))


def _record(row: dict[str, Any]) -> KeptPrediction:
    whole = {name: None if row[name] is None else int(row[name]) for name in ("output_tokens", "task_tokens")}
    expected = Prediction(
        version=row["version"],
        kind=row["kind"],
        complexity=row["complexity"],
        complexity_shares={},
        output_tokens=int(row["predicted_tokens"]),
        lower_tokens=int(row["lower_tokens"]),
        upper_tokens=int(row["budget_tokens"]),
        coverage=row["coverage"],
        role=row["role"],
        reason="",
        explored=row["explored"],
        variant=row["variant"],
        task_output_tokens=whole["task_tokens"],
    )
    outcome = Outcome(whole["output_tokens"], was_cut=bool(row["was_cut"]), succeeded=row["succeeded"])
    ended_at = row["at"].timestamp()
    return KeptPrediction(row["task_id"], row["attempt"], row["made_at"].timestamp(), expected, ended_at, outcome)


def _succeeded(row: dict[str, Any]) -> bool | None:
    """By a user's word, which is about the answer that was handed out, else by a check."""
    if row["rating"] is None or row["succeeded"] is False:
        return row["succeeded"]
    return row["rating"] == "good"


def _plain(earlier: list[int], tokens: int | None) -> float | None:
    """The median of what was answered so far, to which this answer is added."""
    guess = float(earlier[len(earlier) // 2]) if earlier else None
    if tokens is not None:
        insort(earlier, tokens)
    return guess
