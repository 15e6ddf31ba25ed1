"""What pages are made of: the header with its choice, cards, charts, empty states, the line at the end."""

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import polars as pl
import streamlit as st
from live_chart import live_chart
from plotly.graph_objects import Figure
from polars import selectors

import data
from tale.analytics.windows import Window
from tale.constants import POLLING_INTERVAL
from tale.exceptions import TaleBaseException
from tale.figures import DARK, LIGHT, Theme
from tale.monitoring.cards import Card
from tale.monitoring.pages import Choice, exceeds_day
from tale.settings import LOOPBACK_HOSTS

WINDOWS: Final = {"15m": 0.25, "1h": 1.0, "6h": 6.0, "24h": 24.0, "7d": 168.0, "30d": 720.0}
EVERY_MODEL: Final = "All models"
DRAWN_S: Final = 10.0  # for which a figure is kept: those who look at the same time see the same data
CARD_PIXELS: Final = 134
CARDS_BESIDE: Final = 4  # the times above, the counts below
STYLE: Final = """<style>
.block-container { padding: 2.2rem 2rem 2rem; max-width: 1500px; }
[data-testid="stMetric"], .js-plotly-plot text { font-variant-numeric: tabular-nums; }
@media (max-width: 640px) { .block-container { padding-left: 0.8rem; padding-right: 0.8rem; } }
</style>"""


def set_style() -> None:
    """Tabular figures, and less empty space around the page."""
    st.html(STYLE)


def header(title: str) -> None:
    """The title of the page, and the choice of time, model and whether it is live, which the URL holds."""
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    left.header(title, anchor=False)
    with right.container(horizontal=True, horizontal_alignment="right", vertical_alignment="bottom"):
        st.segmented_control(
            "Time",
            list(WINDOWS),
            default="1h",
            required=True,
            key="window",
            bind="query-params",
            label_visibility="collapsed",
        )
        st.selectbox(
            "Model",
            [EVERY_MODEL, *_models()],
            key="model",
            bind="query-params",
            label_visibility="collapsed",
            width=160,
        )
        st.toggle("Live", value=True, key="live", bind="query-params", help="Look again every two seconds.")


def choice() -> Choice:
    """What people chose in the header."""
    model = st.session_state.get("model", EVERY_MODEL)
    hours = WINDOWS[st.session_state.get("window") or "1h"]
    return Choice(hours, None if model == EVERY_MODEL else model)


def pace() -> float | None:
    """Seconds between two looks; None while the page is paused."""
    return POLLING_INTERVAL if st.session_state.get("live", True) else None


def theme(models: Sequence[str] = ()) -> Theme:
    """The colours that the browser shows, the same of a model on all pages, and the time zone that it is in.

    Raises DatabaseException.
    """
    base = DARK if st.context.theme.type == "dark" else LIGHT
    return base.knowing([*data.models(data.settings().database), *models], st.context.timezone)


def guarded(show: Callable[[], None]) -> None:
    """Show something, or say in a sentence why it cannot be shown."""
    try:
        show()
    except TaleBaseException as error:
        refused(error)


def refused(error: TaleBaseException) -> None:
    """Say in a sentence why something cannot be shown."""
    st.error(f"{error.message}", icon=":material/error:")
    if error.context:
        st.caption(", ".join(f"{name}: {value}" for name, value in error.context.items()))


def done(work: Callable[[], object]) -> bool:
    """Do what a press asks for; whether that was possible.

    What refuses it is said apart from the page, until it is read: the page is soon drawn anew without it.
    """
    try:
        work()
    except TaleBaseException as error:
        st.toast(error.message, icon=":material/error:", duration="infinite")
        return False
    return True


def is_new(key: str, value: object) -> bool:
    """Whether a widget has another value than at the last look: what a press asks for is done once, refused or not."""
    before, st.session_state[key] = st.session_state.get(key), value
    return value != before


def keep_in_address(name: str) -> None:
    """Have what the address holds by that name outlive a look at another page, which leaves it out."""
    if name in st.query_params:
        st.session_state[f"last-{name}"] = st.query_params[name]
    elif held := st.session_state.get(f"last-{name}"):
        st.query_params[name] = held


def drop_from_address(name: str) -> None:
    """Take off the address what it holds by that name, for good."""
    st.query_params.pop(name, None)
    st.session_state.pop(f"last-{name}", None)


def cards(found: Sequence[Card]) -> None:
    """Bordered cards with a sparkline each, beside each other as far as there is room."""
    grid = st.grid(CARDS_BESIDE, min_column_width=CARD_PIXELS, border=True)
    for card in found:
        grid.metric(
            card.label,
            card.value,
            card.change,
            delta_color="off" if card.is_good is None else "green" if card.is_good else "red",
            delta_arrow="off" if card.is_good is None else "auto",
            delta_description=card.against,
            chart_data=list(card.course) or None,
            chart_type="area",
        )


