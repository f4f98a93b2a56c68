"""llama.cpp as a backend: a thin layer on llama-cpp-python's low-level binding.

Files are checked before llama.cpp sees them: some bad values make it abort the whole process.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BackendUnavailableError, ModelLoadError, SessionError, require
from mimo_mobile.mimo7b import SYNTHETIC
from mimo_mobile.runtime import memory
from mimo_mobile.runtime.gguf_header import GgufHeader
from mimo_mobile.runtime.memory import MemoryNeed
from mimo_mobile.runtime.mtp import MtpHead
from mimo_mobile.runtime.session import Cancelled, KvDtype, Session, choose_context_length
from mimo_mobile.runtime.speculation import Speculate, costs_file
from mimo_mobile.runtime.threads import physical_cores
from mimo_mobile.runtime.tokenizer import TextTokenizer

ARCHITECTURE = "qwen2"
BATCH_TOKENS = 512
OUTPUT_ROWS = 64
"""Most rows of logits at once: room for 512 of them would take 311 MB."""

_WAIT_POLICY = "OMP_WAIT_POLICY"
_KV_TYPES = {"f32": ("F32", 4.0), "f16": ("F16", 2.0), "int8": ("Q8_0", 34 / 32)}
"""ggml's type and bytes a value."""

_LIMITS = {
    "block_count": (1, 512),
    "context_length": (1, 1 << 24),
    "embedding_length": (1, 1 << 20),
    "feed_forward_length": (1, 1 << 24),
    "attention.head_count": (1, 1 << 12),
    "attention.head_count_kv": (1, 1 << 12),
}
"""llama.cpp asserts on some values outside of these instead of refusing the file."""

_ABORTED = 2
"""llama_decode's status after the abort callback said so."""


def load_gguf(
    path: Path,
    *,
    context_length: int | None = None,
    threads: int | None = None,
    kv_dtype: KvDtype | None = None,
    repack: bool | None = None,
    cache: bool = True,
    spin: bool = True,
    speculate: Speculate = "auto",
) -> Session:
    """A session on a GGUF file.

    Args:
        path: The file.
        context_length: Default: the model's, at most 4096.
        threads: Default: physical cores.
        kv_dtype: Of the KV cache; default f16. f32 switches flash attention off too, for comparisons.
        repack: Copy weights into the order that this CPU's kernels read fastest; False reads them from the mapped
            file. Default: copy when the memory suffices.
        cache: Remember on disk what runs cost on this machine.
        spin: Let idle threads wait actively: faster, and more power. The first load decides for the process.
        speculate: What drafts.

    Raises:
        ModelLoadError: No MiMo-7B, damaged, or too large for the memory.
        BackendUnavailableError: ``spin`` is false, but llama.cpp was loaded with active waiting before.
        MissingDependencyError: llama-cpp-python is not installed.
    """
    if not spin:
        _wait_passively()
    require("llama_cpp", "gguf")
    log = _log()
    with GgufHeader(path) as header:
        trained = _check(header)
        tokenizer = TextTokenizer.from_gguf(header)
        template = header.value("tokenizer.chat_template")
        synthetic = header.value(SYNTHETIC) is True
        context_length = choose_context_length(path, context_length, trained)
        kv_dtype = kv_dtype or "f16"
        per_token = _kv_bytes_per_token(header, kv_dtype)
        needs = _needs(header, context_length * per_token)
    ways = [repack] if repack is not None else [True, False]
    chosen = memory.choose(path, [needs[way] for way in ways])
    repack, threads = chosen is needs[True], threads or physical_cores()
    backend = LlamaBackend(path, context_length, threads, kv_dtype, log, repack=repack)
    backend.kv_bytes_per_token = per_token
    return Session(
        backend,
        tokenizer,
        template if isinstance(template, str) else None,
        synthetic=synthetic,
        speculate=speculate,
        costs_file=costs_file(path, threads, kv_dtype, repack, spin) if cache else None,
    )


