"""The server's routes: OpenAI's chat completions, completions and models, health, metrics, their description."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mimo_mobile.errors import ContextFullError, MimoMobileError, SessionError
from mimo_mobile.runtime.devices.memory import available_bytes
from mimo_mobile.runtime.generation_config import GenerationConfig
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.server import errors, openapi
from mimo_mobile.runtime.server.answers import Answers, Kind
from mimo_mobile.runtime.server.bodies import ChatRequest, CompletionRequest
from mimo_mobile.runtime.server.choices import ChatChoice, Choice, CompletionChoice
from mimo_mobile.runtime.server.config import ServerConfig
from mimo_mobile.runtime.server.errors import BAD_REQUEST, NOT_FOUND, UNAVAILABLE, RequestError
from mimo_mobile.runtime.server.fields import TextRequest, request_of
from mimo_mobile.runtime.server.guard import Guard
from mimo_mobile.runtime.server.line import Line, Task
from mimo_mobile.runtime.server.metrics import CONTENT_TYPE, Counted, Metrics
from mimo_mobile.runtime.server.page import page
from mimo_mobile.runtime.server.sessions import Sessions
from mimo_mobile.runtime.text.chat_template import Message
from mimo_mobile.untrusted import printable

logger = logging.getLogger(__name__)

PARKED_SHARE = 0.25
"""Conversations that wait may keep so much of the memory that is free when the server starts."""

GONE_SECONDS = 0.5
"""How often it is looked whether a client that waits for a whole answer is still there."""

READ_SECONDS = 30
"""So long after its time is up a client may still read."""

OPEN = ("/", "/health")
"""What needs no key: the page asks for it itself, and what watches services has none."""

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """A loaded model behind routes."""

    def __init__(self, model: Model, name: str, config: ServerConfig, guard: Guard, parked_tokens: int) -> None:
        """Serve ``model`` under ``name``."""
        self._model, self._name, self._config, self._guard = model, name, config, guard
        self._created = int(time.time())
        self._page, self._page_headers = page()
        sessions = Sessions(model, most=config.sessions, most_tokens=parked_tokens)
        self.line = Line(model, most_waiting=config.queue, sessions=sessions)
        self.metrics = Metrics(self.line)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation, whole or as a stream."""
        asked = request_of(ChatRequest, await self._guard.json_of(request))
        configs = self._configs(asked)
        ids = await run_in_threadpool(self._encoded, [each.message() for each in asked.messages], configs[0])
        tasks = [Task(ids, config, again=place > 0) for place, config in enumerate(configs)]
        choices = [ChatChoice(place, self._model.tokenizer) for place in range(len(tasks))]
        return await self._answered(request, asked, tasks, choices, "chat.completion")

    async def completion(self, request: Request) -> Response:
        """Continue texts, whole or as a stream."""
        asked = request_of(CompletionRequest, await self._guard.json_of(request))
        configs, tokenizer = self._configs(asked), self._model.tokenizer
        tasks, echoed = list[Task](), list[str]()
        for prompt in asked.prompts:
            ids = await run_in_threadpool(self._continued, prompt, configs[0])
            tasks += [Task(ids, config, raw=True, again=place > 0) for place, config in enumerate(configs)]
            text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
            echoed += [text if asked.echo else ""] * len(configs)
        choices = [CompletionChoice(place, tokenizer, text) for place, text in enumerate(echoed)]
        return await self._answered(request, asked, tasks, choices, "text_completion")

    async def _answered(
        self, request: Request, asked: TextRequest, tasks: Sequence[Task], choices: Sequence[Choice], kind: Kind
    ) -> Response:
        job = self.line.enter(tasks, self._config.timeout)
        answers = Answers(job, self._name, choices, kind)
        if asked.stream:
            options = asked.stream_options
            seconds = self._config.timeout + READ_SECONDS
            return EventStream(self, answers, bool(options and options.include_usage), seconds)
        try:
            return JSONResponse(await _while_there(request, answers.whole()))
        finally:
            self.over(answers)

    def over(self, answers: Answers) -> None:
        """A request is answered, or its client has gone."""
        answers.job.cancel()
        self.metrics.generated(answers.usage, answers.job.waited_s)

    async def models(self, _: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._described()]})

    async def model(self, request: Request) -> Response:
        """The one model, by its name."""
        self._check_name(request.path_params["name"])
        return JSONResponse(self._described())

    async def health(self, _: Request) -> Response:
        """Whether the model can answer."""
        if not self._model.turns.is_open:
            raise RequestError(UNAVAILABLE, "the model is closed; start the server again", "stopping")
        return JSONResponse({"status": "ok"})

    async def numbers(self, _: Request) -> Response:
        """What was done so far."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def description(self, _: Request) -> Response:
        """All routes, in OpenAPI's form."""
        return JSONResponse(openapi.described(self._name))

    async def page(self, _: Request) -> Response:
        """The chat page."""
        return HTMLResponse(self._page, headers=self._page_headers)

    def guarded(self, handler: Handler, *, with_key: bool) -> Handler:
        """A handler that is asked by those only who may."""

        async def handle(request: Request) -> Response:
            self._guard.check(request, with_key=with_key)
            return await handler(request)

        return handle

    def _configs(self, asked: ChatRequest | CompletionRequest) -> list[GenerationConfig]:
        """How to generate what a request asks for, before more work goes into it."""
        self._check_name(asked.model)
        self.line.check_room()
        return asked.configs(self._config.most_tokens)

    def _continued(self, prompt: str | list[int], config: GenerationConfig) -> list[int]:
        ids = self._model.encode_prompt(prompt, config) if isinstance(prompt, str) else prompt
        self._model.check_ids(ids, room=1)
        return ids

    def _encoded(self, messages: list[Message], config: GenerationConfig) -> list[int]:
        try:
            ids = self._model.encode_prompt(messages, config)
        except ContextFullError:
            raise
        except SessionError as error:  # the chat template does not take these messages
            raise RequestError(BAD_REQUEST, str(error), "invalid_messages") from error
        self._model.check_ids(ids, room=1)
        if (structure := config.restriction) is not None:  # a wrong one is told before a stream begins
            self._model.structures.answer(structure, thinks=config.thinks)
        return ids

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise RequestError(
                NOT_FOUND, f"there is no model {printable(name[:100])!r} here; this server has {self._name!r}",
                "model_not_found",
            )  # fmt: skip

    def _described(self) -> dict[str, object]:
        return {
            "id": self._name, "object": "model", "created": self._created, "owned_by": "mimo-mobile",
            "max_model_len": self._model.context_length,
        }  # fmt: skip


