"""Settings come in layers, know where each value came from, and are refused in one sentence when wrong."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tale.addresses import MASK, ollama_url, without_password
from tale.constants import GATEWAY_PORT, TASK_EXECUTION_TIMEOUT
from tale.exceptions import ValidationException
from tale.settings import Origin, Settings, find_config, load_settings, resolve_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with no tale.toml in it or above it."""
    made = tmp_path / "work"
    made.mkdir()
    return made


def _load(folder: Path, environment: dict[str, str] | None = None, **overrides: Any) -> Settings:
    return load_settings(
        overrides, environment={"TALE_HOME": str(folder / "home"), **(environment or {})}, folder=folder
    )


def _origin(origins: list[Origin], name: str) -> tuple[str, str]:
    return next((origin.value, origin.source) for origin in origins if origin.name == name)


def test_defaults_hold_where_nothing_is_configured(folder: Path):
    settings = _load(folder)
    assert (settings.gateway_port, settings.task_timeout_s) == (GATEWAY_PORT, TASK_EXECUTION_TIMEOUT)
    assert settings.host == "127.0.0.1"
    assert settings.database == f"sqlite:///{folder}/home/tale.db"
    assert settings.models_folder == folder / "home" / "models"
    assert settings.run_folder == folder / "home" / "run"


def test_each_layer_wins_over_the_one_below_and_is_named(folder: Path):
    config = folder / "tale.toml"
    config.write_text("gateway_port = 9001\ntask_slots = 3\nqueue_limit = 50\n")
    environment = {"TALE_HOME": str(folder / "home"), "TALE_GATEWAY_PORT": "9002", "TALE_TASK_SLOTS": "4"}
    settings, origins = resolve_settings(
        {"gateway_port": 9003, "ux_model": None}, environment=environment, folder=folder
    )
    assert (settings.gateway_port, settings.task_slots, settings.queue_limit) == (9003, 4, 50)
    assert _origin(origins, "gateway_port") == ("9003", "command line")
    assert _origin(origins, "task_slots") == ("4", "environment")
    assert _origin(origins, "queue_limit") == ("50", str(config))
    assert _origin(origins, "execution_port") == ("8081", "default")
    assert _origin(origins, "ux_model") == ("", "default")
    assert [origin.name for origin in origins] == list(Settings.model_fields)


def test_the_nearest_config_file_upwards_counts(folder: Path):
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    (folder / "tale.toml").write_text("task_slots = 2\n")
    assert find_config(inner, folder / "home") == folder / "tale.toml"
    (folder / "a" / "tale.toml").write_text("task_slots = 3\n")
    assert _load(inner).task_slots == 3


def test_the_config_file_in_the_home_folder_is_the_last_resort(folder: Path):
    home = folder / "home"
    home.mkdir()
    (home / "tale.toml").write_text("task_slots = 5\n")
    assert _load(folder).task_slots == 5
    assert find_config(folder, folder / "elsewhere") is None


def test_a_home_in_the_config_file_is_relative_to_that_file(folder: Path):
    (folder / "inner").mkdir()
    (folder / "tale.toml").write_text('home = "data"\n')
    assert load_settings(environment={}, folder=folder / "inner").home == folder / "data"


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_home_is_not_the_working_folder(folder: Path, empty: str):
    with pytest.raises(ValidationException, match="Setting home: it is empty"):
        load_settings({"home": empty}, environment={}, folder=folder)
    (folder / "tale.toml").write_text(f'home = "{empty}"\n')
    with pytest.raises(ValidationException, match="Setting home: it is empty"):
        load_settings(environment={}, folder=folder)


def test_a_home_given_beats_one_in_the_config_file(folder: Path):
    (folder / "tale.toml").write_text('home = "data"\n')
    assert _load(folder).home == folder / "home"
    assert _load(folder, home=folder / "other").home == folder / "other"


def test_the_home_folder_is_made_absolute(folder: Path):
    assert load_settings(environment={"TALE_HOME": "~/x"}, folder=folder).home == Path.home() / "x"
    assert load_settings(environment={"TALE_HOME": "x"}, folder=folder).home == Path.cwd() / "x"