def _check(header: GgufHeader) -> int:
    """The context length that the model was trained for, when all values are within their limits."""
    architecture = header.value("general.architecture")
    if architecture == "mimo-mtp":
        raise ModelLoadError(
            f"{header.path}: holds an MTP layer only; load the trunk beside it (the name without -mtp)"
        )
    if architecture != ARCHITECTURE:
        raise ModelLoadError(
            f"{header.path}: architecture {architecture!r} found, {ARCHITECTURE!r} (MiMo-7B's) expected"
        )
    for key, (least, most) in _LIMITS.items():
        value = header.value(f"{ARCHITECTURE}.{key}")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ModelLoadError(f"{header.path}: {key} {value!r} found, {least}…{most} expected; a damaged file")
    return int(header.value(f"{ARCHITECTURE}.context_length"))


def _kv_bytes_per_token(header: GgufHeader, kv_dtype: KvDtype) -> int:
    keys = "block_count", "embedding_length", "attention.head_count", "attention.head_count_kv"
    layers, width, heads, kv_heads = (int(header.value(f"{ARCHITECTURE}.{key}")) for key in keys)
    head_dim = int(header.value(f"{ARCHITECTURE}.attention.key_length") or width // heads)
    return int(2 * layers * kv_heads * head_dim * _KV_TYPES[kv_dtype][1])


def _needs(header: GgufHeader, kv_bytes: int) -> dict[bool, MemoryNeed]:
    """Repacked or not → memory."""
    value = {key: int(header.value(f"{ARCHITECTURE}.{key}")) for key in ("feed_forward_length", "embedding_length")}
    # The widest activations of a batch: gate, up and product, beside the residual stream.
    batch = BATCH_TOKENS * 4 * (3 * value["feed_forward_length"] + 4 * value["embedding_length"])
    weights, embedding = header.path.stat().st_size, header.tensor_bytes("token_embd.weight")
    rest = kv_bytes + batch
    return {
        True: MemoryNeed("repacked", weights - embedding + rest, embedding),
        False: MemoryNeed("not repacked", rest, weights),
    }


def _wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait; it reads the setting when it is loaded.

    Raises:
        BackendUnavailableError: It is loaded.
    """
    libraries = Path("/proc/self/maps")
    loaded = "libgomp" in libraries.read_text(encoding="utf-8") if libraries.exists() else "llama_cpp" in sys.modules
    if loaded and os.environ.get(_WAIT_POLICY, "").lower() != "passive":
        raise BackendUnavailableError(
            f"OpenMP was loaded with active waiting before; set {_WAIT_POLICY}=passive before the program starts"
        )
    os.environ[_WAIT_POLICY] = "passive"


class LlamaBackend:
    """One model and one context of llama.cpp."""

    def __init__(
        self, path: Path, context_length: int, threads: int, kv_dtype: KvDtype, log: _Log, *, repack: bool
    ) -> None:
        """Load ``path``; weights are mapped into memory.

        Raises:
            ModelLoadError: llama.cpp refuses the file, or the memory does not suffice.
        """
        import llama_cpp

        self._api: Any = llama_cpp
        self._flag = ctypes.create_string_buffer(2)
        self.context_length = context_length
        self.kv_bytes_per_token = 0
        self.mtp: MtpHead | None = None
        self._context: Any = None
        log.clear()
        model_params = llama_cpp.llama_model_default_params()
        model_params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise ModelLoadError(f"{path}: llama.cpp cannot load it: {log.text()}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context_length
        params.n_batch = params.n_ubatch = min(BATCH_TOKENS, context_length)
        params.n_outputs_max = min(OUTPUT_ROWS, params.n_batch)
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = getattr(llama_cpp, f"GGML_TYPE_{_KV_TYPES[kv_dtype][0]}")
        if kv_dtype == "f32":  # the exact mode, for comparisons: flash attention computes in float16
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # Asked before every operation: strlen of "" or "\x01" is false or true without taking Python's lock.
        params.abort_callback = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._flag, ctypes.c_void_p)
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            self.close()
            raise ModelLoadError(f"{path}: no context of {context_length} tokens: {log.text()}; use a smaller one")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch_tokens, self._output_rows = params.n_batch, params.n_outputs_max
        self._batch = llama_cpp.llama_batch_init(self._batch_tokens, 0, 1)
        self._fields = {
            name: np.ctypeslib.as_array(getattr(self._batch, name), shape=(self._batch_tokens,))
            for name in ("token", "pos", "n_seq_id", "logits")
        }
        self._fields["n_seq_id"][:] = 1
        for index in range(self._batch_tokens):
            self._batch.seq_id[index][0] = 0

    def decode(
        self, ids: Sequence[int], position: int, cancel: threading.Event, rows: int = 1, padding: int = 0
    ) -> NDArray[np.float32]:
        """Put ``ids`` at ``position``; the logits [rows, V] of the last, a view that the next call overwrites."""
        self._flag.value = b"\x01" if cancel.is_set() else b""
        self._forget(position)
        for start in range(0, len(ids), self._batch_tokens):
            chunk = ids[start : start + self._batch_tokens]
            last = start + len(chunk) == len(ids)
            status = self._run(chunk, position + start, rows if last else 0, padding if last else 0)
            if cancel.is_set() or status == _ABORTED:
                self._forget(position)
                raise Cancelled
            self._check_status(status)
        return self._logits(rows)

    def all_logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits [T, V] of ``ids`` from position 0."""
        self._flag.value = b""
        self._forget(0)
        rows = np.empty((len(ids), self._vocab_size), np.float32)
        for start in range(0, len(ids), self._output_rows):
            chunk = ids[start : start + self._output_rows]
            self._check_status(self._run(chunk, start, len(chunk)))
            rows[start : start + len(chunk)] = self._logits(len(chunk))
        return rows

    def cancel(self) -> None:
        """Let llama.cpp stop before its next operation."""
        self._flag.value = b"\x01"

    def close(self) -> None:
        """Free context and model."""
        if self._context:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._context)
        if self._model:
            self._api.llama_model_free(self._model)
        self._context = self._model = None

    def _forget(self, position: int) -> None:
        self._api.llama_memory_seq_rm(self._memory, 0, position, -1)

    def _run(self, ids: Sequence[int], position: int, wanted: int, padding: int = 0) -> int:
        """Decode ids at a position, and padding after them; logits are computed for the last ``wanted`` ids."""
        count, view = len(ids), self._fields
        self._batch.n_tokens = count + padding
        view["token"][:count] = ids
        view["token"][count : count + padding] = ids[-1]
        view["pos"][: count + padding] = np.arange(position, position + count + padding)
        view["logits"][: count + padding] = 0
        view["logits"][count - wanted : count] = 1
        return int(self._api.llama_decode(self._context, self._batch))

    def _logits(self, rows: int) -> NDArray[np.float32]:
        """Those that the last run was asked for."""
        return np.ctypeslib.as_array(self._api.llama_get_logits(self._context), shape=(rows, self._vocab_size))

    def _check_status(self, status: int) -> None:
        if status != 0:
            raise SessionError(f"llama_decode failed with status {status}: {_log().text()}")


class _Log:
    """llama.cpp's last messages, kept for errors instead of printed."""

    def __init__(self, api: Any) -> None:
        self._lines: list[str] = []
        self._callback = api.llama_log_callback(self._add)
        api.llama_log_set(self._callback, ctypes.c_void_p())

    def _add(self, level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", errors="replace").strip()
        if level in (3, 4) and line:  # warnings and errors
            self._lines = [*self._lines[-4:], line]

    def clear(self) -> None:
        self._lines = []

    def text(self) -> str:
        return self._lines[-1][:300] if self._lines else "no reason given"


_only_log: _Log | None = None


def _log() -> _Log:
    """The process's one log; llama.cpp has no log of its own for each model."""
    global _only_log
    if _only_log is None:
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        try:
            import llama_cpp
        except (OSError, RuntimeError) as error:
            raise BackendUnavailableError(
                f"llama.cpp cannot be loaded: {error}; install llama-cpp-python again"
            ) from error
        _only_log = _Log(llama_cpp)
        llama_cpp.llama_backend_init()
    return _only_log
