"""The watcher restarts a service that dies, lets one that says goodbye go, and is itself replaced when it dies."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tale.orchestration.watcher import (
    CANNOT_START,
    CRASHES_LIMIT,
    START_CHECKS_LIMIT,
    Watcher,
    WatchPlan,
    spawn_watcher,
)

# A service that notes each of its starts and then does what its argument says.
SERVICE = """
import os, signal, socket, sys
from pathlib import Path
from tale.orchestration.watcher import hide_link, take_link
log = Path(sys.argv[1])
hide_link()
link = take_link()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
starts = len(log.read_text().split()) if log.exists() else 0
log.open("a").write(f"{os.getpid()}\\n")
how = sys.argv[2 + min(starts, len(sys.argv) - 3)]
if how == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "leave a child":
    import asyncio, uvloop
    async def bear():
        child = await asyncio.create_subprocess_exec("sleep", "20")
        log.with_name("child").write_text(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)
    uvloop.run(bear())
if how == "refuse":
    sys.exit(78)
if how == "leave":
    link.sendall(b"bye")
if how == "hang":
    link.recv(64)
if how == "obey":
    signal.sigwait([signal.SIGTERM])
    link.sendall(b"bye")
"""


NOBODY = "http://127.0.0.1:9/health/live"  # the discard port


def plan(tmp_path: Path, *behaviour: str, interval_s: float = 60.0, live_url: str = NOBODY) -> WatchPlan:
    return WatchPlan(
        command=(sys.executable, "-c", SERVICE, str(tmp_path / "starts"), *behaviour),
        live_url=live_url,
        interval_s=interval_s,
        restart_delay_s=0.0,
    )


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().split())


def watch(watch_plan: WatchPlan) -> int:
    return Watcher(watch_plan, link=None, log=sys.stderr.fileno()).run()


def test_a_plan_survives_its_way_through_the_environment(tmp_path: Path) -> None:
    assert WatchPlan.from_json(plan(tmp_path, "leave").to_json()) == plan(tmp_path, "leave")


def test_a_service_that_says_goodbye_is_not_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch(plan(tmp_path, "leave")) == 0
    assert starts(tmp_path) == 1


def test_a_service_that_dies_is_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch(plan(tmp_path, "crash", "crash", "leave")) == 0
    assert starts(tmp_path) == 3


def test_the_death_of_a_service_is_seen_at_once_though_a_child_outlives_it(tmp_path: Path) -> None:
    assert watch(plan(tmp_path, "leave a child", "leave")) == 0
    child = int((tmp_path / "child").read_text())
    assert (starts(tmp_path), is_alive(child)) == (2, True)
    os.kill(child, signal.SIGKILL)


def test_a_service_that_cannot_start_is_not_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch(plan(tmp_path, "refuse")) == CANNOT_START
    assert starts(tmp_path) == 1


def test_the_watcher_gives_up_on_a_service_that_only_crashes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert watch(plan(tmp_path, "crash")) == 1
    assert starts(tmp_path) == CRASHES_LIMIT


@contextmanager
def live(answer: Callable[[int], int | None]) -> Iterator[str]:
    """A health check whose n-th answer has the status that is told; None is nonsense. Yields its URL."""
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            asked += 1
            status = answer(asked)
            if status is None:
                self.wfile.write(b"nonsense\r\n\r\n")
            else:
                self.send_response(status)
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/health/live"
        server.shutdown()
        thread.join()


def begun(tmp_path: Path) -> list[int]:
    """The pids of the services, of which there is one at least: waits until the first has begun."""
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return [int(pid) for pid in (tmp_path / "starts").read_text().split()]


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("answered_before", [0, 2])
def test_a_service_that_hangs_is_ended_and_started_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], answered_before: int
) -> None:
    def answer(number: int) -> int | None:
        return None if number > answered_before and is_alive(begun(tmp_path)[0]) else 200

    with live(answer) as url:
        assert watch(plan(tmp_path, "hang", "leave", interval_s=0.001, live_url=url)) == 0
    assert starts(tmp_path) == 2


def test_a_service_that_answers_is_left_alone_whatever_it_says_and_past_any_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", NOBODY)
    monkeypatch.delenv("no_proxy", raising=False)

    def answer(number: int) -> int:
        pids = begun(tmp_path)
        if number == START_CHECKS_LIMIT + 1:
            os.kill(pids[0], signal.SIGTERM)  # the service is told to leave
        return 200 if number % 2 else 503

    with live(answer) as url:
        assert watch(plan(tmp_path, "obey", "leave", interval_s=0.001, live_url=url)) == 0
    assert starts(tmp_path) == 1


def test_an_adopted_service_is_watched_like_ones_own(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with (tmp_path / "log").open("wb") as log:
        watcher = spawn_watcher(plan(tmp_path, "leave"), {}, log=log.fileno(), link=theirs)
    theirs.close()
    ours.sendall(str(os.getpid()).encode())
    ours.close()  # the adopted service dies without a farewell
    assert watcher.wait() == 0
    assert starts(tmp_path) == 1


def test_a_watcher_has_a_session_of_its_own(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with (tmp_path / "log").open("wb") as log:
        watcher = spawn_watcher(plan(tmp_path, "leave"), {}, log=log.fileno(), link=theirs)
    theirs.close()
    assert os.getsid(watcher.pid) == watcher.pid
    assert psutil.Process(watcher.pid).memory_info().rss < 40_000_000
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    ours.close()
