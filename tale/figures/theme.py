"""How all figures look: one theme, light and dark, a fixed colour per model that colour-blind people tell apart."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

FONT: Final = '"Source Sans", "Source Sans 3", Roboto, "Segoe UI", "DejaVu Sans", sans-serif'  # tabular figures
HEIGHT: Final = 320  # pixels
LOW: Final = 180  # pixels of a wide figure that has nothing to show
NO_DATA: Final = "No calls in this time.<br>Run: tale submit 'Write a haiku'"


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours as CSS, the time zone in which times are shown, and the models that are known, as they came.

    A model's colour is that of its place among them: those that come later change nothing. Any other model's depends on
    its name alone.
    """

    name: str
    text: str
    muted: str
    grid: str
    surface: str
    accent: str
    good: str
    bad: str
    warning: str
    palette: tuple[str, ...]
    zone: str = "UTC"
    models: tuple[str, ...] = ()

    def knowing(self, models: Sequence[str], zone: str | None = None) -> "Theme":
        """The theme for a service that got these models in this order, whose times are shown in that zone."""
        return replace(self, models=tuple(dict.fromkeys(models)), zone=zone or self.zone)

    def colour_of(self, model: str) -> str:
        """The colour of a model."""
        place = self.models.index(model) if model in self.models else zlib.crc32(model.encode())
        return self.palette[place % len(self.palette)]

    def faint(self, colour: str, opacity: float) -> str:
        """A colour of the theme (#rrggbb), transparent to that degree."""
        red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity:g})"


# After Okabe and Ito (2008), "Color Universal Design", darkened or lightened for contrast with the background.
LIGHT: Final = Theme(
    "light",
    text="#1f2937",
    muted="#64748b",
    grid="#e5e7eb",
    surface="#ffffff",
    accent="#0b6bcb",
    good="#00795a",
    bad="#c2410c",
    warning="#b26a00",
    palette=("#0072b2", "#d55e00", "#009e73", "#aa4499", "#3aa0dc", "#c98a00", "#5b5ea6", "#7a7a7a"),
)
DARK: Final = Theme(
    "dark",
    text="#e5e7eb",
    muted="#94a3b8",
    grid="#2b3442",
    surface="#0e1117",
    accent="#5aa9f5",
    good="#3fc9a0",
    bad="#ff8a5c",
    warning="#f2b64c",
    palette=("#4fa8e0", "#ff8a4c", "#33c79a", "#d682c4", "#8fd0f5", "#f0bd4f", "#9b9ee8", "#b0b0b0"),
)


def figure(theme: Theme, title: str, *, y_title: str = "", height: int = HEIGHT, **layout: Any) -> go.Figure:
    """An empty figure in the theme. Its state in the browser, such as a zoom, outlives new data."""
    axis = {"gridcolor": theme.grid, "zeroline": False, "linecolor": theme.grid, **_labels(theme)}
    return go.Figure(
        layout={
            "title": {
                "text": title,
                "x": 0,
                "xref": "container",
                "xanchor": "left",
                "font": {"size": 15},
                "pad": {"l": 4},
            },
            "font": {"family": FONT, "size": 12, "color": theme.text},
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 60, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "x unified",
            "hoverlabel": {"bgcolor": theme.surface, "font": {"color": theme.text, "family": FONT}},
            "legend": {
                **{"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
                "font": {"color": theme.muted},
            },
            "xaxis": {**axis, "showgrid": False},
            "yaxis": {**axis, "rangemode": "tozero", "title_text": y_title},
            "uirevision": title,
            **layout,
        }
    )


def nothing(theme: Theme, title: str, sentence: str = NO_DATA, *, height: int = HEIGHT) -> go.Figure:
    """A figure that says in one sentence what to run, because there is nothing to show."""
    drawn = figure(theme, title, height=height)
    drawn.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    drawn.add_annotation(text=sentence, showarrow=False, font={"color": theme.muted, "size": 13}, **place)
    return drawn


def times(theme: Theme, column: pl.Series) -> list[Any]:
    """The moments of a column in the theme's time zone, as they are drawn."""
    return column.dt.convert_time_zone(theme.zone).dt.replace_time_zone(None).to_list()


def show_target(drawn: go.Figure, theme: Theme, value: float, words: str) -> None:
    """Draw a limit as a dashed line, with its words to the right of the plot."""
    drawn.add_hline(y=value, line={"dash": "dash", "color": theme.warning, "width": 1.5})
    place = {"x": 1.005, "xref": "paper", "xanchor": "left", "y": value, "yref": "y"}
    drawn.add_annotation(text=words, showarrow=False, align="left", font={"color": theme.warning, "size": 11}, **place)
    drawn.update_layout(margin={"l": 8, "r": 64, "t": 60, "b": 8})


def show_side(drawn: go.Figure, theme: Theme, title: str) -> None:
    """Give the figure a second axis on its right, for the traces of the axis y2, with round numbers of its own."""
    side = {"overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False, "tickmode": "auto"}
    drawn.update_layout(yaxis2={**side, **_labels(theme), "nticks": 6, "title_text": title})


def reach(drawn: go.Figure, theme: Theme, begin: Any, end: Any) -> None:
    """Have the axis of times reach over the whole window, with the zone as its title.

    Not by its range: a range that moves on with the time would take the place of the one that somebody zoomed into.
    """
    moments = times(theme, pl.Series([begin, end]))
    drawn.update_xaxes(autorangeoptions={"include": moments}, type="date", title_text=f"time ({theme.zone})")


def _labels(theme: Theme) -> dict[str, Any]:
    """How the words and numbers at an axis look."""
    return {"automargin": True, "tickfont_color": theme.muted, "title_font": {"color": theme.muted, "size": 12}}
