"""The dashboard: `streamlit run dashboard`. Its pages stand in pages.py; what they need is loaded while it starts."""

import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import streamlit as st
from live_chart import SCRIPT
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

NEEDED: Final = ("tale.analytics", "tale.settings", "tale.monitoring.pages", "tale.monitoring.cards", "tale.figures")
PLOTLY: Final = Path(str(files("plotly"))) / "package_data" / "plotly.min.js"
# The address names the version, so a browser may keep it. It goes out as it is: to compress it anew takes longer.
KEPT: Final = {"Cache-Control": "public, max-age=31536000, immutable", "Content-Encoding": "identity"}


@asynccontextmanager
async def ready_soon(_app: object) -> AsyncGenerator[dict[str, Any]]:
    """Import what every page needs while the browser still loads its own part."""
    threading.Thread(target=lambda: [import_module(name) for name in NEEDED], name="import-ahead", daemon=True).start()
    yield {}


async def plotly(_request: Request) -> FileResponse:
    """Plotly as its package ships it; too large to be sent with the pages."""
    return FileResponse(PLOTLY, media_type="text/javascript", headers=KEPT)


app = st.App(
    Path(__file__).with_name("pages.py"), lifespan=ready_soon, routes=[Route(f"/{SCRIPT}", plotly, methods=["GET"])]
)
