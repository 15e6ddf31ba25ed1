"""One frozen Settings object, layered: defaults < tale.toml < TALE_* environment < command line."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from tale.addresses import MASK, ollama_url, require_http, without_password
from tale.constants import (
    DEFAULT_HTTP_TIMEOUT,
    ERROR_RETRY_DELAY,
    EXECUTION_PORT,
    GATEWAY_PORT,
    MAX_TASK_RETRIES,
    MONITOR_INTERVAL,
    RESTART_DELAY,
    TASK_EXECUTION_TIMEOUT,
)
from tale.exceptions import ValidationException
from tale.validation import PORT_RANGE, TIMEOUT_RANGE_S

CONFIG_FILE: Final = "tale.toml"
ENVIRONMENT_PREFIX: Final = "TALE_"
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
SHORTEST_KEY: Final = 16  # characters of a key that strangers could try to guess
TARGETS: Final = (  # the names of tale.monitoring.targets, which is above settings
    *("ux_first_token", "feedback", "simple_task", "medium_task", "model_switch", "model_load", "models_memory"),
    *("routing", "task_detection", "token_savings", "recovery", "interrupt"),
)


def _blank_is_none(key: SecretStr | None) -> SecretStr | None:
    return key if key and key.get_secret_value().strip() else None


def _split(names: object) -> object:
    """Several names as the environment and the command line give them, separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip()) if isinstance(names, str) else names