class EventStream(StreamingResponse):
    """Answers as server-sent events; when it ends, in whatever way, so does the generation."""

    def __init__(self, server: Server, answers: Answers, with_usage: bool, seconds: float) -> None:
        """Stream ``answers``, for at most so many seconds."""
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self._events = answers.events(with_usage=with_usage)
        super().__init__(self._events, headers=headers, media_type="text/event-stream")
        self._server, self._answers, self._seconds = server, answers, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it, unless the client goes or does not read."""
        try:
            async with asyncio.timeout(self._seconds), aclosing(self._events):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            logger.warning("a client did not read its answer within %g seconds", self._seconds)
        finally:
            self._server.over(self._answers)


def application(
    model: Model, name: str, config: ServerConfig, *, api_key: str | None = None, local: bool = True
) -> Starlette:
    """The application that answers for ``model``, which it closes in the end, under ``name``.

    Args:
        model: A loaded model with a chat template.
        name: The model's name for clients.
        config: How to serve.
        api_key: What clients must send as their key.
        local: Whether requests must name this machine as their host.

    Raises:
        SessionError: The model has no chat template.
    """
    if not model.has_chat_template:
        raise SessionError("this model has no chat template, so it cannot answer messages")
    free = available_bytes() or 0
    with model.exclusive() as backend:
        parked_tokens = int(free * PARKED_SHARE / backend.kv_bytes_per_token)
    server = Server(model, name, config, Guard(api_key, local=local), parked_tokens)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(server.line.close)

    handlers: dict[tuple[str, str], Handler] = {
        ("POST", "/v1/chat/completions"): server.chat,
        ("POST", "/v1/completions"): server.completion,
        ("GET", "/v1/models"): server.models,
        ("GET", "/v1/models/{name:path}"): server.model,
        ("GET", "/health"): server.health,
        ("GET", "/metrics"): server.numbers,
        ("GET", "/openapi.json"): server.description,
        ("GET", "/"): server.page,
    }
    routes = [
        Route(path, server.guarded(handler, with_key=path not in OPEN), methods=[method])
        for (method, path), handler in handlers.items()
    ]
    made = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers=dict.fromkeys((HTTPException, RequestError, MimoMobileError, Exception), errors.answered),
    )
    made.add_middleware(Counted, metrics=server.metrics)
    return made


async def _while_there(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """The answer, as long as the client is there for it.

    Raises:
        ClientDisconnect: It has gone.
    """
    task = asyncio.ensure_future(answer)
    try:
        while not (await asyncio.wait({task}, timeout=GONE_SECONDS))[0]:
            if await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
