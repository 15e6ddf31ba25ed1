"""What running tale processes leave in TALE_HOME/run: who they are, and why a start failed. Light: no library."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tale.exceptions import ServerException

STATE_PREFIX: Final = "service-"
FAILURE_FILE: Final = "start-failure.json"
LOG_FILE: Final = "service.log"
LOCK: Final = "lock"  # in the context of a refusal: the file of the lock that another process holds


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service process and the roles it plays."""

    pid: int
    process_started_at: float  # Unix seconds, as the system tells it: a reused pid is not mistaken for ours
    roles: tuple[str, ...]
    version: str
    background: bool  # it ends by itself after the idle time
    settings: dict[str, str] = field(default_factory=dict[str, str])  # with which it began, secrets masked


def prepare_folder(folder: Path) -> None:
    """Make the folder unless it is there; raises ServerException when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(path: Path, error: OSError) -> ServerException:
    """Says that nothing can be kept there."""
    return ServerException(
        f"{path} cannot be used: {error.strerror or error}; choose another home with --home or TALE_HOME.",
        {"path": str(path)},
    )


def write_state(folder: Path, state: ServiceState) -> Path:
    """Leave the state file of this process; returns its path. Raises ServerException when that cannot be."""
    path = folder / f"{STATE_PREFIX}{state.pid}.json"
    try:
        _write(path, asdict(state))
    except OSError as error:
        raise unusable(path, error) from error
    return path


def read_states(folder: Path) -> list[ServiceState]:
    """All state files, also those of processes that are gone."""
    found = (_read(path) for path in sorted(folder.glob(f"{STATE_PREFIX}*.json")))
    return [
        ServiceState(
            pid=values["pid"],
            process_started_at=values["process_started_at"],
            roles=tuple(values["roles"]),
            version=values["version"],
            background=values["background"],
            settings=values.get("settings", {}),
        )
        for values in found
        if values is not None
    ]


def remove_state(folder: Path, pid: int) -> None:
    """Forget a process."""
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / f"{STATE_PREFIX}{pid}.json").unlink()


def write_failure(folder: Path, kind: str, message: str, context: Mapping[str, object]) -> None:
    """Leave word of why a service could not start."""
    _write(
        folder / FAILURE_FILE, {"type": kind, "message": message, "context": {k: str(v) for k, v in context.items()}}
    )


def take_failure(folder: Path) -> dict[str, Any] | None:
    """The reason of the last failed start, told once."""
    path = folder / FAILURE_FILE
    values = _read(path)
    path.unlink(missing_ok=True)
    return values


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        draft.write_text(json.dumps(values), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