def test_a_home_of_an_unknown_user_is_refused(folder: Path):
    with pytest.raises(ValidationException, match=r"~nobody-of-this-name/x names a user that does not exist"):
        load_settings(environment={"TALE_HOME": "~nobody-of-this-name/x"}, folder=folder)


def test_a_working_folder_that_was_deleted_is_no_obstacle(folder: Path):
    before = Path.cwd()
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert load_settings(environment={"TALE_HOME": str(folder / "home")}).home == folder / "home"
        assert load_settings(environment={"TALE_HOME": "x"}).home == Path("/x")
    finally:
        os.chdir(before)


def test_the_process_environment_is_read_when_none_is_given(folder: Path):
    assert load_settings({"home": folder}, folder=folder).home == folder


def test_blank_and_foreign_variables_are_ignored(folder: Path):
    settings = _load(folder, {"TALE_GATEWAY_PORT": "", "TALE_CI_SOMETHING": "1", "GATEWAY_PORT": "9999"})
    assert settings.gateway_port == GATEWAY_PORT


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:9999", "http://127.0.0.1:9999"),
        (" gpu-box ", "http://gpu-box:11434"),
        (":9999", "http://127.0.0.1:9999"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("http://0.0.0.0:8000/", "http://127.0.0.1:8000"),
        ("http://gpu-box", "http://gpu-box:80"),
        ("https://gpu-box", "https://gpu-box:443"),
        ("https://gpu-box/ollama/", "https://gpu-box:443/ollama"),
        ("[::1]:9999", "http://[::1]:9999"),
        ("::1", "http://[::1]:11434"),
        ("[::]", "http://[::1]:11434"),
    ],
)
def test_the_variable_of_ollama_itself_is_understood(folder: Path, variable: str, url: str):
    assert ollama_url(variable) == url
    settings, origins = resolve_settings(environment={"TALE_HOME": str(folder), "OLLAMA_HOST": variable}, folder=folder)
    assert settings.ollama_url == (url,)
    assert _origin(origins, "ollama_url") == (url, "environment")


def test_our_own_variable_beats_that_of_ollama(folder: Path):
    environment = {"OLLAMA_HOST": "gpu-box", "TALE_OLLAMA_URL": "http://127.0.0.1:5"}
    assert _load(folder, environment).ollama_url == ("http://127.0.0.1:5",)


