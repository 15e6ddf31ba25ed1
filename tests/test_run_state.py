"""State files tell which service processes there are and why a start failed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tale.exceptions import ServerException
from tale.orchestration.run_state import (
    FAILURE_FILE,
    ServiceState,
    prepare_folder,
    read_states,
    remove_state,
    take_failure,
    write_failure,
    write_state,
)

STATE = ServiceState(4711, 1.5, ("gateway", "execution"), "0.1.0", background=True, settings={"routing": "off"})


def test_a_state_is_read_back_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_state(folder, STATE)
    assert read_states(folder) == [STATE]
    remove_state(folder, STATE.pid)
    remove_state(folder, STATE.pid)
    assert read_states(folder) == []


def test_a_state_of_a_version_that_left_no_settings_is_read(tmp_path: Path) -> None:
    path = write_state(tmp_path, STATE)
    path.write_text(json.dumps({name: value for name, value in asdict(STATE).items() if name != "settings"}))
    assert read_states(tmp_path) == [replace(STATE, settings={})]


def test_a_state_file_that_was_cut_off_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "service-1.json").write_text('{"pid": 1')
    assert read_states(tmp_path) == []


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    write_failure(tmp_path, "ServerException", "Port in use.", {"port": 8080})
    assert take_failure(tmp_path) == {"type": "ServerException", "message": "Port in use.", "context": {"port": "8080"}}
    assert take_failure(tmp_path) is None


def test_what_cannot_be_written_leaves_no_draft_behind(tmp_path: Path) -> None:
    in_the_way = tmp_path / FAILURE_FILE
    in_the_way.mkdir()
    with pytest.raises(IsADirectoryError):
        write_failure(tmp_path, "ServerException", "Port in use.", {})
    assert list(tmp_path.iterdir()) == [in_the_way]


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(ServerException, match="cannot be used: Not a directory; choose another home"):
        prepare_folder(in_the_way / "run")
    with pytest.raises(ServerException, match="cannot be used"):
        write_state(in_the_way, STATE)
    remove_state(in_the_way, STATE.pid)
    prepare_folder(tmp_path / "a" / "b")
    prepare_folder(tmp_path / "a" / "b")
