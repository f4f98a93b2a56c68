"""One context of llama.cpp with its batch, through the low-level binding: ids in, rows of logits and hidden states out.

The trunk and the MTP layer are both such contexts. This module knows the C API, but no files and no sessions.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import untrusted
from mimo_mobile.errors import BackendUnavailableError, SessionError
from mimo_mobile.runtime.llama.state_check import has_positions

_WARNING, _ERROR = 3, 4
"""enum ggml_log_level."""

LONG = 400
"""At most so many characters of llama.cpp's messages are shown."""

ABORTED = 2
"""The status that llama_decode returns after the abort callback stopped it."""

NOT_TAKEN = "llama.cpp does not take the state: it is damaged, or of another model or KV cache"


class Flag:
    """A flag that any thread can raise to end the computations that look at it."""

    def __init__(self) -> None:
        """Begin with the flag lowered."""
        self._text = ctypes.create_string_buffer(2)

    def set(self, up: bool) -> None:
        """Raise the flag when ``up``, else lower it."""
        self._text.value = b"\x01" if up else b""

    def watch(self, api: Any, params: Any) -> None:
        """Let contexts that are made with ``params`` look at the flag before every operation."""
        # strlen of "" or "\x01" is false or true without taking Python's lock.
        params.abort_callback = ctypes.cast(ctypes.CDLL(None).strlen, api.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._text, ctypes.c_void_p)


class LlamaContext:
    """A llama_context of a model, and one batch for all its runs.

    Attributes:
        vocab_size: How many tokens get logits.
        hidden_size: The length of a hidden state.
    """

    def __init__(self, api: Any, model: Any, params: Any, *, reads_hidden: bool = False) -> None:
        """Make a context with ``params``; ``reads_hidden`` is for MTP contexts, whose rows have a hidden state, too.

        Raises:
            MemoryError: llama.cpp refuses to make one; its log holds the reason.
        """
        self._api = api
        self._context = api.llama_init_from_model(model, params)
        if not self._context:
            raise MemoryError
        self._memory = api.llama_get_memory(self._context)
        self.vocab_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(model)))
        self.hidden_size = int(api.llama_model_n_embd(model))
        self._size = int(params.n_batch)
        self._batch = api.llama_batch_init(self._size, self.hidden_size if reads_hidden else 0, 1)
        self._tokens = np.zeros(self._size, np.int32)
        if reads_hidden:  # llama_batch_init makes room for tokens or for hidden states, an MTP graph reads both
            self._batch.token = self._tokens.ctypes.data_as(ctypes.POINTER(api.llama_token))
            self._hidden = np.ctypeslib.as_array(self._batch.embd, shape=(self._size, self.hidden_size))
        self._reads_hidden = reads_hidden
        self._fields = {
            name: np.ctypeslib.as_array(getattr(self._batch, name), shape=(self._size,))
            for name in ("token", "pos", "n_seq_id", "logits")
        }
        self._fields["n_seq_id"][:] = 1
        for index in range(self._size):
            self._batch.seq_id[index][0] = 0

    def give_hidden(self, wanted: bool) -> None:
        """Choose whether runs give the hidden states of all rows, or only the logits of the rows that are asked for."""
        self._api.llama_set_embeddings(self._context, wanted)

    def forget(self, position: int) -> None:
        """Drop the KV cache from ``position`` on."""
        self._api.llama_memory_seq_rm(self._memory, 0, position, -1)

    def state(self) -> NDArray[np.uint8]:
        """A copy of the KV cache, as llama.cpp writes it."""
        made = np.empty(self._api.llama_state_seq_get_size(self._context, 0), np.uint8)
        size = self._api.llama_state_seq_get_data(self._context, self._bytes_of(made), made.nbytes, 0)
        return made[:size]

    def restore(self, state: NDArray[np.uint8], tokens: int, *, gaps: bool = False) -> None:
        """Put such a copy of ``tokens`` positions into the KV cache; with ``gaps`` some of them may be missing.

        Raises:
            SessionError: The copy is of another model, of a KV cache that is unlike this one, or of other positions.
        """
        self.forget(0)
        kept = np.ascontiguousarray(state)
        taken = has_positions(kept, tokens, gaps=gaps) and self._api.llama_state_seq_set_data(
            self._context, self._bytes_of(kept), kept.nbytes, 0
        )
        if not taken:
            raise SessionError(NOT_TAKEN)

    @staticmethod
    def _bytes_of(array: NDArray[np.uint8]) -> Any:
        return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))

    def run(
        self,
        ids: Sequence[int],
        position: int,
        wanted: int,
        padding: int = 0,
        hidden: NDArray[np.float32] | None = None,
    ) -> int:
        """Compute ids at a position, and padding after them; the last ``wanted`` ids get logits.

        Returns llama_decode's status: 0 when all went well, ``ABORTED`` when the flag was raised.
        """
        count, view = len(ids), self._fields
        self._batch.n_tokens = count + padding
        view["token"][:count] = ids
        view["token"][count : count + padding] = ids[-1]
        view["pos"][: count + padding] = np.arange(position, position + count + padding)
        view["logits"][: count + padding] = 0
        view["logits"][count - wanted : count] = 1
        if hidden is not None:
            self._hidden[:count] = hidden
        return int(self._api.llama_decode(self._context, self._batch))

    def logits(self, rows: int, start: int = 0) -> NDArray[np.float32]:
        """A view of the last run's logits [rows, V], from row ``start`` on."""
        pointer = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(start + rows, self.vocab_size))[start:]

    def hidden(self, rows: int) -> NDArray[np.float32]:
        """A view of the last run's hidden states [rows, E] after the trunk's last norm."""
        return np.ctypeslib.as_array(self._api.llama_get_embeddings(self._context), shape=(rows, self.hidden_size))

    def close(self) -> None:
        """Free the context and its batch."""
        if self._reads_hidden:
            self._batch.token = None  # ours
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)


