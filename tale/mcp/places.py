"""Under which names a server may be asked, and from pages of which sites: the guard against DNS rebinding."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "::1"})
ANY: Final = "*"
KEPT: Final = 256  # headers read; those of a server's clients are few, and come with every request


@dataclass(frozen=True, slots=True)
class Place:
    """A host as it is written in a Host or Origin header; what is not named is None."""

    host: str
    port: int | None = None
    scheme: str | None = None

    @classmethod
    @lru_cache(maxsize=KEPT)
    def parse(cls, text: str) -> "Place | None":
        """Read "host", "host:port" or "scheme://host:port"; None for anything else.

        >>> Place.parse("https://App.Example:8443")
        Place(host='app.example', port=8443, scheme='https')
        >>> Place.parse("[::1]:80")
        Place(host='::1', port=80, scheme=None)
        >>> Place.parse("user@example.com") is Place.parse("a/b") is None
        True
        """
        try:
            parts = urlsplit(text if "://" in text else f"//{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if not host or "@" in parts.netloc or parts.path or parts.query or parts.fragment:
            return None
        return cls(host, port, parts.scheme or None)

    def covers(self, other: "Place") -> bool:
        """Whether the other is this place; a port or scheme that this one does not name may be any."""
        return (
            self.host == other.host
            and self.port in (None, other.port)
            and (self.scheme is None or self.scheme == other.scheme)
        )


class Places:
    """The names and sites of a server that listens on `host`.

    On loopback its names are those of this machine; beyond, any name will do unless `hosts` are given. Pages of this
    machine may ask a server on loopback, pages of its own host one beyond. `hosts` and `origins` are allowed besides,
    with or without ports; "*" stands for all.
    """

    def __init__(self, host: str, *, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        hosts, origins = tuple(hosts), tuple(origins)
        self._is_local = host in LOOPBACK_NAMES
        self._any_host = ANY in hosts or (not self._is_local and not hosts)
        self._any_origin = ANY in origins
        self._hosts = _places(hosts)
        self._origins = _places(origins)

    def allows_host(self, header: str) -> bool:
        """Whether a request with this Host header is meant for this server."""
        place = Place.parse(header)
        if place is None or place.scheme is not None:  # it names no scheme
            return False
        return self._any_host or place.host in LOOPBACK_NAMES or any(known.covers(place) for known in self._hosts)

    def allows_origin(self, header: str, host_header: str) -> bool:
        """Whether a page of this Origin may ask."""
        if self._any_origin:
            return True
        place = Place.parse(header)
        if place is None:
            return False
        if any(known.covers(place) for known in self._origins):
            return True
        if self._is_local:
            return place.host in LOOPBACK_NAMES
        own = Place.parse(host_header)
        return own is not None and own.host == place.host


def _places(texts: Iterable[str]) -> tuple[Place, ...]:
    return tuple(place for text in texts if (place := Place.parse(text)))
