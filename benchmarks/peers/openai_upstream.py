"""The engine behind the gateways of gateway_overhead.py: `python openai_upstream.py PORT` says "ready" and serves.

It answers at once and always the same, from bytes made beforehand, so that nearly all time is the gateways' own.
"""

import asyncio
import json
import sys

WORDS = ("Hello", " world", ",", " how", " are", " you", "?")
USAGE = {"prompt_tokens": 9, "completion_tokens": len(WORDS), "total_tokens": 9 + len(WORDS)}
HEAD = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "fake"}


def whole() -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return answer({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})


def answer(body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def stream() -> bytes:
    events = [chunk({"content": word}) for word in WORDS]
    events += [chunk({}, "stop"), event({**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})]
    pieces = [*events, b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def chunk(delta: object, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({**HEAD, "object": "chat.completion.chunk", "choices": [choice]})


def event(body: object) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


WHOLE, STREAM, MODELS = whole(), stream(), answer({"object": "list", "data": [{"id": "fake", "object": "model"}]})


class Upstream(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (request := self._next()) is not None:
            head, body = request
            if head.startswith(b"GET"):
                self._transport.write(MODELS)
            else:
                self._transport.write(STREAM if json.loads(body).get("stream") else WHOLE)

    def _next(self) -> tuple[bytes, bytes] | None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0]) if lengths else 0
        if len(rest) < length:
            return None
        self._received = rest[length:]
        return head, rest[:length]


async def main(port: int) -> None:
    await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
