"""What is handed to container engines names settings, commands and files that exist."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tale.cli.application import application
from tale.cli.invocation import Invocation
from tale.servers.bootstrap import ALL_ROLES
from tale.settings import Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
SETTINGS = {f"TALE_{name.upper()}" for name in Settings.model_fields}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COPIED = {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
SERVERS = ("gateway", "execution")
BUILD = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]


@pytest.mark.parametrize("name", SERVERS)
def test_each_variable_of_a_server_is_a_setting(name: str) -> None:
    environment = COMPOSE["services"][name]["environment"]
    assert {variable for variable in environment if variable.startswith("TALE_")} <= SETTINGS
    assert environment["TALE_DATABASE_URL"].startswith("postgresql://tale:")


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_is_started_by_a_command_that_is_understood(name: str) -> None:
    program, *arguments = COMPOSE["services"][name]["command"]
    assert program == "tale"
    command = get_command(application)
    with command.make_context("tale", arguments[:1], obj=Invocation()) as context:
        serve = command.get_command(context, arguments[0])
        with serve.make_context(arguments[0], arguments[1:], parent=context) as parsed:
            assert set(parsed.params["roles"].split(",")) <= set(ALL_ROLES)


def test_secrets_come_from_outside_and_nothing_is_published_beyond_loopback() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for secret in ("TALE_API_KEY", "POSTGRES_PASSWORD"):
        assert set(re.findall(rf"\$\{{{secret}(.)", text)) == {":"}
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_volumes_and_files_are_there() -> None:
    named = {
        volume.partition(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", ())
    }
    assert named == set(COMPOSE["volumes"])
    for name in SERVERS:
        build = COMPOSE["services"][name]["build"]
        assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_image_copies_files_that_are_there() -> None:
    for source in COPIED:
        assert (DEPLOY.parent / source).exists(), source
    assert set(re.findall(r"\b(TALE_\w+)=", DOCKERFILE)) <= SETTINGS


def test_the_image_copies_all_that_the_package_is_made_of() -> None:
    for part in (*BUILD["wheel"]["packages"], *BUILD["wheel"]["force-include"]):
        assert {str(folder) for folder in (Path(part), *Path(part).parents)} & COPIED, part


def test_the_source_package_holds_all_that_the_image_is_made_of() -> None:
    included = {name.removeprefix("/") for name in BUILD["sdist"]["include"]} | {"pyproject.toml"}
    assert {DEPLOY.name, *COPIED} <= included
