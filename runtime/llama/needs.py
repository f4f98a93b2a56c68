"""What a GGUF file and its settings come to: its parts, its KV cache, and what all of it takes of memory.

Sums were fitted to what processes took (docs/performance.md); llama.cpp is not loaded for them.
"""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.gguf_header import GgufHeader, shown
from mimo_mobile.layout import mtp_file
from mimo_mobile.ranges import too_coarse
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.devices.memory import MemoryNeed
from mimo_mobile.runtime.llama.backend import BATCH_TOKENS, OUTPUT_ROWS
from mimo_mobile.runtime.llama.checked import MTP_ARCHITECTURE, GgufModel, check_pair, checked
from mimo_mobile.runtime.llama.opening import KV_TYPES
from mimo_mobile.runtime.load_config import LoadConfig, Speculate

logger = logging.getLogger(__name__)

ENGINE_BYTES, LIBRARY_BYTES = 35_000_000, 8_000_000
"""What llama.cpp and the tokenizer take of their own, and of their files: the first beside what is counted here."""

MTP_BYTES = 13_000_000
"""What the MTP layer's context takes beside its KV cache and the logits that it makes the trunk give."""

REPACKED_ROWS = 8
"""A matrix is repacked when its rows are a multiple of this."""

REPACKED = {
    True: {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"},
    False: {"Q4_0", "Q4_K", "IQ4_NL"},
}
"""The types that llama.cpp repacks on ARM CPUs, and on others.

Source: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/ggml-cpu/repack.cpp
"""


def trunk_of(header: GgufHeader) -> GgufModel:
    """What a file is that holds a trunk.

    Raises:
        ModelLoadError: It is damaged, or holds none.
    """
    model = checked(header)
    if not model.trunk:
        raise ModelLoadError(
            f"{header.path}: holds an MTP layer only; load the trunk beside it (the name without -mtp)"
        )
    return model


def drafter_of(header: GgufHeader, model: GgufModel, speculate: Speculate) -> GgufHeader | None:
    """The file with the MTP layer, which is the model's own or one beside it; None when nothing is there or wanted."""
    if speculate not in ("auto", "mtp"):
        return None
    if model.mtp_layers:
        return header
    beside = mtp_file(header.path)
    if os.path.lexists(beside):
        other = GgufHeader(beside)
        if (found := other.value("general.architecture")) != MTP_ARCHITECTURE:
            raise ModelLoadError(
                f"{beside}: architecture {shown(str(found))} found, {MTP_ARCHITECTURE} expected of the MTP layer of"
                f" {header.path.name}; move the file away, or take speculate off or ngram"
            )
        check_pair(header, model, other, checked(other))
        return other
    if speculate == "mtp":
        raise BackendUnavailableError(f"{beside}: no MTP layer there; quantize again, or take auto or ngram")
    return None


def kv_dtype_of(path: Path, model: GgufModel, asked: KvDtype | None) -> KvDtype:
    """What the KV cache is made of: as asked; else float16, or float32 where the file says that float16 is too coarse.

    ARM CPUs sum q·k in float16 when the cache is float16. int8 is worse, as a large number takes the digits of the 31
    others in its block. See docs/design/ranges.md.
    """
    largest = model.largest_query_key
    if largest is None or not too_coarse(largest, model.head_dim):
        return asked or "f16"
    found = f"{path}: q·k up to {largest:,.0f} was measured when it was written"
    if asked is None:
        logger.warning(
            "%s, too large for float16: attention computes in float32, and the KV cache takes twice the memory", found
        )
    elif asked != "f32":
        logger.warning("%s, too large for kv_dtype %s; take f32, or leave kv_dtype out", found, asked)
    return asked or "f32"


@dataclass(frozen=True, slots=True)
class GgufNeeds:
    """A GGUF file as it is to be loaded.

    Attributes:
        header: Of the file with the trunk.
        model: What it holds.
        drafter: The header of the file with the MTP layer; None when nothing drafts.
        kv_dtype: What the KV cache is made of.
        config: What was asked for.
        arm: Whether an ARM CPU computes.
    """

    header: GgufHeader
    model: GgufModel
    drafter: GgufHeader | None
    kv_dtype: KvDtype
    config: LoadConfig
    arm: bool

    @classmethod
    def of(cls, path: Path, config: LoadConfig, *, arm: bool | None = None) -> GgufNeeds:
        """What a file and its settings come to; on a CPU like this one where it is not said.

        Raises:
            ModelLoadError: The file is no MiMo-7B, or is damaged.
            BackendUnavailableError: There is no MTP layer, and one is asked for.
        """
        header = GgufHeader(path)
        model = trunk_of(header)
        drafter = drafter_of(header, model, config.speculate)
        here = platform.machine().lower() in ("aarch64", "arm64")
        kv_dtype = kv_dtype_of(path, model, config.kv_dtype)
        return cls(header, model, drafter, kv_dtype, config, here if arm is None else arm)

    @property
    def kv_bytes_per_token(self) -> int:
        """What a token takes in the trunk's KV cache."""
        model = self.model
        return int(2 * model.layers * model.num_key_value_heads * model.head_dim * KV_TYPES[self.kv_dtype][1])

    def ways(self, context_length: int) -> list[MemoryNeed]:
        """The ways to load it, the preferred one first."""
        repacks = [self.config.repack] if self.config.repack is not None else [True, False]
        must = self.drafter is None or self.config.speculate == "mtp"
        drafting = [self.drafter] if must else [self.drafter, None]
        return [self._need(context_length, repack, drafter) for repack in repacks for drafter in drafting]

    def _need(self, context_length: int, repack: bool, drafter: GgufHeader | None) -> MemoryNeed:
        model, batch = self.model, min(BATCH_TOKENS, context_length)
        kv = context_length * self.kv_bytes_per_token
        # The widest activations of a batch: gate, up and product, beside the residual stream.
        activations = 4 * batch * (3 * model.intermediate_size + 4 * model.hidden_size)
        if self.kv_dtype == "f32":  # there is no flash attention, so that all products of queries and keys are kept
            scores = model.num_attention_heads * context_length + 6 * model.hidden_size
            activations = max(activations, 4 * batch * scores)
        activations += 2 * batch * context_length + ENGINE_BYTES
        if drafter is not None:
            kv += context_length * self.kv_bytes_per_token // model.layers
            activations += 4 * min(OUTPUT_ROWS, context_length) * model.vocab_size + MTP_BYTES
        files = {each.path: each for each in (self.header, drafter) if each is not None}
        parts = [self._weights(each, repack) for each in files.values()]
        copied, mapped, idle = (sum(part[place] for part in parts) for place in range(3))
        way = ("repacked" if repack else "not repacked") + (", with its MTP layer" if drafter is not None else "")
        return MemoryNeed(
            way=way, copied_bytes=copied, kv_bytes=kv, activation_bytes=activations, mapped_bytes=mapped,
            idle_bytes=idle + LIBRARY_BYTES, copies=repack, drafts=drafter is not None,
        )  # fmt: skip

    def _weights(self, header: GgufHeader, repack: bool) -> tuple[int, int, int]:
        """Bytes of a file that are copied, read from its pages, and resident beside those.

        llama.cpp keeps the pages from the first to the last tensor that it does not copy.
        """
        copied = {
            name
            for name, each in header.tensors.items()
            if repack
            and name != "token_embd.weight"
            and each.type in REPACKED[self.arm]
            and len(each.shape) == 2
            and each.shape[0] % REPACKED_ROWS == 0
        }
        kept = [each for name, each in header.tensors.items() if name not in copied]
        span = max((each.offset + each.bytes for each in kept), default=0) - min(
            (each.offset for each in kept), default=0
        )
        mapped = sum(each.bytes for each in kept)
        return sum(header.tensors[name].bytes for name in copied), mapped, max(0, span - mapped)
