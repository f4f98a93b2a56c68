"""HTTP requests to a server that is not trusted: bounded in time and size, and ended from another thread.

A key goes to the one server that was named: redirects are not followed, and no message shows it. Knows no API. Python's
own http.client does the work: it bounds headers by itself, and nothing has to be installed.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from mimo_mobile import __version__
from mimo_mobile.documents import Value, parse
from mimo_mobile.errors import BadArgumentError, Cancelled, EndpointError
from mimo_mobile.untrusted import decoded, printable

logger = logging.getLogger(__name__)

CONNECT_S = 10.0
"""So long a server may take to accept a connection."""

MOST_BYTES = 32_000_000
"""The largest answer that is read at once."""

MOST_LINE_BYTES = 1_000_000
"""The longest line of a stream; a token's event has some hundred bytes."""

MOST_STREAM_BYTES = 64_000_000
"""The most that one stream may bring; the events of 32,768 tokens have about 10 MB."""

MOST_ERROR_BYTES = 65_536
"""So much is read of what a server says of a failure."""

LONGEST_MESSAGE = 300
"""Characters of it that our message shows."""

MOST_TRIES, MOST_WAIT_S = 5, 120.0
"""A busy server is asked so many times, and waited for so long at most each time."""

_BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server's API is.

    Attributes:
        secure: Whether it is asked by https.
        host: Its name or address.
        port: Its port; None is the scheme's own.
        base: The path before ``/models`` and the others.
    """

    secure: bool
    host: str
    port: int | None
    base: str

    @classmethod
    def of(cls, url: str) -> Address:
        """That of a URL; one without a path means ``/v1``.

        Raises:
            BadArgumentError: It is no http or https URL, or holds more than scheme, host, port and path.
        """
        expected = "http://HOST:PORT or https://HOST/v1 expected"
        try:
            parts: SplitResult = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadArgumentError(f"endpoint {_shown(url)}: {error}; {expected}") from error
        if parts.username is not None or parts.password is not None:
            raise BadArgumentError(
                "endpoint: a user name or password in the URL found, which others could read in the list of processes;"
                " leave it out"
            )
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        if not good or not url.isascii() or printable(url) != url or " " in url:
            raise BadArgumentError(f"endpoint {_shown(url)} found; {expected}")
        assert parts.hostname is not None
        return cls(parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/") or "/v1")

    @property
    def is_this_machine(self) -> bool:
        """Whether what is sent there stays on this machine."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.secure}://{host}{'' if self.port is None else f':{self.port}'}{self.base}"


