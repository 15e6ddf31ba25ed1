"""What was learned, on the page: its figures, savings, versions, and why one task was expected to be as it was."""

import time
from dataclasses import replace
from functools import partial
from typing import Any, Final

import polars as pl
import streamlit as st
import widgets
import words
from service import asked, service

import data
from tale import figures
from tale.analytics.learned import Learned, learned, records_of
from tale.figures import Theme
from tale.learning.live_figures import estimated_savings, verified_savings
from tale.learning.model_weights import small_cost

KEPT_S: Final = 30.0
LISTED: Final = 100
ROLE_NAMES: Final = {"ux": "small model", "task": "task model"}
CHANCES: Final = {"min_value": 0.0, "max_value": 1.0, "format": "percent"}
ATTEMPTS: Final = {
    "at": st.column_config.DatetimeColumn("ended", format="D MMM HH:mm:ss"),
    "text": st.column_config.TextColumn("task", width="large"),
    "predicted_tokens": st.column_config.NumberColumn("expected", format="%d"),
    "budget_tokens": st.column_config.NumberColumn("at most", format="%d"),
    "output_tokens": st.column_config.NumberColumn("written", format="%d"),
    "chance": st.column_config.ProgressColumn("chance", width="small", **CHANCES),
    "succeeded": st.column_config.CheckboxColumn("succeeded", help="By a check or a rating; empty: nobody looked."),
}
VERSIONS: Final = {
    "created_at": st.column_config.DatetimeColumn("made", format="D MMM HH:mm"),
    "state": st.column_config.TextColumn("state now"),
    "rows": st.column_config.NumberColumn("answers", format="localized"),
    "reason": st.column_config.TextColumn("why", width="large"),
}


def shown(hours: float, model: str | None, url: str) -> tuple[Learned, dict[str, Any], float, float]:
    """What the page shows, the savings, the seconds that reading it took, and when that was (Unix time)."""
    return _shown(hours, model, url, tuple(data.role_models().items()))


@st.cache_data(ttl=data.LIVE_S, max_entries=16, show_spinner=False)
def _shown(
    hours: float, model: str | None, url: str, models: tuple[tuple[str, str], ...]
) -> tuple[Learned, dict[str, Any], float, float]:
    began, at = time.perf_counter(), time.time()
    seen = learned(data.history(url), hours, model=model)
    seen = replace(seen, models={**seen.models, **dict(models)})
    cost = cost_of_small(seen)
    savings = {
        "verified": verified_savings(seen.shadows, small_cost=cost),
        "estimated": estimated_savings(records_of(seen.predictions), small_cost=cost),
    }
    return seen, savings, time.perf_counter() - began, at


def cost_of_small(seen: Learned) -> float:
    """What a token of the small model costs, where one of the task model costs 1."""
    return small_cost(seen.models.get("ux"), seen.models.get("task"), stated=data.settings().small_cost)


@st.cache_data(ttl=KEPT_S, max_entries=32, show_spinner=False)
def explanation(task_id: str, url: str) -> dict[str, Any]:
    """What the gateway at that address says of a task. Raises TaleBaseException."""
    return service().ask("explain_task", task_id=task_id)


def show_savings(savings: dict[str, Any]) -> None:
    """What was measured on tasks that were done both ways and, apart from it, what was probably saved."""
    st.subheader("Tokens saved", anchor=False)
    verified, estimated = savings["verified"], savings["estimated"]
    grid = st.grid(2, min_column_width=260, border=True)
    with grid.container(gap=None):
        st.caption(":material/verified: **Verified**: tasks done a second time as if nothing had been learned")
        if verified is None:
            st.markdown("Too few tasks were done both ways yet (10 are needed; `shadow_rate` sets how many are).")
        else:
            st.markdown(f"### {verified.saved:.0%}")
            lost = f"{100 * verified.success_lost:+.1f} points of success lost"
            bounds = f"95 %: {verified.saved_lower:.0%} to {verified.saved_upper:.0%}"
            st.caption(f"{bounds} · {lost} · {verified.tasks:,} tasks")
    with grid.container(gap=None):
        st.caption(":material/functions: **Estimated**: against what was expected of the task model")
        if estimated is None:
            st.markdown("Too few predicted answers yet (10 are needed).")
        else:
            st.markdown(f"### {estimated.saved:.0%}")
            st.caption(f"{estimated.tasks:,} tasks of this time; nothing was done twice")


def show_misses(seen: Learned) -> None:
    """How many answers did not fit into the budget that was predicted for them; nothing where none was."""
    known = seen.predictions.filter("tells")
    if known.is_empty():
        return
    is_missed = (pl.col("output_tokens") > pl.col("budget_tokens")) | pl.col("was_cut").fill_null(False)
    missed = len(known.filter(is_missed))
    with st.container(border=True, gap=None):
        st.caption(":material/straighten: **Missed**: answers longer than the budget that was predicted for them")
        st.markdown(f"### {missed:,} of {len(known):,}")
        st.caption(
            f"{missed / len(known):.1%} of the answers; budgets are meant to be missed by {1 - nominal(known):.0%}"
        )


