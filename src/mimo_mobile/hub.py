"""Finds a checkpoint: the embedded MiMo-nano, a local folder, or a Hugging Face id.

huggingface_hub downloads, resumes and caches; this module checks what arrived and says in one line what went wrong. It
knows nothing of tensors.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mimo_mobile import checksums, untrusted
from mimo_mobile.errors import CheckpointError, require

NANO = "nano"
"""The name that stands for the embedded checkpoint."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

CHECKPOINT_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja", "heldout.jsonl", "README.md", "LICENSE*"]
"""Only these files are downloaded: no Python code and no pickled weights."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint folder and where it came from.

    Attributes:
        path: The folder with config.json.
        name: The short name for outputs, e.g. ``MiMo-7B-RL``.
        repository: The hub id; ``None`` for a local folder.
        revision: The hub's commit hash; ``None`` for a local folder.
    """

    path: Path
    name: str
    repository: str | None = None
    revision: str | None = None


def resolve(model: Source | str | Path, revision: str | None = None) -> Source:
    """The checkpoint that ``model`` names, downloaded if need be.

    Args:
        model: ``nano``, a folder, a result of this function, or a hub id such as ``XiaomiMiMo/MiMo-7B-RL``.
        revision: The branch, tag or commit of a hub id.

    Raises:
        CheckpointError: There is no such folder, or the hub does not give the checkpoint.
        MissingDependencyError: ``model`` is a hub id, but huggingface_hub is not installed.
    """
    if isinstance(model, Source):
        return model
    model = str(model)
    if model == NANO:
        return Source(Path(str(files("mimo_mobile") / "nano")), "mimo-nano")
    path = Path(model).expanduser()
    if model and path.is_dir():
        return Source(path, path.resolve().name)
    if model and path.exists():
        raise CheckpointError(
            f"{model}: {untrusted.kind(path)} found, a checkpoint folder (config.json, *.safetensors) expected"
        )
    if not HUB_ID.fullmatch(model):
        raise CheckpointError(
            f"{model}: no such folder, and no hub id either; give '{NANO}', a folder, or e.g. XiaomiMiMo/MiMo-7B-RL"
        )
    return download(model, revision)


def download(repository: str, revision: str | None = None) -> Source:
    """A hub checkpoint in the local cache, after its files' checksums were compared with the hub's.

    A broken connection is resumed (older versions of huggingface_hub leave that to the next run), an interrupted
    download goes on with the files that are missing, and a complete one works without a network.

    Raises:
        CheckpointError: The checkpoint is not there, not allowed or not reachable, or it was damaged on the way.
        MissingDependencyError: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", "hub")
    errors = require("huggingface_hub.errors", "hub")
    endpoint = os.environ.get("HF_ENDPOINT", "the hub")
    try:
        folder = Path(hub.snapshot_download(repository, revision=revision, allow_patterns=CHECKPOINT_FILES))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repository}: access must be granted first; accept its terms on its page, then type: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: not found at {endpoint}; check the spelling, or type: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository}: no revision {revision!r} at {endpoint}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository}: {endpoint} cannot be reached and the checkpoint is not (wholly) in the local cache;"
            " go online and run again (files that arrived are kept), or give a local folder"
        ) from error
    except Exception as error:  # those of an HTTP library, another one in each version of huggingface_hub
        raise CheckpointError(
            f"{repository}: download failed ({type(error).__name__}: {_first_line(error)});"
            " run again, files that arrived are kept"
        ) from error
    _verify(repository, folder)
    return Source(folder, repository.split("/")[1], repository, folder.name)


def _verify(repository: str, folder: Path) -> None:
    """Compare files with the hub's checksums; damaged files are removed so that the next run fetches them again.

    The cache names a file's content by the checksum that the hub gave: SHA-256 for large files, git's SHA-1 for others.
    Large files are read once, and again when they have changed.
    """
    damaged = []
    for path in sorted(folder.iterdir()):
        content = path.resolve()
        if BLOB_NAME.fullmatch(content.name) and _checksum(content, len(content.name)) != content.name:
            content.unlink()
            path.unlink()
            damaged.append(path.name)
    if damaged:
        raise CheckpointError(
            f"{repository}: {', '.join(damaged)} differ from the hub's checksums; removed, run again to fetch anew"
        )


def _checksum(path: Path, digits: int) -> str:
    if digits == 64:
        return checksums.sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else ""
