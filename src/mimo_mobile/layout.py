"""What the files and folders that we write are called, and what npu.json and reference.json say: for all who use them.

docs/formats.md specifies the files.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile.documents import DocumentError, FileFormat, Value
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.files import FolderKind
from mimo_mobile.socs import Soc, soc_named

DEFAULT_CONTEXT = 4096
"""Tokens of prompt and answer when nobody asks for more; a KV cache for all that MiMo-7B was trained for would take
4.8 GB."""

MODEL, MTP, DATA = "model.onnx", "mtp.onnx", "model.onnx.data"
"""The graphs of trunk and MTP layer in an ONNX folder, and the weights of both."""

KV_INT8 = "model.kv-int8.onnx"
"""The trunk with an int8 KV cache, on the same weights."""

REFERENCE = "reference.json"
"""What an ONNX model computes for a known prompt, for the self-test."""

GENAI_CONFIG = "genai_config.json"
CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
DRAFT_VOCABULARY = "draft_vocabulary.json"

PAIR_ID = "mimo_mobile.pair"
"""Key in the metadata of GGUF files: a trunk and the MTP layer that drafts for it have the same value."""

SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
"""llama.cpp's keys for models in several files: which part one is, of how many, and with how many tensors in all."""

REFERENCE_KEYS = {
    "ids": "mimo_mobile.reference.tokens", "top_ids": "mimo_mobile.reference.top",
    "logits": "mimo_mobile.reference.logits",
}  # fmt: skip
"""Keys in the metadata of GGUF files: what reference.json holds for an ONNX model. A lone file can be tested so."""

LARGEST_QUERY_KEY = "mimo_mobile.largest_query_key"
"""Key in the metadata of GGUF files: the largest magnitude of q·k in any layer, MTP layers included, before scaling."""

REFERENCE_LOGITS = 64
"""We keep so many of the largest logits after a reference's prompt."""

NPU_SETTINGS, EMBEDDING, DRAFT_IDS = "npu.json", "embedding.onnx", "draft_ids.npy"
"""In a folder of binaries for an NPU: what they are, and the tokens that the MTP layer scores; beside the folder: the
embedding."""


NPU_FORMAT, REFERENCE_FORMAT = FileFormat("npu", 1), FileFormat("reference", 1)

MOST_TOKENS = 2**31 - 1
"""The largest token id or number of tokens in a file: Kotlin keeps them as 32-bit integers."""

LEAST_REFERENCE_TOKENS, MOST_REFERENCE_TOKENS = 4, 1024
"""In a reference's prompt, which goes through a model as a chunk, two rows and one; we write 48."""

MOST_LOGIT = 3.4e38
"""Logits are 32-bit numbers."""

MOST_WINDOWS, MOST_GRAPHS = 16, 4096
"""Windows and binaries of a folder for an NPU; we write 3 windows, or 1."""

COPIED = (CONFIG, "generation_config.json", TOKENIZER, "vocab.json", "merges.txt")
"""A checkpoint's files that an ONNX folder holds as they are."""

NPU_FOLDER = FolderKind(("*.onnx", "*.bin", NPU_SETTINGS, DRAFT_IDS), mark=NPU_SETTINGS, text=b"npu_version")

ONNX_FOLDER = FolderKind(
    (
        *("*.onnx", DATA, *COPIED, TOKENIZER_CONFIG, CHAT_TEMPLATE, GENAI_CONFIG, REFERENCE),
        *(f"q??-*/{name}" for name in NPU_FOLDER.names),
        ".q??-*.pieces/*",
    ),
    mark=MODEL,
    text=b"mimo_mobile.",
)
"""What these folders hold; the metadata in our graphs have names that begin with the mark's text."""


def mtp_file(trunk: Path) -> Path:
    """Where the MTP layer of a GGUF file lies: beside it, as ``…-mtp.gguf``."""
    return trunk.with_name(f"{trunk.stem}-mtp.gguf")


def npu_folder_name(soc: Soc, quantized: bool) -> str:
    """What the folder of binaries for a chip is called; ``quantized`` ones have uint16 activations."""
    return f"{'qdq' if quantized else 'qnn'}-{soc.name}"


