"""Host and Origin headers are compared with and without ports, and what is no such header is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tale.mcp.places import Place, Places


@pytest.mark.parametrize(
    ("allowed", "host", "served"),
    [
        ((), "tale.example", False),
        (("tale.example",), "tale.example", True),
        (("tale.example",), "tale.example:8080", True),
        (("tale.example",), "TALE.example:9", True),
        (("tale.example:8080",), "tale.example:8080", True),
        (("tale.example:8080",), "tale.example:8081", False),
        (("tale.example:8080",), "tale.example", False),
        (("tale.example",), "x.tale.example", False),
        (("tale.example",), "localhost", True),
        (("[fe80::1]",), "[fe80::1]:8080", True),
        (("*",), "anything.example", True),
        (("*",), "not a host/", False),
    ],
)
def test_a_server_of_this_machine_has_its_names_and_those_allowed(
    allowed: tuple[str, ...], host: str, served: bool
) -> None:
    assert Places("127.0.0.1", hosts=allowed).allows_host(host) is served


@pytest.mark.parametrize(
    ("allowed", "host", "served"),
    [
        ((), "anything.example:8080", True),
        ((), "10.0.0.7", True),
        ((), "", False),
        (("tale.example",), "tale.example", True),
        (("tale.example",), "other.example", False),
        (("tale.example",), "localhost:8080", True),
    ],
)
def test_a_server_beyond_has_any_name_unless_some_are_allowed(
    allowed: tuple[str, ...], host: str, served: bool
) -> None:
    assert Places("0.0.0.0", hosts=allowed).allows_host(host) is served


@pytest.mark.parametrize(
    ("listens_on", "allowed", "origin", "may_ask"),
    [
        ("127.0.0.1", (), "http://localhost:3000", True),
        ("127.0.0.1", (), "https://app.example", False),
        ("127.0.0.1", ("https://app.example",), "https://app.example", True),
        ("127.0.0.1", ("https://app.example",), "https://app.example:8443", True),
        ("127.0.0.1", ("https://app.example:8443",), "https://app.example", False),
        ("127.0.0.1", ("https://app.example",), "http://app.example", False),
        ("127.0.0.1", ("app.example",), "http://app.example:80", True),
        ("127.0.0.1", ("*",), "null", True),
        ("127.0.0.1", (), "null", False),
        ("0.0.0.0", (), "http://tale.example", True),
        ("0.0.0.0", (), "https://tale.example:9000", True),
        ("0.0.0.0", (), "http://other.example", False),
        ("0.0.0.0", (), "http://localhost:3000", False),
        ("0.0.0.0", ("http://localhost:3000",), "http://localhost:3000", True),
        ("0.0.0.0", (), "file://", False),
    ],
)
def test_pages_of_this_machine_of_the_own_host_and_those_allowed_may_ask(
    listens_on: str, allowed: tuple[str, ...], origin: str, may_ask: bool
) -> None:
    assert Places(listens_on, origins=allowed).allows_origin(origin, "tale.example:8080") is may_ask


@given(st.text())
def test_no_header_breaks_the_reading_of_it(text: str) -> None:
    for header in (text, f"localhost{text}", f"http://{text}"):
        place = Place.parse(header)
        assert place is None or place.host
        Places("0.0.0.0").allows_origin(header, text)


@example("e://")
@given(st.text(alphabet="/@?#\\:.%[]evil", min_size=1))
def test_nothing_in_front_of_localhost_makes_it_localhost(text: str) -> None:
    assert not Places("127.0.0.1").allows_host(f"{text}localhost")
