"""`tale connect`: forms that other programs read, with the address in force and never with the key."""

import json
import shlex
import subprocess
from collections.abc import Callable

import pytest
from fakes.command_line import Outcome
from fakes.gateway import FakeGateway

Tale = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("client", "path"),
    [("common", ("mcpServers", "tale")), ("vscode", ("servers", "tale")), ("zed", ("context_servers", "tale"))],
)
def test_a_form_is_json_with_the_address_in_force(
    tale: Tale, monkeypatch: pytest.MonkeyPatch, client: str, path: tuple[str, str]
) -> None:
    monkeypatch.setenv("TALE_GATEWAY_PORT", "9123")

    done = tale("connect", "--client", client)

    server = json.loads(done.out)[path[0]][path[1]]
    assert server["url"] == "http://127.0.0.1:9123/mcp"
    assert "headers" not in server
    assert (done.code, done.err) == (0, "")


def test_without_a_client_every_form_is_printed_with_where_it_goes(tale: Tale) -> None:
    out = tale("connect").out

    for shown in ("mcpServers", "VS Code (.vscode/mcp.json)", "context_servers", "curl -s http://127.0.0.1:"):
        assert shown in out


@pytest.mark.parametrize("client", ["common", "vscode", "zed", "curl"])
def test_a_key_is_named_but_never_printed(tale: Tale, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    monkeypatch.setenv("TALE_API_KEY", "hush")

    out = tale("connect", "--client", client).out

    assert "hush" not in out
    assert "Bearer YOUR_TALE_API_KEY" in out


def test_the_curl_line_hands_a_task_in(gateway: FakeGateway, tale: Tale) -> None:
    line = tale("connect", "--client", "curl").out

    answer = json.loads(subprocess.run(shlex.split(line), capture_output=True, check=True).stdout)

    assert answer["result"]["structuredContent"]["status"] == "queued"
    assert gateway.asked("submit_task")[0]["text"] == "Write a haiku"


def test_an_unknown_client_is_refused_with_those_there_are(tale: Tale) -> None:
    done = tale("connect", "--client", "emacs")

    assert done.code == 2
    assert "'emacs' is not one of 'common', 'vscode', 'zed', 'curl'" in done.err