@dataclass(frozen=True, slots=True)
class Binary:
    """What npu.json says of one binary.

    Attributes:
        name: The graph's name, with its window.
        size_bytes: Its size.
        seconds: How long it took to compile; None where nobody wrote it down.
        peak_rss_bytes: The largest resident memory of the process up to then, or None.
    """

    name: str
    size_bytes: int
    seconds: float | None
    peak_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class NpuSettings:
    """What npu.json says of the binaries beside it.

    Attributes:
        soc: The chip.
        context_length: Tokens that the caches hold.
        windows: Tokens in one run, the largest first; a single one is for prompts, and the CPU computes tokens.
        layers: How many of the trunk's layers each of its parts has.
        mtp: Whether the MTP layer is there.
        graphs: The binaries.
        embedding_bytes: Bytes of the embedding.
        made_with: Versions of what compiled them.
    """

    soc: str
    context_length: int
    windows: tuple[int, ...]
    layers: tuple[int, ...]
    mtp: bool
    graphs: tuple[Binary, ...]
    embedding_bytes: int
    made_with: str

    @property
    def computes_tokens(self) -> bool:
        """Whether tokens are computed on the NPU, and not prompts alone."""
        return self.windows[-1] == 1

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each binary, by name, and of the embedding."""
        return {each.name: each.size_bytes for each in self.graphs} | {EMBEDDING: self.embedding_bytes}


@dataclass(frozen=True, slots=True)
class Reference:
    """What a model computes for a known prompt.

    Attributes:
        ids: The prompt.
        top_ids: The tokens with the largest logits after it.
        logits: Their logits, computed in float32 with the weights as they were written.
    """

    ids: tuple[int, ...]
    top_ids: tuple[int, ...]
    logits: tuple[float, ...]


def read_npu_settings(folder: Path) -> NpuSettings:
    """The settings in a folder of binaries.

    Raises:
        ModelLoadError: They cannot be read.
    """

    def build(found: Value) -> NpuSettings:
        context_length = found["context_length"].integer(1, MOST_TOKENS)
        windows = tuple(each.integer(1, MOST_TOKENS) for each in found["windows"].items(least=1, most=MOST_WINDOWS))
        falling = list(windows) == sorted(set(windows), reverse=True) and windows[0] <= context_length
        if not falling or (len(windows) > 1 and windows[-1] != 1):
            raise DocumentError(
                f"windows: falling numbers from at most {context_length} to 1, or a single one, expected,"
                f" {windows} found"
            )
        mtp = found["mtp"].flag()
        if mtp and windows[-1] != 1:
            raise DocumentError(f"mtp: no MTP layer expected for prompts alone, with windows {windows}")
        found["ep"].choice("qnn")
        found["activations"].choice("float", "uint16")
        listed = found["layers"].items(least=1, most=MOST_GRAPHS)
        parts = [[edge.integer(most=MOST_GRAPHS) for edge in part.items(least=2, most=MOST_WINDOWS)] for part in listed]
        edges = [0, *(stop for _, stop, *_ in parts)]
        if parts != [[start, stop] for start, stop in itertools.pairwise(edges) if start < stop]:
            raise DocumentError(f"layers: runs of layers from 0 on expected, {parts!s:.60} found")
        try:
            soc = soc_named(found["soc"].text()).name
        except BackendUnavailableError as error:
            raise DocumentError(f"soc: {error}") from error
        return NpuSettings(
            soc,
            context_length,
            windows,
            tuple(stop - start for start, stop in parts),
            mtp,
            tuple(_binary(each) for each in found["graphs"].items(most=MOST_GRAPHS)),
            found["embedding_bytes"].integer(),
            found["made_with"].text(),
        )

    return NPU_FORMAT.read(folder / NPU_SETTINGS, build, ModelLoadError, "compile again")


def _binary(found: Value) -> Binary:
    seconds, peak = found.get("seconds"), found.get("peak_rss_bytes")
    return Binary(
        found["name"].path(),
        found["size_bytes"].integer(),
        None if seconds is None else seconds.number(0, MOST_TOKENS),
        None if peak is None else peak.integer(),
    )


def read_reference(path: Path) -> Reference:
    """The known prompt and its logits in a file.

    Raises:
        ModelLoadError: They cannot be read.
    """
    return REFERENCE_FORMAT.read(path, parse_reference, ModelLoadError, "quantize again")


def parse_reference(found: Value) -> Reference:
    """A known prompt and its logits in a document.

    Raises:
        DocumentError: They are none.
    """
    ids = found["ids"]
    reference = Reference(
        tuple(each.integer(0, MOST_TOKENS) for each in ids.items(LEAST_REFERENCE_TOKENS, MOST_REFERENCE_TOKENS)),
        tuple(each.integer(0, MOST_TOKENS) for each in found["top_ids"].items(least=1)),
        tuple(each.number(-MOST_LOGIT, MOST_LOGIT) for each in found["logits"].items(least=1)),
    )
    if len(reference.top_ids) != len(reference.logits):
        raise DocumentError(f"{len(reference.top_ids)} top_ids and {len(reference.logits)} logits found")
    if not any(reference.logits):
        raise DocumentError("logits: only zeros found")
    return reference
