"""All pages in a real browser, wide and narrow, light and dark, zoomed and paused; a task and a talk with a real model.

It runs where Chromium and Playwright are, and TALE_SCREENSHOTS names the folder that the screenshots are kept in:

    TALE_SCREENSHOTS=/some/folder pytest -n 0 tests/test_dashboard_browser.py
"""

import asyncio
import os
import random
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fakes.command_line import COMMAND, free_port, in_subprocess
from fakes.learned_history import keep_alerts, keep_learned, keep_watched
from fakes.sample_history import LARGE, call
from sqlalchemy import Executable, create_engine, delete, insert

from tale.records import Task, TaskStatus
from tale.storage.rows import values_of
from tale.storage.tables import model_calls, tasks

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FOLDER = os.environ.get("TALE_SCREENSHOTS")
pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="TALE_SCREENSHOTS names no folder for what the browser shows"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]

MODEL = "smollm2:135m"
SIZES = {"wide": (1280, 1000), "narrow": (390, 844)}
TALLEST = 6_000  # pixels of a screenshot
PATIENCE_MS = 90_000
CONTENT = ", ".join(
    ("[data-testid='stAlert']", "[data-testid='stCode']", "[data-testid='stDataFrame']", ".main-svg", "textarea")
)
# Streamlit looks for its own address below each page's, and finds it above; nothing of the page is lacking.
OWN_SEARCH = re.compile(r"/[^/]+/_stcore/(health|host-config)$")
SETTLED = (
    """() => !document.querySelector("[data-testid='stSkeleton'], [data-testid='stSpinner'], [data-stale='true']")"""
)
LINKS = """() => [...document.querySelectorAll("[data-testid='stSidebarNavLink']")].map(link => link.href)"""
WIDTHS = "() => [document.scrollingElement.scrollWidth, window.innerWidth]"
MAIN = "[data-testid='stMain'], [data-testid='stAppScrollToBottomContainer']"  # the latter below a chat's input
HEIGHT = f"""() => document.querySelector("{MAIN}").scrollHeight"""
NAMED = re.compile(r"\S")
RANGE = "chart => chart.layout.xaxis.range"
COUNTED = "chart => chart.data.flatMap(trace => [...trace.y]).reduce((sum, count) => sum + count, 0)"
MOST_TABS = 60
TWO_LOOKS_MS = 5_000


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a home with a history that ends now, and ports of its own."""
    home = tmp_path_factory.mktemp("home")
    url, now = f"sqlite:///{home}/tale.db", time.time()
    asyncio.run(keep_learned(url, now=now, count=600))
    asyncio.run(keep_watched(url, now=now))
    asyncio.run(keep_alerts(url, now))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    roles = ("GATEWAY", "EXECUTION", "UX_AGENT", "MODEL", "LEARNING")
    models = {"TALE_BACKEND": "embedded", "TALE_UX_MODEL": MODEL, "TALE_TASK_MODEL": MODEL, "TALE_LEARNING": "off"}
    ports = {f"TALE_{role}_PORT": str(free_port()) for role in roles}
    return {**clean, **models, **ports, "TALE_HOME": str(home), "TALE_TASK_CONTEXT_TOKENS": "4096"}


@pytest.fixture(scope="module")
def site(environment: dict[str, str]) -> Iterator[str]:
    """The address of the dashboard."""
    port = free_port()
    command = [*COMMAND, "dashboard", "--web", "--port", str(port)]
    told = {name: value for name, value in environment.items() if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "Ctrl-C ends it" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def browser() -> Iterator[Any]:
    """One for each test: as long as Playwright runs, no other event loop may run in this thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *quiet])
        yield started
        started.close()


