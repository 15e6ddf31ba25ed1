"""Foreign hosts, foreign pages and strangers are kept out."""

import asyncio
import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from fakes.mcp_workshop import BOTH, Workshop, call, calling, initialize, request

from tale.credentials import Scope, digest_of
from tale.mcp.admission import Entrance
from tale.mcp.http_server import HTTPMCPServer, Limits
from tale.records import AccessKey

KEY = "a-key-that-nobody-guesses"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:8080@localhost.x", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_only_this_machines_names_are_served_on_loopback(
    host: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with calling(Workshop().server()) as client:
            assert (await client.post(request("ping"), {"Host": host})).status == status
    assert (repr(host) in caplog.text) == (status == 421)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("https://127.0.0.1", 200),
        ("http://[::1]:1", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost.evil.example", 403),
    ],
)
async def test_only_pages_of_this_machine_may_ask(origin: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with calling(Workshop().server()) as client:
            assert (await client.post(request("ping"), {"Origin": origin})).status == status
    assert (f"origin {origin!r}" in caplog.text) == (status == 403)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer   {KEY} ", 200),
        ("", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        ("Bearer", 401),
        (f"Bearer {KEY}x", 401),
        ("Bearer \xe9\udcff", 401),
    ],
)
async def test_a_key_is_asked_for_where_one_is_set(given: str, status: int) -> None:
    async with (
        calling(Workshop().server(api_key=KEY)) as client,
        client.http.post(
            f"{client.url}/mcp",
            json=request("ping"),
            headers={"Authorization": given.encode("utf-8", "surrogateescape").decode("latin-1")},
        ) as response,
    ):
        assert response.status == status
        if status == 401:
            assert response.headers["WWW-Authenticate"].startswith('Bearer realm="workshop"')
            assert "Authorization: Bearer" in await response.text()


async def test_each_path_but_health_asks_for_the_key() -> None:
    async with calling(Workshop().server(api_key=KEY)) as client:
        for method, path in (("GET", "/mcp"), ("DELETE", "/mcp"), ("GET", "/nowhere"), ("GET", "/health/")):
            async with client.http.request(method, client.url + path) as response:
                assert response.status == 401


async def test_a_stranger_is_told_where_the_protocol_looks_for_more() -> None:
    async with calling(Workshop().server(api_key=KEY)) as client:
        refused = await client.plain("ping")
        assert refused.error["message"] == "A key is needed: send Authorization: Bearer KEY"
        where = f"{client.url}/.well-known/oauth-protected-resource/mcp"
        assert refused.headers["WWW-Authenticate"] == f'Bearer realm="workshop", resource_metadata="{where}"'
        async with client.http.get(where) as response:
            assert response.status == 200
            told = await response.json()
    assert told["resource"] == f"{client.url}/mcp"
    assert told["scopes_supported"] == ["read", "submit", "admin"]
    assert told["bearer_methods_supported"] == ["header"]


# Keys with scopes


@dataclass
class Keys:
    """The stored keys: one a scope, named after it, and each the key that opens it."""

    rows: list[AccessKey] = field(
        default_factory=lambda: [
            AccessKey(f"id-{scope}", f"{scope} key", scope, digest_of(f"key-{scope}"), 0.0) for scope in Scope
        ]
    )

    async def load(self) -> list[AccessKey]:
        return list(self.rows)

    def revoke(self, scope: Scope) -> None:
        self.rows = [replace(row, revoked_at=1.0) if row.scope is scope else row for row in self.rows]

    def entrance(self, **chosen: Any) -> Entrance:
        return Entrance(own_keys={"owner": KEY}, load_keys=self.load, **chosen)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def destroy() -> str:
    """A tool for those who may do everything."""
    return "destroyed"


def keyed(workshop: Workshop, entrance: Entrance, **options: Any) -> HTTPMCPServer:
    server = workshop.server(entrance=entrance, **options)
    server.add_tool(destroy, scope=Scope.ADMIN)
    return server


