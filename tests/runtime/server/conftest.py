"""A server of MiMo-nano, in a thread of the tests' own process, on a real socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from numpy.typing import NDArray
from openai import OpenAI

from mimo_mobile.errors import Cancelled
from mimo_mobile.runtime import Model, load
from mimo_mobile.runtime.server.app import application
from mimo_mobile.runtime.server.config import ServerConfig


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        url: Its address.
        client: OpenAI's own client for it.
        http: A client that sends what a test likes.
    """

    url: str
    client: OpenAI
    http: httpx.Client

    def metric(self, name: str) -> float:
        """What one of its counters has now."""
        lines = self.http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(name + " ")).split()[1])


Serve = Callable[..., AbstractContextManager[Served]]


@contextmanager
def serving(model: Model, *, api_key: str | None = None, local: bool = True, **config: Any) -> Iterator[Served]:
    """Serve a model as ``nano``."""
    app = application(model, "nano", ServerConfig(**config), api_key=api_key, local=local)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with (
                httpx.Client(base_url=url, timeout=60) as http,
                OpenAI(base_url=f"{url}/v1", api_key=api_key or "none", max_retries=0, timeout=60) as client,
            ):
                yield Served(url, client, http)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def model(nano_q4: dict[str, Path]) -> Iterator[Model]:
    """MiMo-nano with drafts, on one thread, which sums in one order."""
    with load(nano_q4["gguf"], threads=1, speculate="mtp") as loaded:
        yield loaded


@pytest.fixture(scope="package")
def served(model: Model) -> Iterator[Served]:
    """A server of it."""
    with serving(model) as running:
        yield running


class Gate:
    """It holds the model up before each run, until it is opened; what the model computes stays its own."""

    def __init__(self) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()

    def open(self) -> None:
        """Let all runs pass from now on."""
        self._opened.set()

    def wait(self, cancel: threading.Event) -> None:
        self.reached.set()
        while not self._opened.wait(0.005):
            if cancel.is_set():
                raise Cancelled


@pytest.fixture
def gate(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in the model, which is closed."""
    made = Gate()
    with model.exclusive() as backend:
        real = backend.decode

    def decode(ids: Sequence[int], position: int, cancel: threading.Event, *others: Any, **more: Any) -> NDArray[Any]:
        made.wait(cancel)
        return real(ids, position, cancel, *others, **more)

    monkeypatch.setattr(backend, "decode", decode)
    yield made
    made.open()
