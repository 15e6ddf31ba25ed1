"""The command that has the servers started at login, by a systemd unit of the user."""

import asyncio
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
STOP_MARGIN_S: Final = 25.0  # beyond the grace for running work, then systemd kills


def autostart(
    context: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="Write the unit and enable it.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Disable the unit and delete it.")] = False,
) -> None:
    """Start the servers at login, by a systemd unit.

    Prints the unit; with --install it is written and enabled, and servers that run in the background hand over to it.
    """
    if install and remove:
        raise ValidationException("--install and --remove exclude each other; give one of them.")
    path = unit_folder() / UNIT_NAME
    if remove:
        _remove(path)
        return
    settings = settings_of(context)
    if install:
        _install(path, settings)
    else:
        print(unit_text(settings), end="")
        sys.stderr.write(f"`tale autostart --install` writes this to {path} and enables it.\n")
    if secret := _environment(settings)[1]:
        where = settings.home / "tale.toml"
        sys.stderr.write(f"Secrets are left out of the unit ({', '.join(secret)}); put them into {where}.\n")


def unit_folder() -> Path:
    """Where systemd looks for the user's units."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user"


def unit_text(settings: "Settings") -> str:
    """The unit: the servers in the foreground with the settings of now, started again when they fail."""
    environment = "\n".join(f"Environment={_quoted(f'{name}={value}')}" for name, value in _environment(settings)[0])
    return f"""[Unit]
Description=tale, a token-adaptive executor for language models

[Service]
ExecStart={_quoted(sys.executable)} -m tale.cli.main serve
{environment}
Restart=on-failure
RestartSec={settings.restart_delay_s:g}
TimeoutStopSec={settings.stop_grace_s + STOP_MARGIN_S:g}

[Install]
WantedBy=default.target
"""


def _environment(settings: "Settings") -> tuple[list[tuple[str, str]], list[str]]:
    """The variables that make these settings again, and the names of those that nobody else should read."""
    from pydantic import SecretStr

    from tale.addresses import without_password
    from tale.settings import ENVIRONMENT_PREFIX

    public: list[tuple[str, str]] = []
    secret: list[str] = []
    for name, value in settings.environment().items():
        setting = getattr(settings, name.removeprefix(ENVIRONMENT_PREFIX).lower())
        if isinstance(setting, SecretStr) or without_password(value) != value:
            secret.append(name)
        else:
            public.append((name, value))
    return public, secret


def _quoted(text: str) -> str:
    """A word as systemd reads it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _install(path: Path, settings: "Settings") -> None:
    from tale.orchestration.server_manager import ServerManager

    command = shutil.which("systemctl")
    if command is None:
        raise ServerException(
            "systemctl is not on this machine; start the servers with `tale serve` from what starts programs here."
        )
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit_text(settings), encoding="utf-8")
    except OSError as error:
        raise ServerException(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        _run(command, "daemon-reload")
    except ServerException:
        if is_new:
            path.unlink()
        raise
    print(f"Wrote {path}.")
    asyncio.run(ServerManager(settings).stop())  # they would hold the home and the ports
    _run(command, "enable", "--now", UNIT_NAME)
    print("The servers start at login; `tale autostart --remove` undoes this.")


def _remove(path: Path) -> None:
    if not path.exists():
        print("There is no unit to remove.")
        return
    command = shutil.which("systemctl")
    try:
        if command:
            _run(command, "disable", "--now", UNIT_NAME)
    finally:  # what systemctl refuses is told, but it keeps nothing from going
        path.unlink()
        (path.parent / "default.target.wants" / UNIT_NAME).unlink(missing_ok=True)
        print(f"Removed {path}.")
    if command:
        _run(command, "daemon-reload")


def _run(command: str, *arguments: str) -> None:
    done = subprocess.run([command, "--user", *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServerException(f"`systemctl --user {' '.join(arguments)}` failed: {reason.rstrip('.')}.")