def _paired(limits: object) -> object:
    """Names with their values as the environment and the command line give them: a=1,b=2."""
    if not isinstance(limits, str):
        return limits
    pairs = (part.partition("=") for part in limits.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _of_targets(limits: dict[str, float]) -> dict[str, float]:
    if unknown := [name for name in limits if name not in TARGETS]:
        raise ValueError(f"there is no target {unknown[0]!r}, choose from {', '.join(TARGETS)}")
    return limits


def _without_repeats(urls: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(url.rstrip("/") for url in urls))


def _secret_http(url: SecretStr | None) -> SecretStr | None:
    if url is not None:
        require_http(url.get_secret_value())
    return url


HttpUrl = Annotated[str, AfterValidator(require_http)]
HttpUrls = Annotated[tuple[HttpUrl, ...], BeforeValidator(_split), AfterValidator(_without_repeats)]
SecretUrl = Annotated[SecretStr | None, AfterValidator(_secret_http)]
Key = Annotated[SecretStr | None, AfterValidator(_blank_is_none)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
TargetLimits = Annotated[
    dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], BeforeValidator(_paired), AfterValidator(_of_targets)
]


class Settings(BaseModel):
    """Everything that can be configured; made by `load_settings` and handed down, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    home: Path = Field(Path("~/.tale"), description="folder of the database, the models and the logs")
    host: str = Field("127.0.0.1", description="address the servers listen on")
    gateway_port: int = Field(GATEWAY_PORT, ge=PORT_RANGE[0], le=PORT_RANGE[1], description="port of the gateway")
    execution_port: int = Field(EXECUTION_PORT, ge=PORT_RANGE[0], le=PORT_RANGE[1], description="execution server")
    ux_agent_port: int = Field(8082, ge=PORT_RANGE[0], le=PORT_RANGE[1], description="port of the UX agent")
    model_port: int = Field(8083, ge=PORT_RANGE[0], le=PORT_RANGE[1], description="port of the model server")
    learning_port: int = Field(8084, ge=PORT_RANGE[0], le=PORT_RANGE[1], description="port of the learning server")
    gateway_url: HttpUrl | None = Field(None, description="gateway of another process or host; default: host and port")
    execution_url: HttpUrl | None = Field(None, description="execution server of another process or host")
    ux_agent_url: HttpUrl | None = Field(None, description="UX agent of another process or host")
    model_url: HttpUrl | None = Field(None, description="model server of another process or host")
    learning_url: HttpUrl | None = Field(None, description="learning server of another process or host")
    api_key: Key = Field(None, description="key that clients must send; opens all; needed beyond loopback")
    allowed_hosts: Names = Field((), description="host names under which the servers may be asked, besides localhost")
    allowed_origins: Names = Field((), description="web sites whose pages may ask, besides localhost's")
    session_limit: int = Field(1_000, ge=1, description="sessions of MCP clients that may be open at a time")
    session_idle_s: float = Field(1_800.0, gt=0, description="a session that nobody uses for this time is forgotten")
    rate_limit_per_s: float = Field(50.0, ge=0, description="requests a second of each named key; 0: no limit")
    rate_limit_burst: int = Field(200, ge=1, description="requests that a named key may make at once")

    database_url: str | None = Field(None, description="SQLAlchemy URL; default: tale.db in the home folder")
    retention_days: int | None = Field(None, ge=1, description="history older than this is deleted; default: none is")
    content: Literal["full", "hash", "none"] = Field("full", description="what stays of the words of finished work")
    content_hold_s: float = Field(3_600.0, ge=0, description="time after the end for which all words stay in any case")

    backend: Literal["auto", "ollama", "embedded", "openai"] = Field("auto", description="where the models run")
    ollama_url: HttpUrls = Field(
        ("http://127.0.0.1:11434",), min_length=1, description="address of Ollama, or of several"
    )
    openai_url: HttpUrls = Field((), description="base URLs of OpenAI-compatible engines, with /v1")
    openai_api_key: Key = Field(None, description="key for those engines")
    openai_slots: int = Field(64, ge=1, description="calls each engine is given at a time; the others wait their turn")
    ux_model: str | None = Field(None, description="the small model; default: the backend's own")
    task_model: str | None = Field(None, description="the larger model; default: the backend's own")
    small_cost: float | None = Field(
        None,
        gt=0,
        description="what a token of the small model costs, the task model's being 1; default: by their sizes",
    )
    routing: Literal["auto", "off"] = Field("auto", description="off: tasks always go to the task model")
    shadow_rate: float = Field(
        0.02, ge=0, le=1, description="share of checked tasks done twice, when idle, to measure savings; 0: none"
    )
    memory_limit_bytes: int = Field(27 * 10**9, gt=0, description="limit for all loaded models together")
    hub_url: str = Field("https://huggingface.co", description="where model files are fetched first")
    engine_threads: int | None = Field(None, ge=1, description="threads per embedded model; default: the cores")
    ux_context_tokens: int = Field(8_192, ge=512, description="context of the small model")
    task_context_tokens: int = Field(16_384, ge=512, description="context of the larger model")

    max_output_tokens: int = Field(2_048, ge=1, description="token budget of a task that names none")
    task_timeout_s: int = Field(
        TASK_EXECUTION_TIMEOUT, ge=TIMEOUT_RANGE_S[0], le=TIMEOUT_RANGE_S[1], description="limit of one attempt"
    )
    max_task_retries: int = Field(MAX_TASK_RETRIES, ge=1, description="attempts before a task ends as failed")
    retry_delay_s: float = Field(ERROR_RETRY_DELAY, ge=0, description="base wait between two attempts")
    task_slots: int = Field(1, ge=1, description="tasks that run at the same time")
    acknowledge: bool = Field(True, description="the small model says what a task is about while its answer waits")
    prewarm: bool = Field(True, description="the small model reads the chat's instructions before the first message")
    queue_limit: int = Field(10_000, ge=1, description="tasks that may wait; more are refused")

    learning: Literal["on", "off"] = Field("on", description="off: no learning server; plain rules take its place")
    learned_instructions: Literal["on", "off"] = Field(
        "on", description="off: tasks go out with their own instructions"
    )
    learned_limits: Literal["on", "off"] = Field("on", description="off: answers are cut at max_output_tokens alone")
    encoder: Literal["on", "off"] = Field("on", description="off: messages are told by words alone, in less memory")

    target_limits: TargetLimits = Field({}, description="limits of targets on this machine, by the target's name")
    alert_webhook_url: SecretUrl = Field(None, description="web address to which alerts of budgets are posted")

    http_timeout_s: float = Field(DEFAULT_HTTP_TIMEOUT, gt=0, description="longest silence on an HTTP exchange")
    monitor_interval_s: float = Field(MONITOR_INTERVAL, gt=0, description="time between two health checks")
    restart_delay_s: float = Field(RESTART_DELAY, ge=0, description="wait before a dead process is started again")
    stop_grace_s: float = Field(5.0, ge=0, description="time running work gets to finish when a server stops")
    idle_stop_s: float = Field(1_800.0, ge=0, description="stop background servers after this idle time; 0: never")
    telemetry_url: HttpUrl | None = Field(None, description="OpenTelemetry collector (OTLP over HTTP) that gets spans")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="detail of the log files")

    @model_validator(mode="after")
    def _refuse_open_door(self) -> "Settings":
        if self.host not in LOOPBACK_HOSTS and self.api_key is None:
            raise ValueError(f"host {self.host} is reachable by others: set api_key (TALE_API_KEY) or use 127.0.0.1")
        if self.host not in LOOPBACK_HOSTS and self.api_key and len(self.api_key.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(f"api_key can be guessed: host {self.host} needs one of {SHORTEST_KEY} characters or more")
        if self.backend == "openai" and not self.openai_url:
            raise ValueError("backend openai needs openai_url (TALE_OPENAI_URL), such as http://127.0.0.1:8000/v1")
        return self

    def environment(self) -> dict[str, str]:
        """The TALE_* variables from which `load_settings` makes the same settings again, secrets included."""
        values = {name: getattr(self, name) for name in sorted(self.model_fields_set | {"home"})}
        return {
            f"{ENVIRONMENT_PREFIX}{name.upper()}": _told(value) for name, value in values.items() if value is not None
        }

    def shown(self) -> dict[str, str]:
        """Every setting as people see it, secrets masked."""
        return {name: _shown(getattr(self, name)) for name in Settings.model_fields}

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'tale.db'}"

    @property
    def models_folder(self) -> Path:
        """Where model files are kept."""
        return self.home / "models"

    @property
    def run_folder(self) -> Path:
        """Where running processes leave their state files, locks and logs."""
        return self.home / "run"

    def url_of(self, role: str) -> str:
        """The base URL under which a role is reached, without a trailing slash."""
        configured: str | None = getattr(self, f"{role}_url")
        if configured:
            return configured.rstrip("/")
        # The learning server listens on loopback alone, wherever the others do.
        is_local = self.host in {"0.0.0.0", "::"} or role == "learning"  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if is_local else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{getattr(self, f'{role}_port')}"


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting as `tale config show` prints it: its value (secrets masked) and the layer it came from."""

    name: str
    value: str
    source: str


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Merge the layers into one Settings object.

    `overrides` come from the command line (None values are ignored); `environment` defaults to os.environ and
    `folder`, from which tale.toml is looked for upwards, to the working folder. Raises ValidationException.
    """
    return resolve_settings(overrides, environment=environment, folder=folder)[0]


def resolve_settings(
    overrides: Mapping[str, Any] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> tuple[Settings, list[Origin]]:
    """Like `load_settings`, with the origin of every value."""
    environment = os.environ if environment is None else environment
    from_command = {key: value for key, value in (overrides or {}).items() if value is not None}
    from_environment = _read_environment(environment)
    home = _absolute(from_command.get("home") or from_environment.get("home") or "~/.tale")
    config = find_config(folder or _working_folder() or home, home)
    from_file = _read_file(config) if config else {}
    layers = [("command line", from_command), ("environment", from_environment), (str(config), from_file)]
    merged: dict[str, Any] = {**from_file, **from_environment, **from_command}
    merged["home"] = _absolute(merged.get("home", home))
    settings = _build(merged, layers)
    origins = [
        Origin(name, value, next((layer for layer, held in layers if name in held), "default"))
        for name, value in settings.shown().items()
    ]
    return settings, origins


def find_config(folder: Path, home: Path) -> Path | None:
    """The nearest tale.toml in `folder` or above it, else the one in `home`, else None.

    Folders that this user may not look into hold none.
    """
    candidates = [parent / CONFIG_FILE for parent in (folder, *folder.parents)]
    return next((path for path in [*candidates, home / CONFIG_FILE] if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    names = {f"{ENVIRONMENT_PREFIX}{name.upper()}": name for name in Settings.model_fields}
    found: dict[str, Any] = {names[key]: value for key, value in environment.items() if key in names and value != ""}
    if "ollama_url" not in found and (host := environment.get("OLLAMA_HOST")):
        found["ollama_url"] = ollama_url(host)
    return found


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValidationException(f"{path} cannot be read as TOML: {error}.", {"path": str(path)}) from error
    if "home" in values:
        values["home"] = str(path.parent / _expanded(values["home"]))
    return values


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was deleted under the shell
        return None


def _expanded(path: object) -> Path:
    if not str(path).strip():  # it would mean the working folder, which nobody means by nothing
        raise ValidationException("Setting home: it is empty; name a folder, or leave it out for ~/.tale.")
    try:
        return Path(str(path)).expanduser()
    except RuntimeError as error:
        raise ValidationException(f"Setting home: {path} names a user that does not exist.") from error


def _absolute(path: object) -> Path:
    folder = _expanded(path)
    return folder if folder.is_absolute() else (_working_folder() or Path("/")) / folder


def _build(merged: Mapping[str, Any], layers: list[tuple[str, dict[str, Any]]]) -> Settings:
    try:
        return Settings.model_validate(dict(merged))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise ValidationException(f"Settings: {first['msg'].removeprefix('Value error, ')}.") from error
        name = str(first["loc"][0])
        source = _layer_of(name, layers)
        unknown = first["type"] == "extra_forbidden"
        reason = "there is no such setting" if unknown else first["msg"].removeprefix("Value error, ")
        raise ValidationException(
            f"Setting {name} ({source}): {reason}; `tale config show` lists the settings.", {"setting": name}
        ) from error


def _layer_of(name: str, layers: list[tuple[str, dict[str, Any]]]) -> str:
    return next((layer for layer, held in layers if name in held), "default")


def _told(value: object) -> str:
    """A value as the environment holds it, secrets included."""
    if isinstance(value, tuple):
        return ",".join(cast("tuple[str, ...]", value))
    if isinstance(value, dict):
        return ",".join(f"{name}={limit}" for name, limit in cast("dict[str, float]", value).items())
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):  # each by itself: a port and an @ of two addresses are not a password
        return ",".join(map(without_password, cast("tuple[str, ...]", value)))
    return "" if value is None else without_password(_told(value))
