"""How a model is loaded: one record that travels from the command line to the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mimo_mobile.arguments import check_fields
from mimo_mobile.errors import BadArgumentError, ModelLoadError
from mimo_mobile.layout import DEFAULT_CONTEXT
from mimo_mobile.providers import Ep, Options
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.devices.threads import Power, threads_for

Speculate = Literal["auto", "mtp", "ngram", "off"]
"""What drafts tokens: whatever pays at the moment, always the MTP layer, always prompt lookup, or nothing."""

MOST_MTP_DRAFTS = 7

MOST_THREADS = 512
"""ggml's limit. Source: GGML_MAX_N_THREADS, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/include/ggml.h"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """How to load a model; the command line's options are made from these attributes and their descriptions.

    Attributes:
        recipe: Which entry of a folder that `mimo quantize` wrote is loaded; by default its first.
        context_length: How many tokens prompt and answer may have together; by default as many as the model was
            trained for, but at most 4096. With auto it is the most that the memory has room for.
        power: How much power is taken for speed. With eco half of the threads compute, they sleep while they wait, and
            a quarter of the time is rest; with burst there are rests only when the device is severely hot, and small
            models get all cores, too. What threads and spin say goes before it.
        threads: How many CPU threads compute; by default as many as there are physical cores, and one for a model
            with less than 64 MB of weights.
        kv_dtype: What the KV cache is made of. By default it is f16, or what the ONNX graph has built in, or f32 for
            GGUF files that say that their q·k is too large for f16; int8 needs half of the memory.
        repack: Whether llama.cpp copies the weights into the order that this CPU reads fastest; by default it does
            when the memory suffices, and else it reads the mapped file.
        cache: Whether ONNX Runtime's prepacked weights, and what was measured of this machine, are kept on disk.
        spin: Whether idle threads wait actively, which is faster and takes more power; the default without eco.
        speculate: What drafts tokens, so that the model verifies several in one run: mtp is the model's own layer,
            ngram is prompt lookup, and auto takes what pays at the moment. Drafts change the speed, and
            the text by rounding at most.
        mtp_drafts: How many tokens in a row the MTP layer drafts at most. It was trained for one; llama.cpp drafts
            one, too.
        ep: The execution provider that computes an ONNX model. With auto the NPU does when the model was compiled
            for it and it passes a test; else the CPU does.
        ep_options: The execution provider's own options.
        strict: Whether it is an error when the execution provider leaves work to the CPU or computes wrong numbers,
            instead of going on with the CPU.
        trust: Whether a GGUF file is loaded without a trial. By default a process of its own tries a file that is seen
            for the first time, which takes as long as one step of the model and 0.2 s more, so that a file that kills
            llama.cpp does not end this program.
    """

    recipe: str | None = None
    context_length: int | Literal["auto"] | None = None
    power: Power = "balanced"
    threads: int | None = None
    kv_dtype: KvDtype | None = None
    repack: bool | None = None
    cache: bool = True
    spin: bool | None = None
    speculate: Speculate = "auto"
    mtp_drafts: int = 1
    ep: Ep = "auto"
    ep_options: Options | None = None
    strict: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            BadArgumentError: One of them has another type, is out of its range, or comes to nothing beside another.
        """
        check_fields(self)
        for name in ("context_length", "threads", "mtp_drafts"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise BadArgumentError(f"{name} {value} is out of range; 1 or more expected")
        if self.threads is not None and self.threads > MOST_THREADS:
            raise BadArgumentError(f"threads {self.threads} is out of range; at most {MOST_THREADS} expected")
        if self.mtp_drafts > MOST_MTP_DRAFTS:
            raise BadArgumentError(f"mtp_drafts {self.mtp_drafts} is out of range; at most {MOST_MTP_DRAFTS} expected")
        if self.mtp_drafts > 1 and self.speculate in ("ngram", "off"):
            raise BadArgumentError(
                f"mtp_drafts comes to nothing with speculate {self.speculate!r}; leave one of them out"
            )

    @property
    def spins(self) -> bool:
        """Whether idle threads wait actively."""
        return self.power != "eco" if self.spin is None else self.spin

    def choose_threads(self, *files: Path) -> int:
        """How many threads compute the model whose weights are in ``files``."""
        return self.threads or threads_for(self.power, *files)

    def choose_context_length(self, path: Path, trained: int, largest: Callable[[], int]) -> int:
        """The context to make room for: what was asked, else the model's but at most ``DEFAULT_CONTEXT``.

        ``largest`` tells the most that the memory has room for.

        Raises:
            ModelLoadError: More was asked for than the model was trained for.
        """
        if self.context_length == "auto":
            return largest()
        if self.context_length is not None and self.context_length > trained:
            raise ModelLoadError(
                f"{path}: context_length {self.context_length} asked for, the model was trained for {trained}"
            )
        return self.context_length or min(trained, DEFAULT_CONTEXT)