@pytest.mark.parametrize(
    ("key", "served"),
    [
        ("key-read", {"who"}),
        ("key-submit", {"who", "echo"}),
        ("key-admin", {"who", "echo", "destroy"}),
        (KEY, {"who", "echo", "destroy"}),
    ],
)
async def test_a_key_opens_what_its_scope_includes(key: str, served: set[str]) -> None:
    workshop = Workshop()
    async with calling(keyed(workshop, Keys().entrance())) as client:
        for tool in ("who", "echo", "destroy"):
            arguments = {"text": "x"} if tool == "echo" else {}
            answer = await client.post(request("tools/call", call(tool, arguments)), bearer(key))
            assert answer.status == (200 if tool in served else 403)
        listed = (await client.post(request("tools/list"), bearer(key))).result["tools"]
        assert {tool["name"] for tool in listed} & {"who", "echo", "destroy"} == served
        assert (await client.post(request("ping"), bearer(key))).status == 200


async def test_a_key_of_too_small_a_scope_is_told_which_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with calling(keyed(Workshop(), Keys().entrance())) as client:
            refused = await client.post(request("tools/call", call("echo")), bearer("key-read"))
    assert refused.status == 403
    assert refused.error["message"] == "The key 'read key' has the scope read; this needs submit"
    assert 'error="insufficient_scope", scope="submit"' in refused.headers["WWW-Authenticate"]
    assert "'read key' of scope read asked for what needs submit" in caplog.text


