"""What nobody sends by mistake: bodies, headers and bytes made to break a server, and random ones like them."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

META = "io.modelcontextprotocol"
HANDSHAKE, MODERN = "2025-11-25", "2026-07-28"
DEPTH = 20_000
HEAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: */*\r\n"
CLOSING = b"Connection: close\r\n"

WRONG: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**53 + 1,
    10**400,
    1e308,
    -0.0,
    "",
    "\u0000",
    "\ud800",
    "\u202e\u0000\ufeff",
    "../../etc/passwd",
    "x" * 10_000,
    [],
    [[]],
    {},
    {"": None},
    {"__proto__": {"x": 1}, "constructor": 1},
)


@dataclass(frozen=True)
class Hostile:
    """A body with headers to post to /mcp."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def corpus() -> list[Hostile]:
    """All bodies, in every era's dress."""
    dressed: list[Hostile] = []
    for name, body in [*_raw_bodies(), *_messages()]:
        dressed.append(Hostile(name, body))
        method = _method_in(body)
        modern = {"Mcp-Protocol-Version": MODERN, "Mcp-Method": method, "Mcp-Name": "echo"}
        dressed.append(Hostile(f"{name}, modern", body, modern))
        session = {"Mcp-Protocol-Version": HANDSHAKE, "Mcp-Session-Id": "0" * 32}
        dressed.append(Hostile(f"{name}, in a session", body, session))
    return [*dressed, *_odd_headers()]


