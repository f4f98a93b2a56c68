"""Tests the CPU when a model is used for the first time on a machine: kernels differ from CPU to CPU, and have bugs.

There may be several ways to compute a model, e.g. with the fastest kernels and without. The first one that gives the
right numbers is taken, and remembered. This module knows no engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from mimo_mobile import cache_folder
from mimo_mobile.cache import SELFTEST
from mimo_mobile.errors import NumericsError
from mimo_mobile.layout import Reference
from mimo_mobile.runtime.backend import Backend
from mimo_mobile.runtime.devices import selftest
from mimo_mobile.runtime.devices.selftest import Verdict

logger = logging.getLogger(__name__)

TOLERANCE = 0.2
"""Logits may differ by so much of the largest one from those that float32 gives. int8 activations and an int8 KV cache
came to 1 to 5 % for small models, on x86 and on emulated ARM CPUs; float16 throughout to 11 % there; wrong kernels to
100 %."""

T = TypeVar("T")

_passed: set[str] = set()
"""The ways that this process has tested, for a cache that cannot be written or is not wanted."""


@dataclass(frozen=True, slots=True)
class Way(Generic[T]):
    """One way to compute a model.

    Attributes:
        name: What is different in it, e.g. ``without KleidiAI``; empty for the usual way.
        open: Loads the model; gives its backend, and what else the caller wants to know of it.
    """

    name: str
    open: Callable[[], tuple[Backend, T]]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model's right numbers.

    Attributes:
        reference: They themselves.
        file: Where they are.
        model: The .gguf file or the ONNX folder.
        weights: The file with the model's weights.
    """

    reference: Reference
    file: Path
    model: Path
    weights: Path

    def file_name(self, *what: object) -> str:
        """What the verdict's file is called for ``what``: way, engine, formats."""
        return "cpu-" + selftest.file_name(self.model, self.weights, self.reference, what)


def opened(
    known: Known | None, engine: str, formats: Sequence[object], ways: Sequence[Way[T]], *, keep: bool
) -> tuple[Backend, T]:
    """The model, opened in the first way that computes the right numbers; in the first of all when nobody knows them.

    Args:
        known: The right numbers; None where nobody wrote them down.
        engine: The engine with its version.
        formats: The number formats that were asked for, which change what is computed.
        ways: Ways to compute the model, the preferred one first.
        keep: Whether to use the cache on disk.

    Raises:
        NumericsError: No way gives the right numbers.
        SessionError: The model cannot be loaded or run.
    """
    if known is None:
        return ways[0].open()
    names = [known.file_name(engine, tuple(formats), way.name) for way in ways]
    for way, name in zip(ways, names, strict=True):
        if name in _passed or (keep and selftest.recall(cache_folder.place(SELFTEST, name)) is not None):
            _tell(known, way)
            return way.open()
    wrong: list[str] = []
    for way, name in zip(ways, names, strict=True):
        backend, made = way.open()
        try:
            difference = selftest.difference_of(backend, known.reference, known.file)
        except BaseException:
            backend.close()
            raise
        verdict = Verdict(difference, "", TOLERANCE)
        if not verdict.wrong:
            if verdict.tested:
                _passed.add(name)
                logger.debug("%s: self-test: %s", known.model, verdict)
                if keep:
                    selftest.keep(cache_folder.place(SELFTEST, name), verdict)
            _tell(known, way)
            return backend, made
        backend.close()
        wrong.append(f"{way.name or 'as usual'}: {verdict}")
        logger.warning("%s: %s computes wrong numbers %s", known.model, engine, wrong[-1])
    raise NumericsError(
        f"{known.model}: {engine} computes wrong numbers on this CPU ({'; '.join(wrong)}). Either the file has changed"
        " since it was written, which mimo inspect --verify tells, so make it or download it again; or the engine has"
        " wrong kernels for this CPU: take another recipe, or one of the other engine (GGUF or ONNX)"
    )


def remembered(known: Known, engine: str, formats: Sequence[object], names: Sequence[str]) -> str:
    """What is kept of a model's first use, for people; ``names`` are those of its ways, the preferred one first."""
    for name in names:
        place = cache_folder.place(SELFTEST, known.file_name(engine, tuple(formats), name))
        if verdict := selftest.recall(place):
            return f"{name or 'as usual'}, self-tested: {verdict}"
    return "not self-tested yet"


def _tell(known: Known, way: Way[T]) -> None:
    if way.name:
        logger.info("%s: %s, since the usual kernels compute wrong numbers on this CPU", known.model, way.name)
