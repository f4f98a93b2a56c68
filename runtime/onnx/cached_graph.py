"""One ONNX graph of ours with a preallocated KV cache, bound once as past and as present: runs extend it in place.

Trunk and MTP layer are both such graphs. This module knows input names and IOBinding, and no sessions of users.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import Cancelled, ModelLoadError, SessionError
from mimo_mobile.onnxruntime_library import first_line, is_its_own
from mimo_mobile.runtime.onnx.kv_cache import KvCache

BATCH_TOKENS = 128
"""The most tokens that one run takes."""

LOGITS_START = "logits_start"
"""The first row that gets logits: of a prompt's rows only the last has to go through lm_head."""

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}


class CachedGraph:
    """An InferenceSession and one KV cache, which lies where the execution provider computes.

    Attributes:
        context_length: Tokens that the cache holds.
        kv_type: The cache's type in most layers, as ONNX Runtime spells it. In some layers it may be float32, where
            float16 is too coarse.
        kv_bytes_per_token: Memory of one token in the cache.
        logits_size: Tokens that get logits.
        hidden_size: Of hidden states.
        hidden_dtype: Of hidden states.
        cache: The KV cache.
        run_options: Of the run under way; ``terminate`` ends it.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        model: Path,
        context_length: int,
        others: Sequence[str] = (),
        cache: KvCache | None = None,
    ) -> None:
        """Make room for ``context_length`` tokens beside the session of ``model``.

        ``others`` are inputs beside ours; ``cache`` is one to share instead of a new one, if it is of the same types.

        Raises:
            ModelLoadError: The graph has other inputs.
        """
        self._ort, self._session, self.context_length = ort, session, context_length
        inputs = {each.name: each for each in session.get_inputs()}
        outputs = {each.name: each for each in session.get_outputs()}
        past = [name for name in inputs if name.startswith("past_key_values.")]
        found = [name for name in inputs if name not in past]
        found += [each.name for each in session.get_overridable_initializers()]
        expected = sorted(["attention_mask", "input_ids", LOGITS_START, *others])
        hidden = next((each for name, each in outputs.items() if name.startswith("hidden_states")), None)
        if not past or sorted(found) != expected or "logits" not in outputs or hidden is None:
            raise ModelLoadError(
                f"{model}: inputs {', '.join(found)} and {len(past)} of a KV cache found; {', '.join(expected)}"
                " and a KV cache expected: convert or quantize the checkpoint again"
            )
        self.logits_size = int(outputs["logits"].shape[-1])
        self.logits_dtype = DTYPES[outputs["logits"].type]
        self.hidden_size, self.hidden_dtype = int(hidden.shape[-1]), DTYPES[hidden.type]
        self.kv_type = Counter(str(inputs[name].type) for name in past).most_common(1)[0][0]
        shapes = {
            name: ((1, inputs[name].shape[1], context_length, inputs[name].shape[3]), DTYPES[inputs[name].type])
            for name in past
        }
        kv = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes.values())
        self.kv_bytes_per_token = kv // context_length
        if cache is None or not cache.holds(shapes):
            cache = None
        self._mask = np.ones((1, context_length), np.int64)
        self._ids = np.zeros((1, BATCH_TOKENS), np.int64)
        self._first_row = np.zeros(1, np.int64)
        self.renew()
        self._binding = session.io_binding()
        self.bind_input(LOGITS_START, self._first_row)
        self.cache = cache or KvCache(ort, shapes, _on_gpu(session))  # kept, since a binding keeps nothing alive
        for name in past:
            self._binding.bind_ortvalue_input(name, self.cache.values[name])
            self._binding.bind_ortvalue_output(name.replace("past_key_values", "present"), self.cache.values[name])

    def renew(self) -> None:
        """Give the next run options of its own: the flag that ended a run stays set in that run's options."""
        self.run_options = self._ort.RunOptions()
        # The default, said: ONNX Runtime's Python code asks at each run, and throws and catches where nothing was said.
        self.run_options.add_run_config_entry("gpu_graph_id", "0")

    def bind_input(self, name: str, array: NDArray[Any]) -> None:
        """Let runs read ``array``, which must stay where it is."""
        self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def bind_output(self, name: str, array: NDArray[Any]) -> None:
        """Let runs write to ``array``, which must stay where it is."""
        self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, ids: Sequence[int], position: int, logits: NDArray[Any]) -> None:
        """Put at most ``BATCH_TOKENS`` ids at a position, forgetting later entries.

        Args:
            ids: T token ids.
            position: Where the first of them stands.
            logits: The logits [0…T, logits_size] of the last rows are written here.

        Raises:
            Cancelled: ``run_options.terminate`` was set.
            SessionError: ONNX Runtime failed.
        """
        count = len(ids)
        self._ids[0, :count] = ids
        self._first_row[0] = count - len(logits)
        self.bind_input("input_ids", self._ids[:, :count])
        # As long as what is filled of the cache: GPU kernels attend to as many positions as the mask has.
        self.bind_input("attention_mask", self._mask[:, : position + count])
        self.bind_output("logits", logits[None])
        try:
            self._session.run_with_iobinding(self._binding, self.run_options)
        except Exception as error:  # its exceptions share no public base
            if not is_its_own(error):
                raise
            if self.run_options.terminate:
                raise Cancelled from None
            raise SessionError(f"ONNX Runtime failed: {first_line(error)}") from error

    def empty_logits(self, rows: int) -> NDArray[Any]:
        """Room for so many rows of logits."""
        return np.empty((rows, self.logits_size), self.logits_dtype)

    def close(self) -> None:
        """Free the model and its cache."""
        self._binding = self._session = None
        del self.cache


def _on_gpu(session: Any) -> dict[str, Any]:
    """The inputs that a session reads from a GPU's memory, with the ``OrtMemoryInfo`` of it."""
    found = zip(session.get_inputs(), session.get_input_epdevices(), session.get_input_memory_infos(), strict=True)
    return {
        each.name: memory for each, device, memory in found if device is not None and device.device.type.name == "GPU"
    }
