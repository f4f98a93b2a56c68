"""Whether what computes a model does so rightly on this device, and how fast beside the CPU; asked once and remembered.

Drivers and kernels have bugs, and an NPU may be slower than the CPU beside it. The verdict is kept in
``$MIMO_CACHE/selftest`` for this model, engine, provider and version of its driver. ``first_use.py`` tests the CPU.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mimo_mobile import cache_folder
from mimo_mobile.cache import SELFTEST, cpu
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import ModelLoadError, SessionError
from mimo_mobile.layout import DATA, MODEL, REFERENCE, Reference, read_reference
from mimo_mobile.runtime.backend import Backend

logger = logging.getLogger(__name__)

SELFTEST_FORMAT = FileFormat("selftest", 1)

TOLERANCE, TOLERANCE_QUANTIZED = 0.08, 0.2
"""Logits may differ by so much of the largest one. Kernels with float16 and those with int8 activations differ by 1 to
2 %; MiMo-nano with quantized activations by 9 %, since its weights are rounded twice. Wrong kernels differ by 100 %."""

_NOT_FINITE = sys.float_info.max
"""The difference when logits are not finite, as JSON has no infinity."""

PROMPT_TOKENS = 64
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """How much time one backend takes.

    Attributes:
        prompt_s: For a prompt of ``PROMPT_TOKENS``.
        token_s: For one token after the prompt.
    """

    prompt_s: float
    token_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a self-test found.

    Attributes:
        difference: By how much the logits differ, over the largest; None when there was nothing to compare with.
        error: What went wrong instead; empty when nothing did.
        tolerance: The largest difference that is right.
        speed: The provider's speed.
        cpu: The CPU's speed; None when it was not loaded.
    """

    difference: float | None
    error: str
    tolerance: float = TOLERANCE
    speed: Speed | None = None
    cpu: Speed | None = None

    @property
    def tested(self) -> bool:
        """Whether numbers were compared."""
        return self.difference is not None

    @property
    def wrong(self) -> bool:
        """Whether the numbers must not be trusted."""
        return bool(self.error) or (self.difference is not None and not self.difference <= self.tolerance)

    def __str__(self) -> str:
        if self.error:
            return self.error
        if self.difference is None:
            return f"nothing to compare with: the folder has no {REFERENCE}, or the context is shorter; quantize again"
        if self.difference == _NOT_FINITE:
            return "logits are NaN or infinite"
        return f"logits differ by {self.difference:.1%} of the largest ({self.tolerance:.0%} allowed)"


def judge(backend: Backend, cpu: Backend | None, folder: Path, tolerance: float = TOLERANCE) -> Verdict:
    """Run a backend on the known prompt, and time it beside ``cpu``; both lose what is in their KV caches."""
    file = folder / REFERENCE
    try:
        difference = difference_of(backend, read_reference(file), file) if os.path.lexists(file) else None
        speed = _speed(backend)
    except SessionError as error:
        return Verdict(None, f"the self-test failed: {error}", tolerance)
    return Verdict(difference, "", tolerance, speed, _speed(cpu) if cpu is not None else None)


def place(folder: Path, *what: object) -> Path | None:
    """Where the verdict on ``folder``'s model is kept for ``what`` (provider, driver, …); None where none can be."""
    reference = folder / REFERENCE
    known = reference.read_bytes() if reference.is_file() else b""
    weights = folder / DATA if (folder / DATA).is_file() else folder / MODEL
    return cache_folder.place(SELFTEST, file_name(folder, weights, known, *what))


def file_name(model: Path, weights: Path, *what: object) -> str:
    """What the verdict's file is called for a model, whose weights lie in one file, and ``what`` it depends on."""
    state = weights.stat()
    key = repr((str(model.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, *what, cpu()))
    return f"{cache_folder.short(model.name)}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def recall(file: Path | None) -> Verdict | None:
    """The verdict in a file of the cache, None when there is none that can be read."""
    if file is None or not cache_folder.is_ours(file):
        return None
    try:
        return read_verdict(file)
    except ModelLoadError as error:
        logger.warning("%s", error)
        return None


def read_verdict(file: Path) -> Verdict:
    """The verdict in a file.

    Raises:
        ModelLoadError: It is damaged, or a newer MiMo Mobile's.
    """

    def speed(found: Value | None) -> Speed | None:
        return None if found is None else Speed(found["prompt_s"].number(least=0), found["token_s"].number(least=0))

    def build(found: Value) -> Verdict:
        difference = found.get("difference")
        return Verdict(
            None if difference is None else difference.number(least=0),
            found["error"].text(),
            found["tolerance"].number(above=0),
            speed(found.get("speed")),
            speed(found.get("cpu")),
        )

    return SELFTEST_FORMAT.read(file, build, ModelLoadError, "it is tested anew")


def keep(file: Path | None, verdict: Verdict) -> None:
    """Remember a verdict, unless something failed, which may go away, or nothing was compared."""
    if not verdict.error and verdict.tested:
        cache_folder.keep(file, SELFTEST_FORMAT.to_text(asdict(verdict)))


def difference_of(backend: Backend, known: Reference, file: Path) -> float | None:
    """The largest difference from the reference's logits, over the largest of them; None when the context is shorter.

    The prompt goes in as a chunk, then two rows, then one: as prompts, verified drafts and tokens do.

    Raises:
        ModelLoadError: The reference in ``file`` is another model's.
        SessionError: The backend failed.
    """
    never, ids, start = threading.Event(), known.ids, len(known.ids) - 3
    if len(ids) > backend.context_length:
        return None
    backend.decode(ids[:start], 0, never)
    backend.decode(ids[start:-1], start, never, rows=2)
    (found,) = backend.decode(ids[-1:], len(ids) - 1, never)
    if max(known.top_ids) >= len(found):
        raise ModelLoadError(f"{file}: token {max(known.top_ids)} found, the model has {len(found)}; quantize again")
    expected = np.array(known.logits, np.float32)
    difference = np.abs(found[list(known.top_ids)] - expected).max() / np.abs(expected).max()
    return float(difference) if np.isfinite(difference) else _NOT_FINITE


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
