"""A small stand-in for the Hugging Face hub: one repository, ranges, checksums, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REPOSITORY = "XiaomiMiMo/MiMo-tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves a folder as ``REPOSITORY``.

    Attributes:
        cut_at: Name → bytes after which the connection breaks, once.
        reset: Names during which the connection is reset, each time.
        damaged: Names whose content arrives changed, though their checksums are right.
        ranges: Name → the Range headers asked for.
        sent: Name → bytes sent.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.cut_at: dict[str, int] = {}
        self.reset: set[str] = set()
        self.damaged: set[str] = set()
        self.ranges: dict[str, list[str]] = {}
        self.sent: Counter[str] = Counter()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def git_blob_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        api = f"/api/models/{REPOSITORY}"
        if path.startswith(f"{api}/tree/"):
            self._json([self._entry(file) for file in sorted(self.server.folder.iterdir())])
        elif path == api or path.startswith(f"{api}/revision/"):
            revision = path.rsplit("/", 1)[-1]
            if path != api and revision not in ("main", COMMIT):
                self._refuse("RevisionNotFound")
                return
            siblings = [{"rfilename": file.name} for file in sorted(self.server.folder.iterdir())]
            self._json({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/{REPOSITORY}/resolve/"):
            self._file(path.rsplit("/", 1)[-1])
        else:
            self._refuse("RepoNotFound")

    def _entry(self, file: Path) -> dict[str, object]:
        content = file.read_bytes()
        entry: dict[str, object] = {
            "type": "file",
            "path": file.name,
            "size": len(content),
            "oid": git_blob_sha1(content),
        }
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, name: str) -> None:
        content = (self.server.folder / name).read_bytes()
        is_lfs = name.endswith(".safetensors")
        etag = hashlib.sha256(content).hexdigest() if is_lfs else git_blob_sha1(content)
        if name in self.server.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if wanted := self.headers.get("Range"):
            self.server.ranges.setdefault(name, []).append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        body = content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.server.reset:
            # Closed without lingering, a connection is reset: the other side sees an error, no end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        cut = self.server.cut_at.pop(name, None)
        self.wfile.write(body[:cut])
        self.server.sent[name] += len(body[:cut])
        if cut is not None:
            self.close_connection = True

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "not found")
        self.send_header("Content-Length", "0")
        self.end_headers()