def show_figures(seen: Learned, at: float, theme: Theme) -> None:
    """How predictions did, how the models were chosen, and which versions there were."""
    known, window = seen.predictions, seen.window
    rows = (
        (
            ("error", partial(figures.prediction_error, known, window, theme=theme)),
            ("coverage", partial(figures.budget_coverage, known, window, nominal=nominal(known), theme=theme)),
        ),
        (
            ("curve", partial(figures.learning_curve, known, theme=theme)),
            ("reliability", partial(figures.reliability_diagram, known, theme=theme)),
        ),
        (
            ("routes", partial(figures.routes, known, window, theme=theme)),
            ("regret", partial(figures.regret, known, window, small_cost=cost_of_small(seen), theme=theme)),
        ),
    )
    for row in rows:
        for place, (name, draw) in zip(st.columns(2), row, strict=True):
            widgets.chart(draw, f"learning-{name}", at, place)


def show_versions(seen: Learned, at: float, theme: Theme) -> None:
    """The versions with what became of them, and what happened besides."""
    st.subheader("Versions", anchor=False)
    widgets.chart(partial(figures.version_losses, seen.versions, theme=theme), "learning-versions", at)
    if not seen.versions.is_empty():
        columns = ("created_at", "state", "verdict", "rows", "reason")
        widgets.table(seen.versions.select(columns), "versions", column_config=VERSIONS, height="content")
    drifts = seen.events.filter(pl.col("kind").is_in(["drifted", "recovered", "unreadable", "erased"])).head(5)
    for kind, text in drifts.select("kind", "text").iter_rows():
        st.caption(f":material/info: {kind}: {text}")


def pick_task(seen: Learned) -> str | None:
    """A table of the latest attempts, from which one is picked to be explained; the id of the task picked last."""
    st.subheader("Explain one task", anchor=False)
    st.caption("Pick a row to see what was expected of it, and why.")
    texts = data.opened().tasks(widgets.choice().hours, limit=LISTED).select(pl.col("id").alias("task_id"), "text")
    latest = seen.predictions.reverse().head(LISTED).join(texts, on="task_id", how="left", maintain_order="left")
    columns = ("at", "text", "kind", "complexity", "model", *("predicted_tokens", "budget_tokens", "output_tokens"))
    table = latest.select(*columns, "chance", "succeeded")
    picked = st.session_state.get("explained-task")
    ids = latest["task_id"].to_list()
    widgets.pick(table, f"predicted-{picked}", ids, _pick, column_config=ATTEMPTS, height=280)
    return picked


def _pick(task_id: str) -> None:
    st.session_state["explained-task"] = task_id


def explain(task_id: str, at: float, theme: Theme) -> None:
    """What was expected of each attempt, what came of it, and what the other model would have taken."""
    if st.button("Close", key="close-explanation", icon=":material/close:"):
        st.session_state.pop("explained-task", None)
        st.rerun()
    asked(lambda: show_explanation(task_id, at, theme))


def show_explanation(task_id: str, at: float, theme: Theme) -> None:
    """The same without a way to close it. Raises TaleBaseException."""
    found = explanation(task_id, data.settings().url_of("gateway"))
    with st.container(border=True):
        st.markdown(f"**{words.shown(' '.join(found['text'].split())[:200])}**")
        attempts = pl.DataFrame([_attempt(kept) for kept in found["attempts"]], infer_schema_length=None)
        widgets.table(attempts, "explained")
        if known := found["explanation"]:
            left, right = st.columns(2)
            widgets.chart(partial(figures.what_mattered, known["parts"], theme=theme), f"parts-{task_id}", at, left)
            right.markdown("**What each model is expected to take**")
            others = pl.DataFrame([_alternative(each) for each in known["alternatives"]])
            widgets.table(others, "others", right)
            like = [" ".join(each["text"].split()) for each in known["like"] if each["text"]]
            right.caption(f"Tasks like it: {words.shown('; '.join(like)) or 'none'}")
        if found["note"]:
            st.caption(found["note"])


def nominal(predictions: pl.DataFrame) -> float:
    """The share of answers that budgets were meant for."""
    mean = predictions["coverage"].mean()
    return float(mean) if isinstance(mean, float) else 0.95


def _attempt(kept: dict[str, Any]) -> dict[str, Any]:
    expected, truth = kept["prediction"], kept["outcome"] or {}
    return {
        "attempt": kept["attempt"],
        "expected": expected["output_tokens"],
        "at most": expected["upper_tokens"],
        "written": truth.get("output_tokens"),
        "model": ROLE_NAMES[expected["role"]],
        "complexity": expected["complexity"] or "-",
        "succeeded": {True: "yes", False: "no"}.get(truth.get("succeeded"), "not known"),
        "why": expected["reason"],
    }


def _alternative(each: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": f"{each['model'] or '-'} ({ROLE_NAMES[each['role']]})",
        "tokens": each["output_tokens"],
        "at most": each["upper_tokens"],
        "weighted": round(each["weighted_tokens"]),
        "success": "-" if each["success"] is None else f"{each['success']:.0%}",
    }
