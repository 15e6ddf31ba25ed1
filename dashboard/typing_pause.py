"""Hands a text over when its writer pauses: Streamlit (1.67) would wait until the text area is left."""

from typing import Any, Final

import streamlit as st

NAME: Final = "tale.typing_pause"
LISTEN: Final = """
export default function () {
  if (window.taleTypingPause) return;
  window.taleTypingPause = true;
  const handOver = new Map();
  document.addEventListener("input", (event) => {
    const area = event.target;
    if (!area.matches('textarea[aria-label="Task"]')) return;
    clearTimeout(handOver.get(area));
    const keys = { key: "Enter", ctrlKey: true, bubbles: true, cancelable: true };
    handOver.set(area, setTimeout(() => area.dispatchEvent(new KeyboardEvent("keydown", keys)), 500));
  });
}
"""


def hand_over_at_pauses() -> None:
    """Have the text area with the label Task hand over what is typed half a second after the last key."""
    _listener()(key="typing-pause", height=1)


@st.cache_resource
def _listener() -> Any:
    return st.components.v2.component(NAME, js=LISTEN, isolate_styles=False)