class HttpClient:
    """Asks one server for JSON and streams of events, from any number of threads; ``cancel`` ends what is under way.

    Attributes:
        address: Where it asks.
        timeout_s: So long the server may send nothing.
    """

    def __init__(self, address: Address, key: str | None, timeout_s: float) -> None:
        """Ask nothing yet.

        ``key`` goes as bearer token.

        Raises:
            BadArgumentError: The key cannot be one.
        """
        if key is not None and not (key.isascii() and key.isprintable() and key and " " not in key):
            raise BadArgumentError("the endpoint's key is empty or holds characters that no key has; nothing was sent")
        self.address, self.timeout_s, self._key = address, timeout_s, key
        self._lock, self._open = threading.RLock(), dict[threading.Event, socket.socket | None]()
        self._closed = False
        if key is not None and not address.secure and not address.is_this_machine:
            logger.warning("%s: the key goes there unencrypted, so that others on the way can read it", address)

    def json(self, path: str, body: Mapping[str, object] | None = None) -> Value:
        """What the server answers to a GET, or to a POST of ``body``.

        Raises:
            Cancelled: ``cancel`` was called meanwhile.
            EndpointError: It cannot be reached, refuses, or answers something else.
        """
        with self._response(path, body) as response:
            data = response.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise self.error(path, f"more than {MOST_BYTES / 1e6:g} MB came, which no such answer has")
            return self._parsed(path, data, response.headers.get("Content-Type", ""))

    def events(self, path: str, body: Mapping[str, object]) -> Generator[Value, None, None]:
        """The events of a stream that answers a POST, until it says that it is done or ends.

        Raises:
            Cancelled: ``cancel`` was called meanwhile.
            EndpointError: The server cannot be reached, refuses, or answers something else.
        """
        with self._response(path, body) as response:
            kind = response.headers.get("Content-Type", "")
            if not kind.startswith("text/event-stream"):
                self._parsed(path, response.read(MOST_ERROR_BYTES), kind)
                raise self.error(path, "one JSON value came, a stream of events expected; does the server stream?")
            left = MOST_STREAM_BYTES
            while line := response.readline(MOST_LINE_BYTES + 1):
                left -= len(line)
                if len(line) > MOST_LINE_BYTES or left < 0:
                    raise self.error(path, "the stream brings more than any answer has; a faulty or hostile server")
                field, _, data = line.rstrip(b"\r\n").partition(b":")
                if field in (b"data", b"error"):  # anything else is a comment, or names what follows
                    if data.strip() == b"[DONE]":
                        return
                    yield self._parsed(path, data, "application/json")

    def cancel(self) -> None:
        """End all requests that are under way; those that begin later are not meant."""
        with self._lock:
            for ended, opened in self._open.items():
                ended.set()
                if opened is not None:
                    with suppress(OSError):  # it has ended by itself
                        opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all requests that are under way, and begin none any more."""
        with self._lock:
            self._closed = True
        self.cancel()

    def error(self, path: str, found: str, status: int | None = None) -> EndpointError:
        """The error that says what was found at a path."""
        text = found if self._key is None else found.replace(self._key, "…")
        return EndpointError(f"{self.address}{path}: {printable(text)}", status)

    @contextmanager
    def _response(self, path: str, body: Mapping[str, object] | None) -> Iterator[http.client.HTTPResponse]:
        """The answer to a request, once the server is no longer busy."""
        for tries in range(1, MOST_TRIES + 1):
            with self._connection() as (connection, ended), self._told_apart(path, ended):
                with closing(self._asked(connection, path, body, ended)) as response:
                    if response.status == 200:
                        yield response
                        if ended.is_set():  # a stream that was cut off looks like one that has ended
                            raise Cancelled
                        return
                    wait_s = _retry_after(response)
                    refused = self._refusal(path, response)
                if response.status not in _BUSY or wait_s is None or tries == MOST_TRIES:
                    raise refused
                if wait_s > MOST_WAIT_S:
                    raise self.error(path, f"it is busy, and asks to come again in {wait_s:g} s", response.status)
                connection.close()
                logger.info("%s: it is busy, and asked again in %g s", self.address, wait_s)
                if ended.wait(wait_s):
                    raise Cancelled

    @contextmanager
    def _connection(self) -> Iterator[tuple[http.client.HTTPConnection, threading.Event]]:
        """A connection that is not open yet, and what says that it was cancelled."""
        where = self.address
        made: http.client.HTTPConnection
        if where.secure:
            context = ssl.create_default_context()
            made = http.client.HTTPSConnection(where.host, where.port, timeout=CONNECT_S, context=context)
        else:
            made = http.client.HTTPConnection(where.host, where.port, timeout=CONNECT_S)
        ended = threading.Event()
        with self._lock:
            if self._closed:
                raise Cancelled
            self._open[ended] = None
        try:
            yield made, ended
        finally:
            with self._lock:
                del self._open[ended]
            made.close()

    def _asked(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: Mapping[str, object] | None,
        ended: threading.Event,
    ) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"mimo-mobile/{__version__}", "Accept": "application/json, text/event-stream"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        try:
            connection.connect()
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or str(error)
            raise self.error("", f"no secure connection: {reason}; is it https, with a valid certificate?") from error
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self.error("", f"cannot be reached: {reason}; is the server running, and the URL right?") from error
        assert connection.sock is not None
        connection.sock.settimeout(self.timeout_s)
        with self._lock:
            self._open[ended] = connection.sock  # which the connection forgets when it hands over the answer
        if ended.is_set():
            raise Cancelled
        connection.request("GET" if data is None else "POST", self.address.base + path, data, headers)
        response = connection.getresponse()
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise self.error(path, "the answer is compressed, which was not asked for")
        return response

    @contextmanager
    def _told_apart(self, path: str, ended: threading.Event) -> Iterator[None]:
        """What goes wrong on the way becomes an EndpointError, or Cancelled where that was the cause."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError, EndpointError) as error:
            if ended.is_set():
                raise Cancelled from error
            if isinstance(error, EndpointError):
                raise
            if isinstance(error, TimeoutError):
                found = f"nothing came for {self.timeout_s:g} s; give it more time, or see what the server does"
            elif isinstance(error, (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead)):
                found = "the server ended the connection before its answer was whole; see what it says"
            elif isinstance(error, http.client.HTTPException):
                found = f"no HTTP that we read came ({type(error).__name__}); is another service there?"
            else:
                found = f"the answer cannot be read: {error}"
            raise self.error(path, found) from error

    def _parsed(self, path: str, data: bytes, kind: str) -> Value:
        """The JSON value that bytes stand for, which is no error of the server's."""
        try:
            value = parse(decoded(data))
        except ValueError as error:
            if kind.startswith("text/html") or data.lstrip()[:1] == b"<":
                found = "a web page came, JSON expected; the URL must be that of the API, such as http://HOST:8080/v1"
            else:
                found = f"no JSON came: {str(error)[:LONGEST_MESSAGE]}"
            raise self.error(path, found) from error
        if (said := _message(value)) is not None:
            raise self.error(path, f"the server failed: {said}")
        return value

    def _refusal(self, path: str, response: http.client.HTTPResponse) -> EndpointError:
        """What a status other than 200 means."""
        status, data = response.status, response.read(MOST_ERROR_BYTES)
        try:
            said = _message(parse(decoded(data)))
        except ValueError:
            said = None
        said = f": {said}" if said else ""
        if status in (401, 403):
            how = "does not accept the key" if self._key else "wants a key"
            found = f"the server {how} (status {status}){said}"
        elif status in (301, 302, 303, 307, 308):
            found = f"the server sends to {response.headers.get('Location', 'nowhere')[:LONGEST_MESSAGE]};"
            found += " give that address, for a key goes nowhere else"
        elif status == 404:
            found = f"there is no such path or model (status 404){said}"
        elif status == 429:
            found = f"the server has too much to do, or the quota is used up (status 429){said}"
        elif status >= 500:
            found = f"the server failed (status {status}){said}"
        else:
            found = f"the server refuses what was asked (status {status}){said}"
        return self.error(path, found, status)


def _message(value: Value) -> str | None:
    """What a server says of an error, in any of the usual forms; None where it says none."""
    for name in ("error", "detail"):
        try:
            found = value.get(name)
        except ValueError:  # no object
            return None
        if found is None:
            continue
        with suppress(ValueError):
            return found.text(MOST_ERROR_BYTES)[:LONGEST_MESSAGE]
        with suppress(ValueError):
            return found["message"].text(MOST_ERROR_BYTES)[:LONGEST_MESSAGE]
        return "without a message"
    with suppress(ValueError):
        if value["object"].text() == "error":
            return value["message"].text(MOST_ERROR_BYTES)[:LONGEST_MESSAGE]
    return None


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """The seconds that a server asks to wait; None where it does not say, or says it as a date."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _shown(url: str) -> str:
    return repr(printable(url[:200]))
