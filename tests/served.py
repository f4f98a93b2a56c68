"""A server on a real socket of this machine, which answers as a test says, however wrong that is."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

JSON, STREAM, HTML = "application/json", "text/event-stream", "text/html; charset=utf-8"


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """What a test sees of it.

    Attributes:
        url: Where it is.
        requests: What it was asked so far.
        gone: Set when the client has closed a connection that ``wait_for_the_end`` watches.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)


Answer = Callable[[Request, socket.socket], None]


def reply(content: bytes, kind: str = JSON, status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + content


def json_reply(value: object, status: str = "200 OK", *headers: str) -> bytes:
    return reply(json.dumps(value).encode(), JSON, status, *headers)


def stream(*events: object, done: bool = True) -> bytes:
    """A stream that ends with the connection; events that are bytes stand as they are."""
    lines = [each if isinstance(each, bytes) else b"data: " + json.dumps(each).encode() + b"\n\n" for each in events]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {STREAM}\r\nConnection: close\r\n\r\n".encode()
    return head + b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def chat(*deltas: dict[str, Any], reason: str | None = "stop", usage: dict[str, Any] | None = None) -> list[Any]:
    """The events of a chat's answer, as vLLM and llama-server send them."""
    made: list[Any] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}]
    made += [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if reason is not None:
        made.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if usage is not None:
        made.append({"choices": [], "usage": usage})
    return made


def paused(whole: bytes, before: bytes) -> Answer:
    """The same answer, with a twentieth of a second before a part of it."""

    def answer(_: Request, connection: socket.socket) -> None:
        middle = whole.index(before)
        connection.sendall(whole[:middle])
        time.sleep(0.05)
        connection.sendall(whole[middle:])

    return answer


def models(*names: str) -> bytes:
    return json_reply({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


@contextmanager
def server(answer: Answer | bytes | Sequence[bytes], names: Sequence[str] = ("mimo",)) -> Iterator[Server]:
    """A server that lists models, and gives one answer to all else, or several in turn."""
    turns = iter(answer) if not callable(answer) and not isinstance(answer, bytes) else None
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Server(f"http://127.0.0.1:{listening.getsockname()[1]}")

        def serve(connection: socket.socket) -> None:
            with connection, suppress(ConnectionError):
                request = _read(connection)
                made.requests.append(request)
                if request.method == "GET" and request.path.endswith("/models"):
                    connection.sendall(models(*names))
                elif callable(answer):
                    answer(request, connection)
                else:
                    connection.sendall(answer if turns is None else next(turns))  # type: ignore[arg-type]

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield made
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # which ends accept


def wait_for_the_end(connection: socket.socket) -> None:
    """Return when the client closes its end."""
    with suppress(ConnectionError):
        while connection.recv(1024):
            pass


def _read(connection: socket.socket) -> Request:
    data = b""
    while b"\r\n\r\n" not in data:
        data += (more := connection.recv(65536))
        if not more:
            raise ConnectionError
        if data.startswith(b"\x16"):  # TLS
            connection.sendall(reply(b"", HTML, "400 Bad Request"))
            raise ConnectionError
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, path, _ = first.split()
    return Request(method, path, headers, json.loads(body) if body else None)
