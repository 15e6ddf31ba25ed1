"""The command that has the servers started at login, by a systemd unit of the user."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tale.cli.invocation import settings_of
from tale.exceptions import ServerException, ValidationException

if TYPE_CHECKING:
    from tale.settings import Settings

UNIT_NAME: Final = "tale.service"


def autostart(
    context: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="Write the unit and enable it.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Disable the unit and delete it.")] = False,
) -> None:
    """Start the servers at login, by a systemd unit.

    Prints the unit; with --install it is written and enabled.
    """
    if install and remove:
        raise ValidationException("--install and --remove exclude each other; give one of them.")
    path = unit_folder() / UNIT_NAME
    if remove:
        _remove(path)
    elif install:
        _install(path, unit_text(settings_of(context)))
    else:
        print(unit_text(settings_of(context)), end="")
        sys.stderr.write(f"`tale autostart --install` writes this to {path} and enables it.\n")


def unit_folder() -> Path:
    """Where systemd looks for the user's units."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user"


def unit_text(settings: "Settings") -> str:
    """The unit: the servers in the foreground, started again when they fail."""
    home = _quoted(f"TALE_HOME={settings.home}")
    return f"""[Unit]
Description=tale, a token-adaptive executor for language models
After=network-online.target

[Service]
ExecStart={_quoted(sys.executable)} -m tale.cli.main serve
Environment={home}
Restart=on-failure
RestartSec={settings.restart_delay_s:g}
TimeoutStopSec=30

[Install]
WantedBy=default.target
"""


def _quoted(text: str) -> str:
    """A word as systemd reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _install(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ServerException(f"{path} cannot be written: {error.strerror or error}.") from error
    print(f"Wrote {path}.")
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT_NAME)
    print("The servers start at login; `tale autostart --remove` undoes this.")


def _remove(path: Path) -> None:
    if not path.exists():
        print("There is no unit to remove.")
        return
    if shutil.which("systemctl"):
        _systemctl("disable", "--now", UNIT_NAME)
    path.unlink()
    print(f"Removed {path}.")


def _systemctl(*arguments: str) -> None:
    command = shutil.which("systemctl")
    if command is None:
        raise ServerException(
            "systemctl is not on this machine; start the servers with `tale serve` from what starts programs here."
        )
    done = subprocess.run([command, "--user", *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServerException(f"`systemctl --user {' '.join(arguments)}` failed: {reason.rstrip('.')}.")
