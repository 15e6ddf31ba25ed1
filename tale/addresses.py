"""Network addresses as people write them: checked, completed, and shown without their passwords."""

import re
from typing import Final

LISTENING_WILDCARDS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - not bound
MASK: Final = "********"
OLLAMA_HOST_FORM: Final = re.compile(
    r"(?:(?P<scheme>https?)://)?(?P<host>\[[^\]]*\]|[^:/]*|[0-9a-fA-F:]+)(?::(?P<port>\d+))?(?P<path>/.*)?"
)
OLLAMA_PORTS: Final = {None: 11434, "http": 80, "https": 443}  # Ollama's own rule: a scheme brings its usual port
PASSWORD_IN_URL: Final = re.compile(r"(?<=://)([^:/@]*):([^@]*)@")


def require_http(url: str) -> str:
    """Return the URL unchanged; ValueError when it lacks http:// or https://."""
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address must begin with http:// or https://")
    return url


def ollama_url(variable: str) -> str:
    """The URL that Ollama's own OLLAMA_HOST means: scheme, host, port and path are all optional there.

    What has none of its forms comes back unchanged, for `require_http` to refuse.

    >>> ollama_url("0.0.0.0")
    'http://127.0.0.1:11434'
    >>> ollama_url("https://gpu-box/ollama/")
    'https://gpu-box:443/ollama'
    """
    parts = OLLAMA_HOST_FORM.fullmatch(variable.strip())
    if parts is None:
        return variable
    scheme, host, port, path = parts.group("scheme", "host", "port", "path")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    host = LISTENING_WILDCARDS.get(host, host)
    return f"{scheme or 'http'}://{host}:{port or OLLAMA_PORTS[scheme]}{(path or '').rstrip('/')}"


def without_password(text: str) -> str:
    """The text with the password of any URL in it masked.

    >>> without_password("postgresql+psycopg://ann:s3cret@db/tale")
    'postgresql+psycopg://ann:********@db/tale'
    """
    return PASSWORD_IN_URL.sub(rf"\1:{MASK}@", text)