async def test_a_call_in_a_session_needs_the_scope_too() -> None:
    async with calling(keyed(Workshop(), Keys().entrance())) as client:
        opened = await client.post(initialize(), bearer("key-read"))
        headers = {**bearer("key-read"), "Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        assert (await client.post(request("tools/call", call("echo", {"text": "x"})), headers)).status == 403
        assert (await client.post(request("tools/call", call("who")), headers)).status == 200


async def test_the_record_of_a_call_names_the_key() -> None:
    workshop = Workshop()
    async with calling(keyed(workshop, Keys().entrance())) as client:
        for key in ("key-read", KEY):
            await client.post(request("tools/call", call("who")), bearer(key))
    assert [noted.key_name for noted in workshop.calls] == ["read key", "owner"]


async def test_other_paths_need_to_read_or_to_submit() -> None:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(text="served")

    server = keyed(Workshop(), Keys().entrance())
    server.add_routes([web.get("/more", serve), web.post("/more", serve)])
    async with calling(server) as client:
        for method, key, status in (("GET", "key-read", 200), ("POST", "key-read", 403), ("POST", "key-submit", 200)):
            async with client.http.request(method, f"{client.url}/more", headers=bearer(key)) as response:
                assert response.status == status


# Sessions belong to keys


async def test_a_session_is_there_for_the_key_that_opened_it_alone() -> None:
    async with calling(keyed(Workshop(), Keys().entrance())) as client:
        opened = await client.post(initialize(), bearer("key-submit"))
        session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        for key in ("key-admin", KEY):
            stolen = {**bearer(key), **session}
            assert (await client.post(request("ping"), stolen)).status == 404
            assert (await client.post({"jsonrpc": "2.0", "method": "notifications/x"}, stolen)).status == 404
            async with client.http.get(f"{client.url}/mcp", headers={**stolen, "Accept": BOTH}) as stream:
                assert stream.status == 404
            async with client.http.delete(f"{client.url}/mcp", headers=stolen) as response:
                assert response.status == 404
        assert (await client.post(request("ping"), {**bearer("key-submit"), **session})).status == 200


async def test_the_sessions_of_a_revoked_key_end_with_what_they_have_in_flight() -> None:
    keys, workshop = Keys(), Workshop()
    server = keyed(workshop, keys.entrance(), limits=Limits(session_idle_s=0.05))  # so often sessions are looked after
    async with calling(server) as client:
        opened = await client.post(initialize(), bearer("key-submit"))
        headers = {**bearer("key-submit"), "Mcp-Session-Id": opened.headers["Mcp-Session-Id"]}
        asked = asyncio.create_task(client.post(request("tools/call", call("wait")), headers))
        await workshop.started.wait()
        keys.revoke(Scope.SUBMIT)
        await workshop.cancelled.wait()
        assert all("result" not in message for message in (await asked).messages)
        assert (await client.post(request("ping"), headers)).status == 401


async def test_one_key_cannot_push_out_the_sessions_of_all_others() -> None:
    server = keyed(Workshop(), Keys().entrance(), limits=Limits(sessions=8))
    async with calling(server) as client:
        mine = (await client.post(initialize(), bearer("key-admin"))).headers["Mcp-Session-Id"]
        for _ in range(20):
            assert (await client.post(initialize(), bearer("key-read"))).status == 200
        assert len(server.endpoint.sessions) == 3
        assert (await client.post(request("ping"), {**bearer("key-admin"), "Mcp-Session-Id": mine})).status == 200


# How often


async def test_a_key_that_asks_too_often_is_told_when_to_come_again() -> None:
    async with calling(keyed(Workshop(), Keys().entrance(rate_per_s=0.01, burst=3))) as client:
        statuses = [(await client.post(request("ping"), bearer("key-read"))).status for _ in range(3)]
        assert statuses == [200, 200, 200]
        refused = await client.post(request("ping"), bearer("key-read"))
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 100
        assert refused.error["message"] == f"Too many requests; try again in {refused.headers['Retry-After']} s"
        assert (await client.post(request("ping"), bearer("key-submit"))).status == 200


async def test_the_own_keys_may_ask_as_often_as_they_like() -> None:
    async with calling(keyed(Workshop(), Keys().entrance(rate_per_s=0.01, burst=1))) as client:
        assert {(await client.post(request("ping"), bearer(KEY))).status for _ in range(10)} == {200}


# Names and sites


@pytest.mark.parametrize(
    ("chosen", "headers", "status"),
    [
        ({"hosts": ("tale.example",)}, {"Host": "tale.example:1234"}, 200),
        ({"hosts": ("tale.example:80",)}, {"Host": "tale.example:1234"}, 421),
        ({"origins": ("https://app.example",)}, {"Origin": "https://app.example"}, 200),
        ({"origins": ("https://app.example",)}, {"Origin": "http://app.example"}, 403),
    ],
)
async def test_more_names_and_sites_may_be_allowed(
    chosen: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    async with calling(Workshop().server(entrance=Entrance(**chosen))) as client:
        assert (await client.post(request("ping"), headers)).status == status


# Pages in browsers

PAGE = {"Origin": "https://app.example"}
ALLOW, EXPOSE = "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"


def preflight(method: str, names: str) -> dict[str, str]:
    return {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": names}


@pytest.mark.parametrize("path", ["/mcp", "/health", "/v1/chat/completions"])
async def test_a_browser_is_told_without_a_key_what_an_allowed_page_may_send(path: str) -> None:
    entrance = Keys().entrance(origins=(PAGE["Origin"],))
    async with calling(keyed(Workshop(), entrance)) as client:
        asked = {**PAGE, **preflight("POST", "authorization,content-type,mcp-session-id")}
        async with client.http.options(client.url + path, headers=asked) as response:
            told = response.headers
            assert (response.status, await response.read()) == (204, b"")
        assert (told[ALLOW], told["Vary"]) == (PAGE["Origin"], "Origin")
        assert told["Access-Control-Allow-Headers"] == "authorization,content-type,mcp-session-id"
        assert "DELETE" in told["Access-Control-Allow-Methods"]
        foreign = {**asked, "Origin": "https://evil.example"}
        async with client.http.options(client.url + path, headers=foreign) as response:
            assert (response.status, ALLOW in response.headers) == (403, False)
        async with client.http.options(f"{client.url}/mcp", headers=PAGE) as response:  # it asks nothing beforehand
            assert response.status == 401


async def test_an_allowed_page_may_read_answers_streams_and_refusals() -> None:
    async with calling(keyed(Workshop(), Keys().entrance(origins=(PAGE["Origin"],)))) as client:
        opened = await client.post(initialize(), {**bearer(KEY), **PAGE})
        stream = await client.post(request("tools/call", call("count", {"to": 3}, token=1)), {**bearer(KEY), **PAGE})
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        stranger = await client.post(request("ping"), PAGE)
        lost = await client.post(request("ping"), {**bearer(KEY), **PAGE, "Mcp-Session-Id": "nope"})
        answers = [opened, stream, stranger, lost]
        assert [answer.status for answer in answers] == [200, 200, 401, 404]
        assert {answer.headers[ALLOW] for answer in answers} == {PAGE["Origin"]}
        assert "Mcp-Session-Id" in opened.headers[EXPOSE]
        for others in ({}, {"Origin": "https://evil.example"}):
            assert ALLOW not in (await client.post(request("ping"), {**bearer(KEY), **others})).headers
