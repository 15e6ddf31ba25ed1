"""Keys that clients send: how one is made and kept, and what its owner may do."""

import hashlib
import secrets
from enum import StrEnum
from typing import Final

KEY_PREFIX: Final = "tale_"  # by which people, and scanners for lost secrets, know a key when they see it
KEY_BYTES: Final = 32
OWNER: Final = "owner"  # the name of callers who show the home's own key
CONFIGURED: Final = "api_key"  # of those who show the configured one
OWN_KEYS: Final = frozenset({OWNER, CONFIGURED})  # the names of whoever runs tale: no other key can have one


class Scope(StrEnum):
    """What a key is good for; each scope includes those before it.

    >>> Scope.ADMIN.allows(Scope.READ), Scope.READ.allows(Scope.SUBMIT)
    (True, False)
    """

    READ = "read"  # look: tools that change nothing, resources, prompts
    SUBMIT = "submit"  # have work done: submit, cancel, rate, converse
    ADMIN = "admin"  # everything

    def allows(self, needed: "Scope") -> bool:
        """Whether this scope includes the one that is needed."""
        return _RANKS[self] >= _RANKS[needed]


_RANKS: Final = {scope: rank for rank, scope in enumerate(Scope)}


def new_key() -> str:
    """A key of 256 random bits, which is shown once and never kept."""
    return f"{KEY_PREFIX}{secrets.token_urlsafe(KEY_BYTES)}"


def digest_of(key: str) -> str:
    """What is kept of a key, and found again by it: its SHA-256, 64 hexadecimal digits.

    A slow hash would protect passwords, which people choose from few; nobody tries out 256 random bits, and a key is
    looked up on every request.

    >>> digest_of("abc")
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