@given(st.text())
def test_any_ollama_variable_becomes_a_url_or_is_refused(variable: str):
    made = ollama_url(variable)
    assert made == variable or made.startswith(("http://", "https://"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gpu-box"])
def test_a_host_that_others_can_reach_needs_a_key(folder: Path, host: str):
    with pytest.raises(ValidationException, match=r"is reachable by others: set api_key \(TALE_API_KEY\)"):
        _load(folder, host=host)
    assert _load(folder, {"TALE_API_KEY": "a secret, long enough"}, host=host).host == host


def test_a_key_that_others_could_guess_is_refused_where_they_can_try(folder: Path):
    with pytest.raises(ValidationException, match=r"can be guessed: host 0\.0\.0\.0 needs one of 16 characters"):
        _load(folder, {"TALE_API_KEY": "x" * 15}, host="0.0.0.0")
    assert _load(folder, {"TALE_API_KEY": "x"}).api_key


@pytest.mark.parametrize(
    ("given", "names"),
    [("", ()), ("a.example", ("a.example",)), (" a.example:80 , b.example,", ("a.example:80", "b.example"))],
)
def test_names_are_separated_by_commas(folder: Path, given: str, names: tuple[str, ...]):
    settings = _load(folder, {"TALE_ALLOWED_HOSTS": given})
    assert settings.allowed_hosts == names
    assert load_settings(environment=settings.environment(), folder=folder).allowed_hosts == names


def test_names_in_a_file_are_a_list(folder: Path):
    (folder / "tale.toml").write_text('allowed_origins = ["https://a.example", "https://b.example"]\n')
    assert _load(folder).allowed_origins == ("https://a.example", "https://b.example")
    origins = resolve_settings(environment={}, folder=folder)[1]
    assert _origin(origins, "allowed_origins")[0] == "https://a.example,https://b.example"


def test_several_engines_are_named_with_commas_or_as_a_list(folder: Path):
    several = ("http://gpu-1:8000/v1", "http://gpu-2:8000/v1")
    settings = _load(folder, {"TALE_OPENAI_URL": "http://gpu-1:8000/v1/, http://gpu-2:8000/v1,http://gpu-1:8000/v1"})
    assert settings.openai_url == several
    assert load_settings(environment=settings.environment(), folder=folder).openai_url == several
    (folder / "tale.toml").write_text('openai_url = ["http://gpu-1:8000/v1", "http://gpu-2:8000/v1"]\n')
    assert _load(folder).openai_url == several


def test_each_of_several_engines_needs_an_address(folder: Path):
    with pytest.raises(ValidationException, match=r"Setting openai_url \(environment\): an address must begin with"):
        _load(folder, {"TALE_OPENAI_URL": "http://gpu-1:8000/v1,gpu-2:8000"})
    with pytest.raises(ValidationException, match=r"Setting ollama_url \(command line\)"):
        _load(folder, ollama_url=",")


def test_the_password_of_each_of_several_addresses_is_masked(folder: Path):
    told = {"TALE_HOME": str(folder), "TALE_OPENAI_URL": "http://a:8000/v1,http://ann:k3y@b:8000/v1"}
    shown = _origin(resolve_settings(environment=told, folder=folder)[1], "openai_url")[0]
    assert shown == f"http://a:8000/v1,http://ann:{MASK}@b:8000/v1"


@pytest.mark.parametrize("toml", ["target_limits = { ux_first_token = 2 }", "[target_limits]\nux_first_token = 2.0"])
def test_limits_of_targets_are_a_table_or_pairs_with_commas(folder: Path, toml: str):
    (folder / "tale.toml").write_text(toml)
    assert _load(folder).target_limits == {"ux_first_token": 2.0}
    given = _load(folder, {"TALE_TARGET_LIMITS": "ux_first_token=0.5, model_load = 20,"})
    assert given.target_limits == {"ux_first_token": 0.5, "model_load": 20.0}
    assert given.environment()["TALE_TARGET_LIMITS"] == "ux_first_token=0.5,model_load=20.0"
    assert load_settings(environment=given.environment(), folder=folder) == given


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ("speed=1", r"there is no target 'speed', choose from ux_first_token, .*, interrupt; `tale config"),
        ("model_load=0", "greater than 0"),
        ("model_load=inf", "finite"),
        ("model_load", "valid number"),
    ],
)
def test_a_limit_of_no_target_or_that_nothing_can_keep_is_refused(folder: Path, limits: str, complaint: str):
    with pytest.raises(ValidationException, match=rf"Setting target_limits \(environment\): .*{complaint}"):
        _load(folder, {"TALE_TARGET_LIMITS": limits})


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_key_is_no_key(folder: Path, blank: str):
    (folder / "tale.toml").write_text(f'host = "0.0.0.0"\napi_key = "{blank}"\n')
    with pytest.raises(ValidationException, match="is reachable by others"):
        _load(folder)