class LlamaLog:
    """llama.cpp's last messages, kept for errors instead of printed."""

    def __init__(self, api: Any) -> None:
        """Listen to llama.cpp from now on."""
        self._api, self._lines, self._last = api, list[tuple[int, str]](), dict[int, bytes]()
        self._listener = api.llama_log_callback(self._add)
        # Runs keep only their last message of each level, and Python's own code does that: a signal handler that runs
        # in a callback written in Python would have its exception, such as KeyboardInterrupt, printed and dropped.
        self._keeper = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)(self._last.__setitem__)
        self._keep_last()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep more messages while a model is loaded, for its error."""
        self._lines = []
        self._api.llama_log_set(self._listener, ctypes.c_void_p())
        try:
            yield
        finally:
            self._keep_last()
            self._lines = []
            self._last.clear()

    def text(self) -> str:
        """The last two errors, or the last warning when there was no error."""
        lines = self._lines or [
            (level, _line(self._last[level])) for level in (_WARNING, _ERROR) if level in self._last
        ]
        errors = [line for level, line in lines if level == _ERROR][-2:]
        return ("; ".join(errors or [line for _, line in lines[-1:]]) or "no reason given")[:LONG]

    def _add(self, level: int, text: bytes, _: object) -> None:
        line = _line(text)
        # What it says after every error tells nothing.
        if level in (_WARNING, _ERROR) and line and not line.endswith("failed to load model"):
            self._lines = [*self._lines[-4:], (level, line)]

    def _keep_last(self) -> None:
        self._api.llama_log_set(ctypes.cast(self._keeper, self._api.llama_log_callback), ctypes.c_void_p())


def _line(text: bytes) -> str:
    return untrusted.printable(text.decode("utf-8", errors="replace").strip())


_only_log: LlamaLog | None = None
_process = 0
"""The process that loaded llama.cpp. A fork of it has none of OpenMP's threads, and a run there would wait for them."""


def llama_log() -> LlamaLog:
    """The process's one log; llama.cpp has no log of its own for each model.

    Raises:
        BackendUnavailableError: llama.cpp cannot be loaded, or it was loaded before this process was forked.
    """
    global _only_log, _process
    if _only_log is not None and _process != os.getpid():
        raise BackendUnavailableError(
            f"llama.cpp was loaded in process {_process}, of which this one is a fork without its threads;"
            " start processes with multiprocessing's 'spawn'"
        )
    if _only_log is None:
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        try:
            import llama_cpp
        except (OSError, RuntimeError) as error:
            raise BackendUnavailableError(
                f"llama.cpp cannot be loaded: {error}; install llama-cpp-python again"
            ) from error
        _only_log, _process = LlamaLog(llama_cpp), os.getpid()
        llama_cpp.llama_backend_init()
    return _only_log
