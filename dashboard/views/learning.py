"""Learning: how well lengths and success are foretold, how models are chosen, and what that saves."""

import learning_view
import streamlit as st
import widgets

import data


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    chosen = widgets.choice()
    seen, savings, taken_s, at = learning_view.shown(chosen.hours, chosen.model, data.settings().database)
    if seen.predictions.is_empty() and seen.versions.is_empty():
        widgets.empty("Nothing was predicted or learned yet", "tale submit 'Write a haiku'")
        return
    theme = widgets.theme(seen.predictions["model"].drop_nulls().unique().to_list())
    learning_view.show_savings(savings)
    learning_view.show_figures(seen, at, theme)
    learning_view.show_versions(seen, at, theme)
    if not seen.predictions.is_empty() and (task_id := learning_view.pick_task(seen)):
        learning_view.explain(task_id, at, theme)
    further = () if seen.is_whole else ("the latest attempts of this time only",)
    told = f"{len(seen.predictions):,} predicted attempts"
    st.caption(" · ".join([told, f"read in {taken_s * 1_000:,.0f} ms", *further]))


show()
