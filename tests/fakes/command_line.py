"""Runs the command line as a user does: in this process with its output captured, or on a pseudo-terminal."""

import codecs
import fcntl
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import psutil

COMMAND = (sys.executable, "-m", "tale.cli.main")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]")
PATIENCE_S = 60.0
LOOK_INTERVAL_S = 0.01
PROCESSES = 8  # of tests, at most

_given: deque[int] = deque(maxlen=500)  # ports


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port that nobody listens on, and that no other test was given of late.

    It is from below those that the system gives to clients, which come and go, and each test process has ports of its
    own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randrange(10_000 + worker % PROCESSES, 32_000, PROCESSES)
        if port in _given:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.append(port)
            return port


def in_subprocess(*arguments: str, given: bytes | None = None, env: Mapping[str, str] | None = None) -> Outcome:
    """Run a command in a process of its own with pipes for its streams."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=PATIENCE_S,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


class Terminal:
    """A command on a pseudo-terminal of a given size and kind; `stdout` may be led into a pipe instead."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        columns: int = 100,
        kind: str = "xterm-256color",
        stdout_in_pipe: bool = False,
    ) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=subprocess.PIPE if stdout_in_pipe else slave,
            stderr=slave,
            env={**environment, "TERM": kind},
            start_new_session=True,
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.raw = ""

    def read_until(self, text: str) -> None:
        """Read until the text has been shown."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.plain:
            if time.monotonic() > deadline or not self._read():
                self._give_up(f"{text!r} never came")

    def read_until_asked(self, question: str) -> None:
        """Read until the command waits for an answer: a signal between its question and its wait would go unnoticed."""
        self.read_until(question)
        command = psutil.Process(self.process.pid)
        while command.status() != psutil.STATUS_SLEEPING:
            time.sleep(LOOK_INTERVAL_S)

    def type(self, text: str) -> None:
        """Type on the terminal."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C sends to the program in front."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Read what there is to the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read():
            if time.monotonic() > deadline:
                self._give_up("the command does not end")
        modes = termios.tcgetattr(self._master)[3]
        self.is_restored = bool(modes & termios.ECHO and modes & termios.ICANON) and "\x1b[?25l" not in self.raw
        return self._close()

    @property
    def lines(self) -> list[str]:
        """The same by lines, of which later ones may have taken the place of earlier ones."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", self.plain)]

    @property
    def plain(self) -> str:
        """Everything shown so far, without colours and cursor movements."""
        return ESCAPE.sub("", self.raw)

    def _read(self) -> bool:
        """Take in what comes within a second; False at the end."""
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # Linux says so when the other end is closed
            return False
        self.raw += self._decoder.decode(data)
        return bool(data)

    def _give_up(self, reason: str) -> NoReturn:
        self.process.kill()
        self._close()
        raise AssertionError(f"{reason}: {self.plain!r}")

    def _close(self) -> int:
        os.close(self._master)
        code = self.process.wait(PATIENCE_S)
        self.piped = self.process.stdout.read().decode() if self.process.stdout else ""
        if self.process.stdout:
            self.process.stdout.close()
        return code
