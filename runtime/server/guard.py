"""Who may ask, and how much a request may bring: checked before anything of it is used.

A page in a browser may send requests to this machine, too. It cannot ask in JSON without asking for leave, which nobody
gives here, nor name a host that is this machine's only by a trick of its name server (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress

from starlette.requests import Request

from mimo_mobile.runtime.server.errors import (
    BAD_REQUEST,
    FORBIDDEN,
    TIMED_OUT,
    TOO_LARGE,
    UNAUTHORIZED,
    WRONG_MEDIA_TYPE,
    RequestError,
)
from mimo_mobile.untrusted import decoded, parse_json

MOST_BODY_BYTES = 8_000_000
"""A conversation that fills a context of 32,768 tokens has less than 200 kB."""

BODY_SECONDS = 30
"""So long a client may take to send its body."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """What requests must have."""

    def __init__(self, api_key: str | None, *, local: bool) -> None:
        """Ask for ``api_key`` unless it is None; with ``local``, for a name of this machine as the host, too."""
        self._api_key, self._local = api_key, local

    def check(self, request: Request, *, with_key: bool = True) -> None:
        """See who asks; what watches services may ask for some things without a key.

        Raises:
            RequestError: The key is missing or wrong, or the host is another.
        """
        if self._local and not is_loopback(_host_of(request.headers.get("host", ""))):
            raise RequestError(
                FORBIDDEN, "the request names another host than this one; ask http://127.0.0.1 or http://localhost"
            )
        if with_key and self._api_key is not None:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            good = hmac.compare_digest(key.strip().encode("latin-1"), self._api_key.encode())
            if scheme.lower() != "bearer" or not good:
                raise RequestError(
                    UNAUTHORIZED,
                    "the API key is missing or wrong; send it as `Authorization: Bearer KEY`",
                    "invalid_api_key",
                    {"WWW-Authenticate": "Bearer"},
                )

    async def json_of(self, request: Request) -> object:
        """The JSON value that a request brings.

        Raises:
            RequestError: It is none, is too large, or takes too long to come.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(WRONG_MEDIA_TYPE, f"{kind[:60] or 'no type'} found, application/json expected")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return parse_json(decoded(await _read(request)))
        except TimeoutError as error:
            raise RequestError(TIMED_OUT, f"the body did not come within {BODY_SECONDS} seconds") from error
        except ValueError as error:
            raise RequestError(BAD_REQUEST, f"the body cannot be read: {error}", "invalid_json") from error


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RequestError(TOO_LARGE, f"the body has more than {MOST_BODY_BYTES / 1e6:g} MB")
    return bytes(body)


def _host_of(header: str) -> str:
    """The host without its port; an IPv6 address stands in brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
