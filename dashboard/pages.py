"""The pages of the dashboard: their navigation, and the choice of time and model that they share."""

from pathlib import Path

import streamlit as st
import widgets
from live_chart import load_plotly

FOLDER = Path(__file__).parent
PAGES = {
    "Watch": [
        st.Page("views/overview.py", title="Overview", icon=":material/speed:", default=True),
        st.Page("views/latency.py", title="Latency", icon=":material/timer:"),
        st.Page("views/targets.py", title="Targets", icon=":material/flag:"),
        st.Page("views/tokens.py", title="Tokens & Budgets", icon=":material/toll:"),
        st.Page("views/learning.py", title="Learning", icon=":material/school:"),
        st.Page("views/models.py", title="Models", icon=":material/memory:"),
        st.Page("views/reliability.py", title="Reliability", icon=":material/health_and_safety:"),
        st.Page("views/calls.py", title="Calls", icon=":material/list:"),
    ],
    "Work": [
        st.Page("views/chat.py", title="Chat", icon=":material/forum:"),
        st.Page("views/submit.py", title="Submit", icon=":material/send:"),
        st.Page("views/tasks.py", title="Tasks", icon=":material/task_alt:"),
    ],
}

st.set_page_config(page_title="tale", page_icon=str(FOLDER / "static" / "icon.svg"), layout="wide")
page = st.navigation(PAGES, position="sidebar")
widgets.set_style()
widgets.header(page.title)
widgets.guarded(page.run)
load_plotly()  # last: the figures of the page are seen a second before the browser has taken it in