@contextmanager
def looked_at(browser: Any, size: str, theme: str) -> Iterator[Any]:
    """A page of the browser; fails afterwards on what the console called an error."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        timezone_id="Europe/Berlin",
        locale="en-GB",
        reduced_motion="reduce",
    )
    context.set_default_timeout(PATIENCE_MS)
    page, errors = context.new_page(), list[str]()

    def note(message: Any) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not OWN_SEARCH.search(where):
            errors.append(f"{message.text} ({where})")

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
    except Exception:
        page.screenshot(path=Path(FOLDER or ".") / f"failed-{size}-{theme}.png")
        raise
    finally:
        context.close()
    assert errors == []


def settle(page: Any) -> None:
    """Return when the page shows something, and nothing of it is still to come."""
    page.locator(CONTENT).locator("visible=true").first.wait_for()
    page.wait_for_function(SETTLED)
    page.wait_for_timeout(1_500)  # charts are drawn into the page, of which it does not tell


def keep(page: Any, size: str, name: str) -> None:
    """A screenshot of the whole page."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": max(height, min(page.evaluate(HEIGHT) + 20, TALLEST))})
    page.wait_for_timeout(500)
    path = Path(FOLDER or ".") / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)
    page.set_viewport_size({"width": width, "height": height})


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_of_the_navigation_shows_itself_without_an_error(site: str, browser: Any, size: str, theme: str):
    with looked_at(browser, size, theme) as page:
        page.goto(f"{site}/?window=6h")
        settle(page)
        addresses = page.evaluate(LINKS)
        assert len(addresses) >= 9
        for address in addresses:
            name = address.split("?")[0].removeprefix(site).strip("/") or "overview"
            page.goto(f"{address.split('?')[0]}?window=6h")
            settle(page)
            assert page.locator("[data-testid='stException']").count() == 0, name
            assert page.get_by_role("figure", name=NAMED).count() == page.locator(".tale-chart").count(), name
            wanted, there = page.evaluate(WIDTHS)
            assert wanted <= there, f"{name} is {wanted} pixels wide"
            keep(page, size, f"{name}-{size}-{theme}")


def test_the_choice_of_time_is_in_the_address_and_holds_for_the_next_page(site: str, browser: Any):
    with looked_at(browser, "wide", "light") as page:
        page.goto(f"{site}/?window=6h")
        settle(page)
        page.get_by_role("radio", name="24h").or_(page.get_by_role("button", name="24h")).first.click()
        page.wait_for_function("() => location.search.includes('window=24h')")
        page.get_by_role("link", name="Latency").click()
        page.wait_for_url("**/latency**")
        settle(page)
        assert "window=24h" in page.url


def write(environment: dict[str, str], change: Executable) -> None:
    """Change the history as the service does meanwhile, without an event loop of its own."""
    engine = create_engine(f"sqlite:///{environment['TALE_HOME']}/tale.db")
    with engine.begin() as connection:
        connection.execute(change)
    engine.dispose()


def drag_over(page: Any, chart: Any) -> None:
    """Zoom into the middle of a chart, as a hand does."""
    chart.scroll_into_view_if_needed()
    box = chart.query_selector(".nsewdrag").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], y, steps=5)
    page.mouse.up()
    page.wait_for_function("chart => chart.layout.xaxis.autorange === false", arg=chart)


def reach_by_keys(page: Any, widget: Any) -> None:
    """Go from one widget to the next until it is that one."""
    for _ in range(MOST_TABS):
        page.keyboard.press("Tab")
        if widget.evaluate("node => node === document.activeElement"):
            return
    pytest.fail("no key reaches it")


def test_a_zoom_outlives_the_calls_that_come_meanwhile(site: str, browser: Any, environment: dict[str, str]):
    with looked_at(browser, "wide", "light") as page:
        page.goto(f"{site}/?window=6h")
        settle(page)
        chart = page.get_by_role("figure", name="Calls by outcome").element_handle()
        drag_over(page, chart)
        zoom, counted, now = chart.evaluate(RANGE), chart.evaluate(COUNTED), time.time()
        made = replace(call(random.Random(1), now - 300, now), ended_at=now, total_s=300.0)
        write(environment, insert(model_calls).values(values_of(made)))
        page.wait_for_function(f"([chart, counted]) => ({COUNTED})(chart) > counted", arg=[chart, counted])
        page.wait_for_timeout(300)
        assert chart.evaluate("chart => chart.isConnected")
        assert chart.evaluate(RANGE) == zoom


