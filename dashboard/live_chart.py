"""Draws new data into a chart that is there, so that it does not flicker and keeps the zoom that somebody chose.

Streamlit (1.67) puts another chart in the place of one whose data have changed.
"""

from importlib.metadata import version
from typing import Any, Final

import streamlit as st

PLOTLY: Final = "tale.plotly"
CHART: Final = "tale.chart"
SCRIPT: Final = "plotly.js"  # where streamlit_app.py serves it
# A moment later: to take it in costs a second, in which the browser shows nothing of what it has got.
LOAD: Final = """
export default function () {
  if (window.Plotly || window.taleTakesIn) return;
  window.taleTakesIn = true;
  setTimeout(() => {
    const script = document.createElement("script");
    script.src = new URL("%s", document.baseURI).href;
    script.onerror = () => { window.taleTakesIn = false; };
    document.head.appendChild(script);
  }, 200);
}
"""
DRAW: Final = """
export default function ({ parentElement, data }) {
  let place = parentElement.querySelector(".tale-chart");
  if (!place) {
    place = document.createElement("div");
    place.className = "tale-chart";
    place.setAttribute("role", "figure");
    parentElement.appendChild(place);
  }
  place.setAttribute("aria-label", data.title);
  if (place.told === data.figure) return;
  place.told = data.figure;
  const draw = () => {
    if (place.told !== data.figure) return;
    if (!window.Plotly) return setTimeout(draw, 30);
    const { data: traces, layout } = JSON.parse(data.figure);
    window.Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
  };
  draw();
}
"""


def load_plotly() -> None:
    """Have the browser fetch Plotly; once a page, outside of what is drawn again and again."""
    _loader()(key="plotly", height=1)


def live_chart(figure: str, key: str, *, title: str, height: int) -> None:
    """Draw a figure, given as JSON, where it stands in the page. As long as its `uirevision` is the same, a zoom stays.

    `height` is in pixels.
    """
    _chart()(key=key, data={"figure": figure, "title": title}, height=height)


@st.cache_resource
def _loader() -> Any:
    return st.components.v2.component(PLOTLY, js=LOAD % f"{SCRIPT}?v={version('plotly')}", isolate_styles=False)


@st.cache_resource
def _chart() -> Any:
    return st.components.v2.component(CHART, js=DRAW, isolate_styles=False)
