"""The chat page, in one piece: style and scripts stand in it, and nothing else may run or be loaded."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

_SCRIPTS = ("latex.js", "markdown.js", "chat.js")


def page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that let a browser run what is in it and nothing that anybody puts into it."""
    folder = files(__package__) / "web"
    style = (folder / "page.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)
    html = (folder / "page.html").read_text("utf-8").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