def test_a_page_that_keys_have_paused_stands_still(site: str, browser: Any, environment: dict[str, str]):
    with looked_at(browser, "wide", "light") as page:
        page.goto(f"{site}/?window=6h")
        settle(page)
        card = page.get_by_test_id("stMetric").filter(has_text="Tasks running").get_by_test_id("stMetricValue")
        before = int(card.inner_text())
        task = Task(str(uuid.uuid4()), "Write a haiku.", TaskStatus.RUNNING, time.time())
        write(environment, insert(tasks).values(values_of(task)))
        card.get_by_text(str(before + 1), exact=True).wait_for()
        live = page.get_by_role("switch", name="Live")
        reach_by_keys(page, live)
        page.keyboard.press("Space")
        page.wait_for_function("() => location.search.includes('live=')")
        settle(page)
        write(environment, delete(tasks).where(tasks.c.id == task.id))
        page.wait_for_timeout(TWO_LOOKS_MS)
        assert int(card.inner_text()) == before + 1
        page.keyboard.press("Space")
        card.get_by_text(str(before), exact=True).wait_for()


def test_the_choice_of_a_model_is_in_the_address_and_outlives_a_reload(site: str, browser: Any):
    with looked_at(browser, "wide", "light") as page:
        page.goto(f"{site}/?window=6h")
        settle(page)
        page.get_by_role("combobox", name="Model").click()
        page.get_by_role("option", name=LARGE).click()
        page.wait_for_function("() => location.search.includes('model=')")
        page.get_by_role("link", name="Latency").click()
        page.wait_for_url("**/latency**")
        page.reload()
        settle(page)
        assert parse_qs(urlsplit(page.url).query)["model"] == [LARGE]
        assert page.get_by_role("combobox", name="Model").input_value() == LARGE


@pytest.fixture(scope="module")
def service(environment: dict[str, str], model_folder: Path) -> Iterator[None]:
    """The service with a real model."""
    models = Path(environment["TALE_HOME"]) / "models"
    models.mkdir(exist_ok=True)
    for path in model_folder.iterdir():
        with suppress(FileExistsError):
            (models / path.name).symlink_to(path)
    started = in_subprocess("servers", "start", env=environment)
    assert started.code == 0, started.err
    raised = in_subprocess("budgets", "set", "10M", env=environment)  # what the history used leaves nothing
    assert raised.code == 0, raised.err
    yield
    in_subprocess("servers", "stop", env=environment)


@pytest.mark.model
def test_a_task_is_handed_in_and_its_result_shown(service: None, site: str, browser: Any):
    with looked_at(browser, "wide", "light") as page:
        page.goto(f"{site}/submit")
        page.get_by_role("textbox", name="Task").first.fill("Say hello to the world.")
        page.keyboard.press("Control+Enter")
        page.get_by_text("Expected length").wait_for()
        settle(page)  # a click on a button that is just drawn anew goes nowhere
        page.get_by_role("button", name="Submit", exact=True).last.click()
        page.get_by_text("completed", exact=True).first.wait_for()
        settle(page)
        keep(page, "wide", "task-done")


@pytest.mark.model
@pytest.mark.parametrize("size", SIZES)
def test_a_talk_is_held_and_comes_back_after_a_reload(service: None, site: str, browser: Any, size: str):
    with looked_at(browser, size, "light") as page:
        page.goto(f"{site}/chat")
        page.get_by_test_id("stChatInputTextArea").fill("Hello, how are you?")
        page.keyboard.press("Enter")
        answered = page.get_by_text(re.compile(rf"first token .*tokens · {re.escape(MODEL)}"))
        answered.first.wait_for()
        keep(page, size, f"chat-answered-{size}")
        page.reload()
        page.get_by_text("Hello, how are you?").first.wait_for()
        answered.first.wait_for()
