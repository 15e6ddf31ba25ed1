"""Writes down one conversation in a terminal with the real models, in the midst of which the UX agent is killed.

python scripts/chat_session.py docs/chat-session.txt

It runs apart from everything else, as scripts/demo.sh does: a temporary home, free ports, the model files of TALE_HOME
(default ~/.tale). What the user waits for has to come, else it exits with 1 and nothing is written. The extra `dev`
brings the terminal (pyte).
"""

import argparse
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

import pyte
from free_ports import free_ports

COLUMNS, ROWS = 100, 40
PATIENCE_S = 180.0
ENTER, LEAVE = "\r", "\x04"
ANSWERED = r"(.*\n)+\n>\Z"  # nothing moves above the prompt any more
FIBONACCI = "Can you write a python function to calculate fibonacci numbers?"
CART = "Write a python class for a shopping cart, with tests."
LAST = "What was my last request?"


class Shell:
    """A shell in a terminal of its own, as somebody sees it who types there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._screen = pyte.HistoryScreen(COLUMNS, ROWS, history=10_000)
        self._screen.write_process_input = self.type  # what programs ask the terminal
        self._stream = pyte.ByteStream(self._screen)
        self._notes: list[tuple[int, str]] = []
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--noprofile", "--norc"], environment | {"PS1": "$ ", "TERM": "xterm-256color"})
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.wait(r"\$\Z")

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._terminal, text.encode())

    def run(self, command: str, told: str = "") -> None:
        """Have a command carried out, which has to print what `told` matches."""
        self.type(command + ENTER)
        self.wait(rf"^\$ {re.escape(command)}\n(.*\n)*.*{told}(.*\n)*\$\Z")

    def say(self, words: str, told: str = ANSWERED) -> None:
        """Say something in the conversation, below which has to come what `told` matches."""
        self.type(words + ENTER)
        self.wait(rf"^> {re.escape(words)}\n(.*\n)*{told}")

    def wait(self, pattern: str) -> None:
        """Read until the whole of what was shown so far matches, or exit."""
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, "\n".join(self.lines), re.MULTILINE):
            if time.monotonic() > deadline or not self._read():
                raise SystemExit("\n".join([*self.lines, "", f"This never came: {pattern}"]))

    def note(self, text: str) -> None:
        """Remember what happens now, above the prompt and what moves there."""
        lines = self.lines
        while lines and re.match(r"$|>|[\u2800-\u28ff]", lines[-1]):
            lines.pop()
        self._notes.append((len(lines), text))

    @property
    def lines(self) -> list[str]:
        """All that was shown, from the first line to the last."""
        gone = ["".join(line[at].data for at in range(COLUMNS)) for line in self._screen.history.top]
        return "\n".join(line.rstrip() for line in (*gone, *self._screen.display)).rstrip().splitlines()

    @property
    def transcript(self) -> str:
        """The same without the last prompt, with the notes where they belong."""
        lines = self.lines[:-1]
        for number, text in reversed(self._notes):
            lines[number:number] = ["", f"[{text}]"]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """End the shell and what runs in it."""
        os.close(self._terminal)
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def _read(self) -> bool:
        """Take in what comes within a second; False at the end."""
        if not select.select([self._terminal], [], [], 1.0)[0]:
            return True
        try:
            self._stream.feed(os.read(self._terminal, 65_536))
        except OSError:  # Linux says so when the other end is closed
            return False
        return True


def environment_of(home: Path) -> dict[str, str]:
    """Variables of a home of its own with the models of the user's."""
    models = Path(os.environ.get("TALE_HOME") or "~/.tale").expanduser().resolve() / "models"
    models.mkdir(parents=True, exist_ok=True)
    home.mkdir()
    (home / "models").symlink_to(models)
    ports = free_ports()
    others = {name: value for name, value in os.environ.items() if not name.startswith("TALE_")}
    chosen = {f"TALE_{role.upper()}_PORT": str(port) for role, port in ports.items()}
    return {**others, **chosen, "TALE_HOME": str(home), "MODELS": f"http://127.0.0.1:{ports['model']}"}


def ux_agent(environment: dict[str, str]) -> int:
    """The process of the UX agent."""
    command = ["tale", "servers", "status", "--json"]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, env=environment, capture_output=True).stdout)
    return next(server["pid"] for server in found if server["role"] == "ux_agent")


def begin(shell: Shell) -> None:
    """A project, servers of which the UX agent is one of its own, a task, and how things stand."""
    shell.run("tale init myproject", "Made myproject/tale.toml")
    shell.run("cd myproject")
    shell.run("tale servers start --roles model,gateway,execution", "gateway .*(running|starting)")
    shell.run("TALE_MODEL_URL=$MODELS tale servers start --roles ux_agent", "ux_agent .*(running|starting)")
    shell.run('tale submit "Write hello world in Python"', "print")
    shell.run("tale status", "hello world")


def talk(shell: Shell, environment: dict[str, str]) -> None:
    """The conversation, and the death of the UX agent while the second task is written."""
    shell.type(f"tale chat{ENTER}")
    shell.wait(r"Ctrl-D leaves\.\n(.*\n)*>\Z")
    shell.say("Hello, how are you?", rf"\S{ANSWERED}")
    shell.say(FIBONACCI, "I'm on it, as task 1: ")
    shell.say(LAST, "Your last request was task 1: ")
    shell.say("Check the status of my task", "Task 1, “Can you write a python function")
    shell.wait(rf"^Task 1 is done(.*\n)+.*def \w*fib{ANSWERED}")
    shell.say(CART, "I'm on it, as task 2: ")
    shell.wait(r"^[\u2800-\u28ff] 2\. .* is writing")
    killed = ux_agent(environment)
    os.kill(killed, signal.SIGKILL)
    shell.note(f"Here the process of the UX agent, {killed}, is killed: kill -9.")
    shell.say(LAST, r"(.*\n)*The servers are back\.")
    shell.wait(r"^Your last request was task 2: ")
    shell.wait(rf"^Task 2 .*\n?.*is done{ANSWERED}")
    shell.say("Thank you, that was all.", rf"\S{ANSWERED}")
    shell.type(LEAVE)
    shell.wait(r"comes back\.\n\$\Z")
    if ux_agent(environment) == killed:
        raise SystemExit(f"The process {killed} is still there.")


def main() -> int:
    """Talk, and write down what was shown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="file for what was shown")
    target = parser.parse_args().target.resolve()
    with tempfile.TemporaryDirectory(prefix="tale-session-") as folder:
        environment = environment_of(Path(folder) / "home")
        shell = Shell(Path(folder), environment)
        try:
            begin(shell)
            talk(shell, environment)
            shell.run("tale servers status", "ux_agent .*(running|starting)")
            shell.run("tale servers stop", "The servers are stopped.")
        finally:
            shell.close()
            subprocess.run(["tale", "servers", "stop"], env=environment, capture_output=True)
        target.write_text(shell.transcript, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
