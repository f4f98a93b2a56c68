"""The command ``mimo serve``: a model behind OpenAI's API, for as long as the command runs."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

import click

from mimo_mobile.cli_options import built, load_config, load_options, server_options, show_log
from mimo_mobile.errors import BadArgumentError, MimoMobileError, require

KEY_VARIABLE = "MIMO_API_KEY"

MOST_CONNECTIONS = 200
"""Connections at a time; further ones are told to come again (503)."""

GRACE_SECONDS = 20
"""So long answers under way may take to end when the server is asked to stop."""


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="The port; 0 takes a free one."
)
@click.option("--name", help="The model's name for clients [default: the name of its file or folder].")
@server_options
@load_options
def serve(model: Path, host: str, port: int, name: str | None, **options: Any) -> None:
    """Serve MODEL over HTTP as OpenAI's API does: /v1/chat/completions, /v1/models; /health and /metrics.

    Requests wait in a line and take turns. Clients must send the key that the variable MIMO_API_KEY holds, if it is
    set; a server that other machines can reach makes one up when it is not, and prints it. Ctrl-C stops the server.
    """
    uvicorn = require("uvicorn", "serve")
    require("starlette", "serve")
    require("pydantic", "serve")
    require("prometheus_client", "serve")
    from mimo_mobile.runtime import load
    from mimo_mobile.runtime.server.app import application
    from mimo_mobile.runtime.server.config import ServerConfig
    from mimo_mobile.runtime.server.guard import is_loopback

    loading, config = load_config(options), built(ServerConfig, options)
    if name is not None and not name.strip():
        raise BadArgumentError("--name is empty; a name for clients expected")
    local, key = is_loopback(host), os.environ.get(KEY_VARIABLE) or None
    listening = _listening(host, port)
    with listening:
        if key is None and not local:
            key = secrets.token_urlsafe(24)
            click.echo(f"Other machines can reach this server, so clients need an API key: {key}", err=True)
        show_log()
        with load(model, loading) as loaded:
            chosen = name or (model.stem if model.is_file() else model.resolve().name)
            app = application(loaded, chosen, config, api_key=key, local=local)
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    access_log=False,
                    lifespan="on",
                    limit_concurrency=MOST_CONNECTIONS,
                    timeout_graceful_shutdown=GRACE_SECONDS,
                    server_header=False,
                )
            )
            place = f"[{host}]" if ":" in host else host
            click.echo(f"Serving {chosen} at http://{place}:{listening.getsockname()[1]}/v1 (Ctrl-C stops)")
            server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        MimoMobileError: The address is none of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except OSError as error:
        raise MimoMobileError(
            f"{host}, port {port}: cannot listen there: {error.strerror}; take another --port or --host"
        ) from error
