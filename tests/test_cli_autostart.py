"""`tale autostart`: a systemd unit with the settings of now and without secrets."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import Outcome

Tale = Callable[..., Outcome]

SYSTEMCTL = """#!/bin/sh
echo "$@" >> {log}
case "$*" in *{fails}*) echo "Failed to connect to bus" >&2; exit 1;; esac
"""


@pytest.fixture
def units(tale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's units."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "systemd" / "user"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program of that name before all others; returns the file it writes its arguments to."""

    def put(fails: str = "nothing") -> Path:
        program, log = tmp_path / "bin" / "systemctl", tmp_path / "systemctl.log"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL.format(log=log, fails=fails))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return log

    return put


def test_the_unit_is_printed_and_nothing_is_written(tale: Tale, tale_home: Path, units: Path) -> None:
    done = tale("autostart")

    assert done.code == 0
    assert "-m tale.cli.main serve\n" in done.out
    assert f'Environment="TALE_HOME={tale_home}"\n' in done.out
    assert f"`tale autostart --install` writes this to {units / 'tale.service'}" in done.err
    assert not units.exists()


def test_the_unit_holds_the_settings_of_now_but_no_secrets(
    tale: Tale, tale_home: Path, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALE_GATEWAY_PORT", "9123")
    monkeypatch.setenv("TALE_UX_MODEL", '50% "small"')
    monkeypatch.setenv("TALE_API_KEY", "hush-1")
    monkeypatch.setenv("TALE_DATABASE_URL", "postgresql+psycopg://ann:hush-2@db/tale")
    monkeypatch.setenv("TALE_ALERT_WEBHOOK_URL", "https://hooks.example/hush-3")

    done = tale("autostart")

    assert 'Environment="TALE_GATEWAY_PORT=9123"\n' in done.out
    assert r'Environment="TALE_UX_MODEL=50%% \"small\""' in done.out
    assert "hush" not in done.out + done.err
    assert (
        f"(TALE_ALERT_WEBHOOK_URL, TALE_API_KEY, TALE_DATABASE_URL); put them into {tale_home / 'tale.toml'}"
        in done.err
    )


def test_systemd_gives_running_tasks_the_time_that_the_settings_promise(
    tale: Tale, units: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "TimeoutStopSec=30\n" in tale("autostart").out
    monkeypatch.setenv("TALE_STOP_GRACE_S", "120")
    assert "TimeoutStopSec=145\n" in tale("autostart").out


def test_install_writes_and_enables_and_remove_undoes_it(
    tale: Tale, units: Path, systemctl: Callable[[], Path]
) -> None:
    log = systemctl()
    printed = tale("autostart").out

    installed = tale("autostart", "--install")
    written = (units / "tale.service").read_text()
    removed = tale("autostart", "--remove")

    assert (installed.code, removed.code) == (0, 0)
    assert written == printed
    assert not (units / "tale.service").exists()
    assert log.read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable --now tale.service",
        "--user disable --now tale.service",
        "--user daemon-reload",
    ]


def test_where_systemctl_fails_its_reason_is_told(tale: Tale, units: Path, systemctl: Callable[[str], Path]) -> None:
    systemctl("enable")

    done = tale("autostart", "--install")

    assert done.code == 3
    assert "`systemctl --user enable --now tale.service` failed: Failed to connect to bus." in done.err


def test_where_systemd_does_not_read_units_none_is_left(
    tale: Tale, units: Path, systemctl: Callable[[str], Path]
) -> None:
    systemctl("daemon-reload")

    done = tale("autostart", "--install")

    assert (done.code, done.out) == (3, "")
    assert not (units / "tale.service").exists()


def test_a_unit_of_before_stays_where_systemd_does_not_read_units(
    tale: Tale, units: Path, systemctl: Callable[[str], Path]
) -> None:
    systemctl("daemon-reload")
    units.mkdir(parents=True)
    (units / "tale.service").touch()

    assert tale("autostart", "--install").code == 3
    assert (units / "tale.service").exists()


def test_a_unit_is_removed_even_where_systemctl_fails(
    tale: Tale, units: Path, systemctl: Callable[[str], Path]
) -> None:
    systemctl("disable")
    link = units / "default.target.wants" / "tale.service"
    link.parent.mkdir(parents=True)
    (units / "tale.service").touch()
    link.symlink_to(units / "tale.service")

    done = tale("autostart", "--remove")

    assert (done.code, done.out) == (3, f"Removed {units / 'tale.service'}.\n")
    assert "`systemctl --user disable --now tale.service` failed" in done.err
    assert not (units / "tale.service").exists()
    assert not link.is_symlink()


def test_without_systemd_nothing_is_written_and_another_way_is_named(
    tale: Tale, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    done = tale("autostart", "--install")

    assert done.code == 3
    assert "systemctl is not on this machine; start the servers with `tale serve`" in done.err
    assert not units.exists()


def test_a_unit_can_be_removed_after_systemd_is_gone(
    tale: Tale, units: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units.mkdir(parents=True)
    (units / "tale.service").touch()
    monkeypatch.setenv("PATH", str(tmp_path))

    assert tale("autostart", "--remove").code == 0
    assert tale("autostart", "--remove").out == "There is no unit to remove.\n"


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tale: Tale, units: Path, systemctl: Callable[[], Path]
) -> None:
    systemctl()
    units.parent.parent.mkdir()
    units.parent.touch()

    done = tale("autostart", "--install")

    assert done.code == 3
    assert "tale.service cannot be written: Not a directory." in done.err


def test_install_and_remove_exclude_each_other(tale: Tale) -> None:
    assert tale("autostart", "--install", "--remove").code == 2
