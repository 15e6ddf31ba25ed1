"""Starts the dashboard for the browser, on this machine alone, and opens it."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from tale.cli.rendering import Screen
from tale.exceptions import ServerException, ValidationException
from tale.settings import Settings

HOST: Final = "127.0.0.1"
START_LIMIT_S: Final = 60.0
LOOK_INTERVAL_S: Final = 0.1
END_LIMIT_S: Final = 10.0
OK: Final = 200
DISPLAYS: Final = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
# Threads that read a history by turns keep a heap each, and Polars' pool is as wide as the machine.
LEAN: Final = {
    "MALLOC_ARENA_MAX": "2",
    "POLARS_MAX_THREADS": "2",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:500,muzzy_decay_ms:500",
}


def serve_dashboard(settings: Settings, port: int) -> int:
    """Serve it until Ctrl-C or SIGTERM; returns the exit code. Raises ValidationException for a port that is taken."""
    screen, folder = Screen(), dashboard_folder()
    if _answers(port):
        raise ValidationException(f"Port {port} of this machine is taken; choose another: tale dashboard --web --port")
    command = [sys.executable, "-m", "streamlit", "run", str(folder)]
    command += ["--server.address", HOST, "--server.port", str(port), "--server.headless", "true"]
    environment = {**LEAN, **os.environ, "TALE_HOME": str(settings.home)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else what was started here would go on
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603 - our own words
    try:
        _wait_until_live(process, port)
        url = f"http://{HOST}:{port}"
        screen.show(f"The dashboard is at {url}. Ctrl-C ends it.")
        if can_open(os.environ):
            webbrowser.open(url)
        return process.wait()
    finally:
        process.terminate()
        try:
            process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def dashboard_folder() -> Path:
    """The dashboard's files in the package as it is installed, or in the source tree. Raises ValidationException."""
    places = (Path(__file__).parents[1] / "dashboard", Path(__file__).parents[2] / "dashboard")
    found = next((place for place in places if (place / "streamlit_app.py").is_file()), None)
    if found is None:
        raise ValidationException("The dashboard for the browser did not come with this tale; install it again.")
    return found


def can_open(environment: Mapping[str, str]) -> bool:
    """Whether a browser would have a window: one of the terminal would take it from the command."""
    return sys.platform == "darwin" or any(environment.get(name) for name in DISPLAYS)


def _wait_until_live(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if _is_live(port):
            return
        time.sleep(LOOK_INTERVAL_S)
    raise ServerException(f"The dashboard did not start on port {port}; what it said stands above.")


def _is_live(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=1.0)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _answers(port: int) -> bool:
    with socket.socket() as taken:
        taken.settimeout(1.0)
        return taken.connect_ex((HOST, port)) == 0
