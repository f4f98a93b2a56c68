"""Whether a provider computes what it should on this device, and how fast beside the CPU; asked once and remembered.

Drivers have bugs, and an NPU may be slower than the CPU beside it. What comes out here is kept for this model, provider
and version of its driver, in ``$MIMO_CACHE/selftest``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimo_mobile import files
from mimo_mobile.errors import SessionError
from mimo_mobile.runtime import prepacked
from mimo_mobile.runtime.session import Backend

logger = logging.getLogger(__name__)

REFERENCE = "reference.json"
"""In an ONNX folder: a prompt, and the largest logits after it as the CPU computed them when it was written."""

TOLERANCE = 0.08
"""Of the largest logit; kernels with float16 and those with int8 activations differ by 1 to 2 % of it."""

PROMPT_TOKENS = 64
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """What one backend takes.

    Attributes:
        prompt_s: For ``PROMPT_TOKENS``.
        token_s: For one token after them.
    """

    prompt_s: float
    token_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a self-test found.

    Attributes:
        difference: Of logits, over the largest; None when there was no reference.
        error: What went wrong instead; empty when nothing did.
        speed: Of the provider.
        cpu: Of the CPU; None when it was not loaded.
    """

    difference: float | None
    error: str
    speed: Speed | None = None
    cpu: Speed | None = None

    @property
    def right(self) -> bool:
        """Whether the numbers can be trusted."""
        return not self.error and (self.difference is None or self.difference <= TOLERANCE)

    def __str__(self) -> str:
        if self.error:
            return self.error
        if self.difference is None:
            return f"not compared: the folder has no {REFERENCE}, quantize again"
        return f"logits differ by {self.difference:.1%} of the largest ({TOLERANCE:.0%} allowed)"


def judge(backend: Backend, cpu: Backend | None, reference: Path) -> Verdict:
    """Run a backend on the known prompt, and time it beside ``cpu``; both lose what is in their KV caches."""
    try:
        difference = _difference(backend, reference) if reference.is_file() else None
        speed = _speed(backend)
    except (SessionError, OSError, ValueError, KeyError, TypeError) as error:
        return Verdict(None, f"the self-test failed: {error}")
    return Verdict(difference, "", speed, _speed(cpu) if cpu is not None else None)


def remembered(backend: Backend, cpu: Backend | None, folder: Path, *what: object) -> Verdict:
    """The verdict on ``folder``'s model for ``what`` (provider, driver, …), from the last time or found now."""
    state = (folder / "model.onnx.data").stat()
    key = repr((str(folder.resolve()), state.st_size, state.st_mtime_ns, prepacked.cpu(), cpu is not None, what))
    file = prepacked.cache_folder() / "selftest" / f"{folder.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            speeds = {name: Speed(**found[name]) if found[name] else None for name in ("speed", "cpu")}
            return Verdict(found["difference"], found["error"], **speeds)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: unreadable, tested anew: %s", file, error)
    verdict = judge(backend, cpu, folder / REFERENCE)
    try:
        files.write_text(file, json.dumps(asdict(verdict)) + "\n")
    except OSError as error:
        logger.warning("%s: cannot be kept: %s", file, error)
    return verdict


def _difference(backend: Backend, reference: Path) -> float:
    """The largest difference from the reference's logits, over the largest of them."""
    known: dict[str, Any] = json.loads(reference.read_text(encoding="utf-8"))
    found = backend.decode(known["ids"], 0, threading.Event())[0, known["top_ids"]]
    expected = np.array(known["logits"], np.float32)
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    return float(difference) if np.isfinite(difference) else float("inf")


def _speed(backend: Backend) -> Speed:
    never, prompt = threading.Event(), list(range(min(PROMPT_TOKENS, backend.context_length - 2)))
    times: list[tuple[float, float]] = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        backend.decode(prompt, 0, never)
        between = time.perf_counter()
        backend.decode([0], len(prompt), never)
        times.append((between - started, time.perf_counter() - between))
    return Speed(min(each[0] for each in times), min(each[1] for each in times))
