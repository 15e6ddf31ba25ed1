"""Figures of a history: pure functions of frames that give Plotly figures, in one theme, light and dark.

In a notebook, after `from tale import analytics, figures`, two lines give a plot:

    history = analytics.open_history()
    figures.latency(history.calls(hours=24))
"""

from tale.figures.latency import distribution, heatmap, latency, parts_of_time
from tale.figures.learning import (
    budget_coverage,
    learning_curve,
    prediction_error,
    reliability_diagram,
    version_losses,
    what_mattered,
)
from tale.figures.load import machine, queue
from tale.figures.models import loads, model_memory, speed
from tale.figures.reliability import error_classes, error_rate, outcomes, recoveries
from tale.figures.routing import regret, routes
from tale.figures.targets import burn_down, calendar
from tale.figures.tasks import waterfall
from tale.figures.theme import DARK, LIGHT, Theme
from tale.figures.tokens import budget_use, token_kinds, tokens

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "budget_coverage",
    "budget_use",
    "burn_down",
    "calendar",
    "distribution",
    "error_classes",
    "error_rate",
    "heatmap",
    "latency",
    "learning_curve",
    "loads",
    "machine",
    "model_memory",
    "outcomes",
    "parts_of_time",
    "prediction_error",
    "queue",
    "recoveries",
    "regret",
    "reliability_diagram",
    "routes",
    "speed",
    "token_kinds",
    "tokens",
    "version_losses",
    "waterfall",
    "what_mattered",
]