def test_an_openai_backend_needs_its_address(folder: Path):
    with pytest.raises(ValidationException, match=r"backend openai needs openai_url \(TALE_OPENAI_URL\)"):
        _load(folder, backend="openai")
    assert _load(folder, backend="openai", openai_url="http://127.0.0.1:1/v1").backend == "openai"


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"gateway_port": 80}, r"Setting gateway_port \(command line\): Input should be greater than or equal to 1024"),
        ({"gateway_port": "x"}, r"Setting gateway_port \(command line\): Input should be a valid integer"),
        ({"backend": "magic"}, r"Setting backend \(command line\): Input should be 'auto', 'ollama', 'embedded' or"),
        ({"task_timeout_s": 3_601}, r"Setting task_timeout_s \(command line\): Input should be less than or equal"),
        ({"gateway_url": "gpu-box:80"}, r"Setting gateway_url \(command line\): an address must begin with http://"),
        ({"speed": 9}, r"Setting speed \(command line\): there is no such setting; `tale config show` lists"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_source(folder: Path, overrides: dict[str, Any], complaint: str):
    with pytest.raises(ValidationException, match=complaint) as caught:
        _load(folder, **overrides)
    assert caught.value.context == {"setting": next(iter(overrides))}
    assert "\n" not in str(caught.value)


def test_a_bad_value_in_the_environment_or_the_file_names_that_source(folder: Path):
    with pytest.raises(ValidationException, match=r"Setting task_slots \(environment\)"):
        _load(folder, {"TALE_TASK_SLOTS": "many"})
    (folder / "tale.toml").write_text("[servers]\nport = 1\n")
    with pytest.raises(ValidationException, match=rf"Setting servers \({folder}/tale.toml\): there is no such setting"):
        _load(folder)


@pytest.mark.parametrize("content", [b"task_slots = ", b"= 3", b"\xff\xfe"])
def test_a_config_file_that_is_no_toml_is_refused_by_its_path(folder: Path, content: bytes):
    (folder / "tale.toml").write_bytes(content)
    with pytest.raises(ValidationException, match=r"tale\.toml cannot be read as TOML") as caught:
        _load(folder)
    assert caught.value.context == {"path": str(folder / "tale.toml")}


def test_secrets_are_shown_masked(folder: Path):
    secrets = {
        "TALE_HOME": str(folder),
        "TALE_API_KEY": "k3y-one",
        "TALE_OPENAI_API_KEY": "k3y-two",
        "TALE_DATABASE_URL": "postgresql+psycopg://ann:k3y-three@db:5432/tale",
    }
    settings, origins = resolve_settings(environment=secrets, folder=folder)
    assert _origin(origins, "api_key") == (MASK, "environment")
    assert _origin(origins, "database_url") == (f"postgresql+psycopg://ann:{MASK}@db:5432/tale", "environment")
    assert settings.database == secrets["TALE_DATABASE_URL"]
    shown = repr([origins, settings.api_key, settings.openai_api_key])
    assert not [secret for secret in ("k3y-one", "k3y-two", "k3y-three") if secret in shown]


def test_a_bad_secret_is_not_repeated_in_the_complaint(folder: Path):
    (folder / "tale.toml").write_text("api_key = 123456789\n")
    with pytest.raises(ValidationException, match=r"Setting api_key") as caught:
        _load(folder)
    assert "123456789" not in str(caught.value)


@pytest.mark.parametrize("text", ["sqlite:////tmp/tale.db", "http://127.0.0.1:8000/v1", "plain", ""])
def test_text_without_a_password_is_shown_as_it_is(text: str):
    assert without_password(text) == text


def test_settings_never_change(folder: Path):
    with pytest.raises(ValidationError, match="frozen"):
        _load(folder).task_slots = 7


def test_another_process_makes_the_same_settings_from_the_environment(folder: Path):
    settings = _load(
        folder,
        {"TALE_API_KEY": "k3y", "TALE_ACKNOWLEDGE": "false", "TALE_RETRY_DELAY_S": "0.5"},
        gateway_port=9100,
        ux_model="smollm2:135m",
        openai_url=None,
    )
    assert load_settings(environment=settings.environment(), folder=folder / "home") == settings


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, "http://127.0.0.1:8080"),
        ({"gateway_port": 9000}, "http://127.0.0.1:9000"),
        ({"host": "::1"}, "http://[::1]:8080"),
        ({"host": "0.0.0.0", "api_key": "k" * 16}, "http://127.0.0.1:8080"),
        ({"host": "gpu-box", "api_key": "k" * 16}, "http://gpu-box:8080"),
        ({"gateway_url": "https://elsewhere/tale/"}, "https://elsewhere/tale"),
    ],
)
def test_a_role_is_reached_where_the_settings_put_it(folder: Path, values: dict[str, Any], url: str):
    assert _load(folder, **values).url_of("gateway") == url
