"""Tokens & Budgets: what was read and written by which model, what the budgets say, and what learning saved."""

import alerts_view
import learning_view
import streamlit as st
import widgets

import data
from tale import figures
from tale.analytics import summaries

SUMS = ("model", "calls", "input_tokens", "cached_tokens", "output_tokens", "unreported")
CONFIG = {
    "calls": st.column_config.NumberColumn("calls", format="localized"),
    "input_tokens": st.column_config.NumberColumn("tokens read", format="localized"),
    "cached_tokens": st.column_config.NumberColumn("of them cached", format="localized"),
    "output_tokens": st.column_config.NumberColumn("tokens written", format="localized"),
    "unreported": st.column_config.NumberColumn("calls unreported", help="Of these no engine told the tokens."),
}


@st.fragment(run_every=widgets.pace())
def show() -> None:
    """All of it, again and again."""
    widgets.guarded(_shown)


def _shown() -> None:
    chosen = widgets.choice()
    seen, taken_s, at = data.page("Tokens & Budgets", chosen)
    theme = widgets.theme(seen.models)
    alerts_view.strip(["budget"])
    if seen.minutes.is_empty():
        widgets.empty("No calls in this time", "tale submit 'Write a haiku'")
    else:
        left, right = st.columns(2)
        shown = {"window": seen.window, "theme": theme}
        widgets.chart(lambda: figures.tokens(seen.minutes, **shown), "tokens-models", at, left)
        widgets.chart(lambda: figures.token_kinds(seen.minutes, **shown), "tokens-kinds", at, right)
        sums = summaries.totals(seen.minutes, ["model"]).select(SUMS)
        widgets.table(sums, "token-sums", column_config=CONFIG, height="content")
    widgets.chart(lambda: figures.budget_use(seen.budgets, theme=theme), "tokens-budgets", at)
    learned, savings, _, _ = learning_view.shown(chosen.hours, chosen.model, data.settings().database)
    learning_view.show_misses(learned)
    learning_view.show_savings(savings)
    widgets.footer(int(seen.minutes["calls"].sum()), taken_s, at, widgets.charts_end(seen.window))


show()
