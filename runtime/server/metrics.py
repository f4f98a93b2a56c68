"""What the server has done so far, in Prometheus' form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mimo_mobile.runtime.server.answers import Usage
from mimo_mobile.runtime.server.line import Line

__all__ = ["CONTENT_TYPE", "Counted", "Metrics"]

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SPEEDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_TOKENS = ("prompt", "cached", "generated", "drafted", "accepted")


class Metrics:
    """Counters of one server."""

    def __init__(self, line: Line) -> None:
        """Count from zero."""
        self._registry = CollectorRegistry()
        self._requests = Counter("mimo_requests", "Requests by HTTP status.", ["status"], registry=self._registry)
        self._tokens = Counter("mimo_tokens", "Tokens by what became of them.", ["kind"], registry=self._registry)
        self._waited = Histogram("mimo_queue_seconds", "Time in the line.", registry=self._registry, buckets=_SECONDS)
        self._first = Histogram(
            "mimo_time_to_first_token_seconds", "From a request's turn to its first token.",
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._speed = Histogram(
            "mimo_decode_tokens_per_second", "Speed after the first token.", registry=self._registry, buckets=_SPEEDS
        )
        waiting = Gauge("mimo_requests_waiting", "Requests in the line.", registry=self._registry)
        waiting.set_function(lambda: line.waiting)
        running = Gauge("mimo_requests_running", "Requests that are being answered.", registry=self._registry)
        running.set_function(lambda: line.running)
        for kind in _TOKENS:
            self._tokens.labels(kind)

    def answered(self, status: int) -> None:
        """Count a response."""
        self._requests.labels(str(status)).inc()

    def generated(self, usage: Usage, waited_s: float) -> None:
        """Count what a request took."""
        counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        for kind, count in zip(_TOKENS, (*counts, usage.drafted_tokens, usage.accepted_tokens), strict=True):
            self._tokens.labels(kind).inc(count)
        self._waited.observe(waited_s)
        for stats in usage.answers:
            self._first.observe(stats.time_to_first_token_s)
            if stats.generated_tokens > 1:
                self._speed.observe(stats.decode_tps)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class Counted:
    """An application whose responses are counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Count for ``metrics``."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(message["status"])
            await send(message)

        await self._app(scope, receive, counting)
