"""Foreign hosts, foreign pages and strangers are kept out."""

import logging

import pytest
from fakes.mcp_workshop import Workshop, calling, request

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