def chart(draw: Callable[[], Figure], key: str, at: float, place: Any = st, *, of: str = "") -> None:
    """A figure in a border, with its title as text above it, which wraps; drawn anew only for data of another time.

    `of` says in the title of what the figure is, where that is less than was chosen.
    """
    title, told, height = _drawn(key, at, str(choice()), str(st.context.theme.type), st.context.timezone, draw)
    with place.container(border=True, gap=None):
        st.markdown(f"**{title}{of}**")
        live_chart(told, key, title=title, height=height)


@st.cache_data(ttl=DRAWN_S, max_entries=200, show_spinner=False)
def _drawn(
    key: str, at: float, chosen: str, theme: str, zone: str | None, _draw: Callable[[], Figure]
) -> tuple[str, str, int]:
    """The title, the figure as JSON and its height in pixels."""
    figure = _draw()
    title = figure.layout.title.text
    figure.update_layout(title=None, margin={"t": 28}, height=figure.layout.height - 32, uirevision=chosen)
    return title, figure.to_json(), figure.layout.height


def empty(title: str, command: str) -> None:
    """A bordered box with the command to run."""
    with st.container(border=True, horizontal_alignment="center"):
        st.markdown(f"#### :material/hourglass_empty: {title}")
        st.caption("It appears here within seconds. In a terminal:")
        st.code(command, language="bash")


def table(frame: pl.DataFrame, key: str, place: Any = st, **options: Any) -> Any:
    """A frame as people read it, times in the browser's zone, nothing where there is no text.

    As an Arrow table that is sent whole, which is the one way on which Streamlit needs no pandas (42 MB).
    """
    local = selectors.datetime().dt.convert_time_zone(st.context.timezone or "UTC").dt.replace_time_zone(None)
    told = frame.with_columns(local, selectors.string().fill_null(""))
    arrow = told.to_arrow(compat_level=pl.CompatLevel.oldest())  # the browser knows no string views
    return place.dataframe(arrow, hide_index=True, key=key, lazy=False, **options)


def pick(frame: pl.DataFrame, key: str, ids: Sequence[str], on_pick: Callable[[str], None], **options: Any) -> None:
    """A table of which one row can be picked; `on_pick` gets the id of what that row showed, whatever has come since.

    For the next choice the table has to be there anew: with another key.
    """

    def take() -> None:
        for row in st.session_state[key].selection.rows:
            if row < len(ids):
                on_pick(ids[row])

    table(frame, key, on_select=take, selection_mode="single-row", **options)


def latest(frame: pl.DataFrame, most: int) -> str:
    """That it is the latest only, to be said in a title, where as many rows are there as are read."""
    return f", the latest {most}" if len(frame) >= most else ""


def last_day(window: Window) -> str:
    """That it is the last day only, likewise."""
    return ", the last day" if exceeds_day(window) else ""


def charts_end(window: Window) -> str:
    """When the last slot was over, for the footer: charts hold no other, figures and tables all up to now."""
    moment = window.end.astimezone(ZoneInfo(st.context.timezone or "UTC"))
    return f"charts end at {moment:%H:%M}"


def footer(calls: int, taken_s: float, at: float, *further: str) -> None:
    """How much was looked at, how long that took, and when."""
    moment = datetime.fromtimestamp(at, ZoneInfo(st.context.timezone or "UTC"))
    told = f"{calls:,} calls", f"read in {taken_s * 1_000:,.0f} ms", f"{moment:%H:%M:%S}"
    st.caption(" · ".join([*told, *further]))


def may_write() -> bool:
    """Whether tasks may be handed in and stopped here: not by strangers, where the dashboard is reachable by others."""
    if (st.get_option("server.address") or "") in LOOPBACK_HOSTS:
        return True
    key = data.settings().api_key
    if key is None:
        return False
    given = st.sidebar.text_input("Key", type="password", help="The api_key of tale; without it one can only look.")
    return hmac.compare_digest(given.encode(), key.get_secret_value().encode())


def _models() -> list[str]:
    """The models of the chosen time, and the one that is chosen."""
    wanted = st.session_state.get("model") or st.query_params.get("model")
    hours = WINDOWS.get(st.session_state.get("window") or st.query_params.get("window") or "1h", 1.0)
    try:
        found = data.page("Overview", Choice(hours))[0].models
    except TaleBaseException:
        found = []  # the page itself says why
    return sorted({*found, *([wanted] if wanted and wanted != EVERY_MODEL else [])})
