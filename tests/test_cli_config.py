"""`tale init` and `tale config show`: where settings come from, and that no secret is shown."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.command_line import Outcome

from tale.settings import Settings

Tale = Callable[..., Outcome]


def origins(tale: Tale) -> dict[str, dict[str, str]]:
    """What `config show` tells programs."""
    return json.loads(tale("config", "show", "--json").out)


def test_init_makes_a_folder_and_says_what_comes_next(tale: Tale, tmp_path: Path) -> None:
    done = tale("init", "my project")

    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "my project" / "tale.toml").is_file()
    assert "Made my project/tale.toml" in done.out
    assert "cd 'my project' && tale submit" in done.out


def test_init_takes_the_working_folder_too(tale: Tale, tmp_path: Path) -> None:
    assert tale("init", ".").out.splitlines()[1] == 'Next: tale submit "Write a haiku"'
    assert (tmp_path / "tale.toml").is_file()


def test_every_setting_is_explained_and_changes_nothing_until_it_is_chosen(tale: Tale, tmp_path: Path) -> None:
    tale("init", "project")

    text = (tmp_path / "project" / "tale.toml").read_text()
    assert tomllib.loads(text) == {}
    for name in Settings.model_fields:
        assert f"\n#{name} =" in text
    assert "# where the models run (auto, ollama, embedded, openai)" in text


def test_the_defaults_in_the_file_are_settings_when_they_are_uncommented(
    tale: Tale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tale("init", "project")
    path = tmp_path / "project" / "tale.toml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line[1:] for line in lines if line[:2] > "# " and not line.endswith("=")))
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("TALE_BACKEND")

    assert origins(tale)["max_output_tokens"] == {"value": "2048", "source": str(path)}


@pytest.mark.parametrize(
    ("name", "said"),
    [("", "The folder has no name"), ("  ", "has no name"), ("file", "file/tale.toml cannot be made: File exists")],
)
def test_a_folder_that_cannot_be_made_is_one_sentence(tale: Tale, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()

    done = tale("init", name)

    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_init_leaves_a_file_alone_that_is_there(tale: Tale, tmp_path: Path) -> None:
    (tmp_path / "tale.toml").write_text("gateway_port = 9000\n")

    done = tale("init", ".")

    assert (done.code, done.err) == (2, "tale: tale.toml exists already; edit it, or name another folder.\n")
    assert (tmp_path / "tale.toml").read_text() == "gateway_port = 9000\n"


def test_each_value_names_the_layer_it_came_from(tale: Tale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tale.toml").write_text("task_slots = 2\nqueue_limit = 7\n")
    monkeypatch.setenv("TALE_QUEUE_LIMIT", "8")
    below = tmp_path / "some" / "folder"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    told = origins(tale)

    assert told["task_slots"] == {"value": "2", "source": str(tmp_path / "tale.toml")}
    assert told["queue_limit"] == {"value": "8", "source": "environment"}
    assert told["host"] == {"value": "127.0.0.1", "source": "default"}
    assert set(told) == set(Settings.model_fields)


def test_the_home_has_a_file_for_folders_without_one(tale: Tale, tale_home: Path) -> None:
    tale_home.mkdir()
    (tale_home / "tale.toml").write_text("task_slots = 2\n")

    assert origins(tale)["task_slots"]["source"] == str(tale_home / "tale.toml")


@pytest.mark.parametrize("columns", ["40", "100", "500"])
def test_secrets_are_masked_at_every_width(tale: Tale, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TALE_API_KEY", "hush-1")
    monkeypatch.setenv("TALE_OPENAI_API_KEY", "hush-2")
    monkeypatch.setenv("TALE_DATABASE_URL", "postgresql+psycopg://ann:hush-3@db/tale")

    out = tale("config", "show").out

    assert "hush" not in out + tale("config", "show", "--json").out
    assert "postgresql+psycopg://ann:********@db/tale" in out.replace("\n", "")
    assert "(none)" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= int(columns)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("task_slots = ", "tale.toml cannot be read as TOML"),
        ("task_slots = 0", "Setting task_slots"),
        ("slots = 1", "there is no such setting"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence_with_its_path(
    tale: Tale, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "tale.toml").write_text(content)

    done = tale("config", "show")

    assert done.code == 2
    assert said in done.err
    assert str(tmp_path / "tale.toml") in done.err
    assert done.err.count("\n") == 1
