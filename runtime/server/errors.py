"""What a client is told when a request fails, in OpenAI's form and with HTTP's status."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from mimo_mobile import ends
from mimo_mobile.errors import BadArgumentError, ContextFullError, MimoMobileError

logger = logging.getLogger(__name__)

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_LARGE, WRONG_MEDIA_TYPE = 400, 401, 403, 404, 413, 415
TOO_MANY, FAILED, UNAVAILABLE, TIMED_OUT = 429, 500, 503, 504

GONE = 499
"""Nobody reads this; nginx logs it for clients that left."""

_TYPES = {UNAUTHORIZED: "authentication_error", TOO_MANY: "rate_limit_error", NOT_FOUND: "not_found_error"}


class RequestError(Exception):
    """A request that is not answered.

    Attributes:
        status: HTTP's status.
        code: One word that programs can compare.
        headers: What the response carries beside the message.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Say what was found, what was expected, and what to do."""
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def to_json(self) -> dict[str, object]:
        """The body of the response, and what a stream says that fails on its way."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= FAILED else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


def of(error: Exception) -> RequestError:
    """What a failure comes to for the client; a fault of our own is logged with its traceback and not shown."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):  # Starlette found no such route, or no such method of it
        return RequestError(
            error.status_code, f"{error.detail}; /openapi.json lists what there is", None, error.headers
        )
    if isinstance(error, ClientDisconnect):
        return RequestError(GONE, "the client has gone", "gone")
    if isinstance(error, ContextFullError):
        return RequestError(BAD_REQUEST, str(error), "context_length_exceeded")
    if isinstance(error, BadArgumentError):
        return RequestError(BAD_REQUEST, str(error), "invalid_value")
    if isinstance(error, MimoMobileError):
        logger.error("a request failed: %s", ends.cause(error))
        return RequestError(FAILED, str(error), "model_failed")
    logger.error("a request failed by a fault of MiMo Mobile's own", exc_info=error)
    return RequestError(FAILED, "the server failed; its log says how", "internal_error")


async def answered(_: Request, error: Exception) -> JSONResponse:
    """The response to a request that failed before it was answered."""
    found = of(error)
    return JSONResponse(found.to_json(), found.status, found.headers)
