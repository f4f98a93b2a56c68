"""The form of a model that NPUs with quantized activations get, run on the CPU from the graphs that are compiled.

Its numbers are those of the binaries but for rounding in float16, so that KL divergence and right answers can be
measured on any machine, and without compiling. It is slow: integers become floating-point numbers again in every run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mimo_mobile import files, onnxruntime_library, untrusted
from mimo_mobile.convert.npu import graph as npu_graph
from mimo_mobile.convert.npu.file import float16_compute
from mimo_mobile.convert.npu.graph import Window
from mimo_mobile.convert.npu.qdq_graph import ActivationTape, QdqTape, Range
from mimo_mobile.convert.npu.ranges_file import Form
from mimo_mobile.convert.written_weights import WrittenWeights
from mimo_mobile.errors import Cancelled, QuantizationError
from mimo_mobile.layout import CHAT_TEMPLATE, DATA, TOKENIZER
from mimo_mobile.runtime import Model
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.devices.threads import default_threads
from mimo_mobile.runtime.npu.model import Piece
from mimo_mobile.runtime.onnx.cached_graph import DTYPES
from mimo_mobile.runtime.onnx.kv_cache import KvCache, copied, put_back
from mimo_mobile.runtime.text.tokenizer import TextTokenizer

WINDOWS = (64, 1)
"""Tokens in one run: many for a text, one for each token of an answer."""

LARGE_BYTES = 500_000_000
"""Weights of fewer bytes are made floating-point numbers once, which take eight times as much memory; of more, in every
run."""


Recorder = Callable[[Sequence[Range]], ActivationTape]
"""Makes the tape that a piece is recorded on, of the ranges of its activations."""


def load_form(folder: Path, form: Form, recorder: Recorder = QdqTape) -> Model:
    """The model in an ONNX folder as an NPU with quantized activations computes it; it drafts nothing.

    Another ``recorder`` than that of what is compiled leaves a part of it as it was, to measure what each costs.

    Raises:
        ModelLoadError: It is no ONNX folder of ours.
        QuantizationError: Its weights are not in units, or the form is another model's.
    """
    template = folder / CHAT_TEMPLATE
    text = untrusted.read_text(template) if template.exists() else None
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER)
    return Model(FormBackend(folder, form, recorder), tokenizer, text, name=f"the CPU with what NPUs get of {folder}")


def session_of(graph: ir.Model, folder: Path, *, quantized: bool = False) -> Any:
    """A session on the CPU for a graph whose weights are those of an ONNX folder; ``quantized`` has its own.

    Raises:
        QuantizationError: ONNX Runtime does not take the graph.
    """
    ort = onnxruntime_library.load()
    path = folder / f".{graph.graph.name}{files.PARTIAL}"
    data = folder / f".{graph.graph.name}.data{files.PARTIAL}"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = default_threads(folder / DATA)
    if quantized and (folder / DATA).stat().st_size < LARGE_BYTES:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        if quantized:  # what the integers were made of is not needed any more
            for unused in [each for each, value in graph.graph.initializers.items() if not value.uses()]:
                del graph.graph.initializers[unused]
        ir.save(graph, path, external_data=data.name if quantized else None)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (OSError, QuantizationError):
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise QuantizationError(f"{graph.graph.name} cannot be run: {error}") from error
    finally:
        files.remove(path)
        files.remove(data)


class FormBackend:
    """The trunk's pieces with quantized activations, all layers in one graph for each window."""

    mtp = None

    def __init__(self, folder: Path, form: Form, recorder: Recorder = QdqTape) -> None:
        """Prepare to run what is compiled of an ONNX folder; a window's graphs are made when they are first needed."""
        self._folder, self._form, self._recorder = folder, form, recorder
        self._weights = weights = WrittenWeights(folder)
        self._compute = float16_compute(weights, form.centers)
        form.check(weights.config.num_hidden_layers)
        self.context_length = form.context_length
        self._embedding = session_of(npu_graph.embedding(weights.config, weights, self._compute), folder)
        self._length = np.zeros(1, np.int32)
        self._cache: KvCache | None = None
        self._trunk: dict[int, tuple[Piece, dict[str, NDArray[Any]]]] = {}
        self._head: dict[int, Any] = {}

    @property
    def kv_bytes_per_token(self) -> int:
        """Memory of one token in the cache."""
        return self._of(WINDOWS[0])[0].nbytes // self.context_length

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last.

        Raises:
            Cancelled: ``cancel`` was set meanwhile.
        """
        made, start, first = [], 0, len(ids) - rows
        while start < len(ids):
            if cancel.is_set():
                raise Cancelled
            left = len(ids) - start
            window = next(
                each for each in WINDOWS if each == 1 or (left > 1 and self._has_room(position + start, each))
            )
            part = ids[start : start + window]
            hidden = self._hidden(part, position + start, window)
            if start + len(part) > first:
                made.append(self._logits(hidden, window)[max(0, first - start) : len(part)])
            start += len(part)
        return np.concatenate(made) if made else np.empty((0, self._weights.config.vocab_size), np.float32)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        return self.decode(ids, 0, threading.Event(), len(ids))

    def state(self, tokens: int) -> BackendState:
        """A copy of the first ``tokens`` positions."""
        return copied(self._of(WINDOWS[0])[0], None, tokens)

    def restore(self, state: BackendState) -> None:
        """Put a state back.

        Raises:
            SessionError: It is another model's.
        """
        put_back(self._of(WINDOWS[0])[0], None, state)

    def cancel(self) -> None:
        """Do nothing more: a run ends after its window, and ``decode`` then looks at the event."""

    def close(self) -> None:
        """Free the sessions and the cache."""
        for piece, _ in self._trunk.values():
            piece.close()
        self._trunk, self._head, self._cache = {}, {}, None

    def _has_room(self, position: int, window: int) -> bool:
        return position + window <= self.context_length

    def _hidden(self, ids: Sequence[int], position: int, window: int) -> NDArray[np.float32]:
        _, piece, arrays = self._of(window)
        arrays["x"][0, len(ids) :] = 0
        arrays["x"][0, : len(ids)] = self._embedding.run(["x"], {"input_ids": np.array([ids], np.int64)})[0][0]
        self._length[0] = position + window - 1
        piece.run(window)
        made: NDArray[np.float32] = arrays["x_out"]
        return made

    def _logits(self, hidden: NDArray[np.float32], window: int) -> NDArray[np.float32]:
        if window not in self._head:
            config, weights = self._weights.config, self._weights
            tape = self._recorder(self._form.ranges.head)
            graph = npu_graph.head(config, weights, self._compute, window, tape)
            self._head[window] = session_of(graph, self._folder, quantized=True)
        made: NDArray[np.float32] = self._head[window].run(["logits"], {"x": hidden})[0][0]
        return made

    def _of(self, window: int) -> tuple[KvCache, Piece, dict[str, NDArray[Any]]]:
        """The cache, and the piece for a window with the arrays that it reads and writes."""
        if window not in self._trunk:
            config, which = self._weights.config, range(self._weights.config.num_hidden_layers)
            graph = npu_graph.layers(
                config,
                self._weights,
                self._compute,
                which,
                Window(window, self.context_length),
                self._recorder(self._form.ranges.of_layers(which)),
                self._form.centers,
            )
            session = session_of(graph, self._folder, quantized=True)
            if self._cache is None:
                past = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]
                shapes = {each.name: (tuple(each.shape), DTYPES[each.type]) for each in past}
                self._cache = KvCache(onnxruntime_library.load(), shapes)
            arrays = {name: np.zeros((1, window, config.hidden_size), np.float32) for name in ("x", "x_out")}
            bound = {window: {**arrays, "seqlens_k": self._length}}
            self._trunk[window] = Piece({window: session}, self._cache, bound), arrays
        assert self._cache is not None
        return self._cache, *self._trunk[window]