def connections() -> list[tuple[str, bytes]]:
    """Bytes for connections of their own, after which the sender waits for the end."""
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    chunked = HEAD + CLOSING + b"Transfer-Encoding: chunked\r\n"
    sized = HEAD + CLOSING + b"Content-Length: %d\r\n" % len(ping)
    return [
        ("two lengths", HEAD + b"Content-Length: 3\r\nContent-Length: 40\r\n\r\n" + ping),
        ("length and chunks", sized + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ping),
        ("chunks in disguise", HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        ("chunks with a space", HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        ("length with a sign", HEAD + b"Content-Length: +40\r\n\r\n" + ping),
        ("length beyond counting", HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + ping),
        ("chunk of no size", chunked + b"\r\nzz\r\n" + ping),
        ("chunk of a negative size", chunked + b"\r\n-1\r\n" + ping),
        ("chunk beyond counting", chunked + b"\r\nfffffffffffffffff\r\n" + ping),
        ("chunk that lies", chunked + b"\r\n3\r\n" + ping + b"\r\n0\r\n\r\n"),
        ("folded header", HEAD + b"X: a\r\n b\r\n\r\n"),
        ("header without a name", HEAD + b": x\r\n\r\n"),
        ("null in a header", HEAD + b"X: a\x00b\r\n\r\n"),
        ("bare carriage return", HEAD + b"X: a\rContent-Length: 5\r\n\r\n"),
        ("two hosts", HEAD + b"Host: evil.example\r\n\r\n"),
        ("another request in a body", sized + b"\r\n" + ping + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("an absolute address", b"POST http://evil.example/mcp HTTP/1.1\r\nHost: localhost\r\n" + CLOSING + b"\r\n"),
        ("a connection through", b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n" + CLOSING + b"\r\n"),
        ("an upgrade", HEAD + CLOSING + b"Upgrade: websocket\r\nContent-Length: 0\r\n\r\n"),
        ("a future version", b"POST /mcp HTTP/3.0\r\nHost: localhost\r\n\r\n"),
        ("no version", b"GET /mcp\r\n\r\n"),
        ("no host", b"POST /mcp HTTP/1.1\r\n" + CLOSING + b"Content-Length: 0\r\n\r\n"),
        ("a very long line", b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        ("very many headers", HEAD + b"".join(b"X-%d: x\r\n" % number for number in range(2_000)) + b"\r\n"),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64),
        ("http/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("noise", bytes(range(256)) * 8),
        ("packed as it is not", HEAD + CLOSING + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
        ("packed by a stranger", HEAD + CLOSING + b"Content-Encoding: zstd, br\r\nContent-Length: 4\r\n\r\nabcd"),
    ]


def cut_short() -> list[tuple[str, bytes]]:
    """Bytes after which the sender hangs up, in the midst of something."""
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    return [
        ("in the first line", b"POST /m"),
        ("in the headers", HEAD),
        ("in the body", HEAD + b"Content-Length: 400\r\n\r\n" + ping),
        ("in a chunk", HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + ping),
        ("between chunks", HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(ping) + ping + b"\r\n"),
        ("before the answer", HEAD + b"Content-Length: %d\r\n\r\n" % len(ping) + ping),
    ]


def mutated(drawn: random.Random, message: dict[str, Any]) -> dict[str, Any]:
    """The message with one node of it, anywhere, replaced, removed or doubled."""
    copy: dict[str, Any] = json.loads(json.dumps(message))
    places = list(_places_in(copy))
    holder, key = drawn.choice(places)
    change = drawn.randrange(3)
    if change == 0:
        holder[key] = drawn.choice(WRONG)
    elif change == 1:
        del holder[key]
    elif isinstance(holder, dict):
        holder[drawn.choice(("x", "", "id", "method", "params", "_meta"))] = holder[key]
    else:
        holder.append(holder[key])
    return copy


def encoded(message: object) -> bytes:
    """JSON, with what UTF-8 cannot hold left as the escapes that some programs write."""
    return json.dumps(message).encode()


def _places_in(node: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    for key in keys:
        yield node, key
        yield from _places_in(node[key])


def _raw_bodies() -> Iterator[tuple[str, bytes]]:
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":%s}}'
    yield "nothing", b""
    yield "white space", b" \r\n\t" * 1_000
    yield "a byte order mark", b"\xef\xbb\xbf" + call % b"{}"
    yield "utf-16", (call % b"{}").decode().encode("utf-16")
    yield "bytes that are no utf-8", call % b'{"text":"\xff\xfe\xc0\x80"}'
    yield "half a surrogate in utf-8", call % b'{"text":"\xed\xa0\x80"}'
    yield "half a surrogate, escaped", call % b'{"text":"\\ud800"}'
    yield "a null, escaped", call % b'{"text":"\\u0000"}'
    yield "a bad escape", call % b'{"text":"\\x41"}'
    yield "a control character", call % b'{"text":"\x01"}'
    yield "not a number", call % b'{"text":NaN}'
    yield "infinity", call % b'{"text":-Infinity}'
    yield "a huge exponent", call % b'{"text":1e999999}'
    yield "a huge number", call % (b'{"text":' + b"9" * 100_000 + b"}")
    yield "a trailing comma", call % b'{"text":"x",}'
    yield "a comment", call % b'{/* x */"text":"x"}'
    yield "single quotes", call % b"{'text':'x'}"
    yield "two documents", (call % b"{}") * 2
    yield "half a document", (call % b"{}")[:-3]
    yield "a tool named twice", b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","method":"tools/call","params":{}}'
    yield "an argument named twice", call % b'{"text":"a","text":5}'
    yield "deep lists", b"[" * DEPTH
    yield "deep closed lists", b"[" * DEPTH + b"]" * DEPTH
    yield "deep objects", b'{"a":' * DEPTH
    yield "deep arguments", call % (b'{"text":' + b"[" * DEPTH + b"]" * DEPTH + b"}")
    yield "deep, but not too deep", call % (b'{"text":' + b"[" * 500 + b"]" * 500 + b"}")
    yield "many members", call % (b"{" + b",".join(b'"k%d":1' % number for number in range(50_000)) + b"}")
    yield "many elements", b"[" + b"1," * 200_000 + b"1]"
    yield "a batch", b"[" + call % b"{}" + b"," + call % b"{}" + b"]"
    yield "a plain value", b'"ping"'


def _messages() -> Iterator[tuple[str, bytes]]:
    base: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    envelope = {f"{META}/protocolVersion": MODERN, f"{META}/clientCapabilities": {}}
    for number, wrong in enumerate(WRONG):
        for name, message in {
            "jsonrpc": {**base, "jsonrpc": wrong},
            "id": {**base, "id": wrong},
            "method": {**base, "method": wrong},
            "params": {**base, "params": wrong},
            "name": {**base, "params": {"name": wrong}},
            "arguments": {**base, "params": {"name": "echo", "arguments": wrong}},
            "argument": {**base, "params": {"name": "echo", "arguments": {"text": wrong}}},
            "meta": {**base, "params": {"name": "echo", "arguments": {"text": "x"}, "_meta": wrong}},
            "token": {
                **base,
                "params": {"name": "count", "arguments": {"to": 1}, "_meta": {**envelope, "progressToken": wrong}},
            },
            "version": {**base, "params": {"name": "echo", "_meta": {**envelope, f"{META}/protocolVersion": wrong}}},
            "capabilities": {
                **base,
                "params": {"name": "echo", "_meta": {**envelope, f"{META}/clientCapabilities": wrong}},
            },
            "cursor": {**base, "method": "tools/list", "params": {"cursor": wrong, "_meta": envelope}},
            "handshake": {**base, "method": "initialize", "params": wrong},
            "handshake version": {
                **base,
                "method": "initialize",
                "params": {"protocolVersion": wrong, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
            },
            "client": {
                **base,
                "method": "initialize",
                "params": {"protocolVersion": HANDSHAKE, "capabilities": wrong, "clientInfo": wrong},
            },
            "cancellation": {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": wrong}},
            "answer": {"jsonrpc": "2.0", "id": wrong, "result": wrong},
            "error": {"jsonrpc": "2.0", "id": 1, "error": wrong},
        }.items():
            yield f"wrong {name} {number}", encoded(message)
    for method in ("server/discover", "resources/read", "prompts/get", "completion/complete", "logging/setLevel",
                   "tasks/get", "tasks/cancel", "tasks/update", "subscriptions/listen", "resources/subscribe",
                   "sampling/createMessage", "ping", "rpc.discover", "a" * 5_000):  # fmt: skip
        yield f"method {method[:30]}", encoded({**base, "method": method, "params": {"_meta": envelope}})


def _odd_headers() -> Iterator[Hostile]:
    ping = encoded({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    for name, value in (
        ("Content-Type", 'application/json; charset="utf-16"'),
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Type", ";;;"),
        ("Accept", ""),
        ("Accept", ";q=,," * 500),
        ("Authorization", "Bearer " + "x" * 7_000),
        ("Authorization", "Digest username=x"),
        ("Mcp-Session-Id", "x" * 7_000),
        ("Mcp-Session-Id", "\u00ff\u00fe"),
        ("Mcp-Protocol-Version", "9999-99-99"),
        ("Mcp-Protocol-Version", "\u00e9"),
        ("Mcp-Name", "=?base64?////?="),
        ("Mcp-Param-X", "=?base64?!?="),
        ("Last-Event-ID", "-1-" * 1_000),
        ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-zz"),
        ("traceparent", "\u00ff" * 100),
        ("Expect", "100-continue"),
        ("Expect", "a miracle"),
        ("Origin", "null"),
        ("Origin", "http://[::1"),
        ("Host", "localhost:99999"),
        ("Host", "localhost:x"),
        ("Content-Encoding", "deflate"),
    ):
        yield Hostile(f"header {name}: {value[:20]!r}", ping, {name: value})


def _method_in(body: bytes) -> str:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return "tools/call"
    method = message.get("method") if isinstance(message, dict) else None
    usable = isinstance(method, str) and method.isascii() and method.isprintable() and method and len(method) < 1_000
    return method if usable else "tools/call"
