"""An ONNX folder → a session, on the CPU or another execution provider."""

from __future__ import annotations

import json
from pathlib import Path

from mimo_mobile import onnxruntime_library
from mimo_mobile.errors import BackendUnavailableError, ModelLoadError
from mimo_mobile.layout import CHAT_TEMPLATE, CONFIG, KV_INT8, MODEL, MTP, TOKENIZER
from mimo_mobile.mimo7b import POST_NORM, SYNTHETIC
from mimo_mobile.providers import Ep, Options
from mimo_mobile.runtime.backend import KvDtype
from mimo_mobile.runtime.decode.pace import costs_file
from mimo_mobile.runtime.decode.session import Session, choose_context_length
from mimo_mobile.runtime.decode.speculator import Speculate
from mimo_mobile.runtime.devices.threads import physical_cores
from mimo_mobile.runtime.onnx.backend import OrtBackend
from mimo_mobile.runtime.onnx.ep_choice import open_on
from mimo_mobile.runtime.onnx.opening import OnnxOpening
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


def load_onnx(
    folder: Path,
    *,
    context_length: int | None = None,
    threads: int | None = None,
    kv_dtype: KvDtype | None = None,
    cache: bool = True,
    spin: bool = True,
    speculate: Speculate = "auto",
    mtp_drafts: int = 1,
    ep: Ep = "auto",
    ep_options: Options | None = None,
    strict: bool = False,
) -> Session:
    """A session on a folder that ``mimo convert`` or ``mimo quantize`` wrote.

    Args:
        folder: Holds model.onnx, its data, tokenizer.json, config.json and the chat template.
        context_length: Default: the model's, at most 4096.
        threads: Default: physical cores.
        kv_dtype: ``int8`` takes the graph with an int8 cache; else it must be what model.onnx has built in.
        cache: Keep this CPU's arrangement of the weights on disk and map it, instead of making it at every load.
        spin: Let idle threads wait actively: faster, and more power.
        speculate: What drafts; ``mtp`` and ``auto`` load the MTP layer when it is there.
        mtp_drafts: At most so many tokens in a row by the MTP layer, which reads its own output again.
        ep: Where it is computed.
        ep_options: That execution provider's; default: its defaults.
        strict: Fail where ``ep`` would leave work to the CPU, or computes wrong numbers, instead of going on without.

    Raises:
        ModelLoadError: A file is missing, damaged, no decoder with MiMo's inputs, or too large for the memory.
        BackendUnavailableError: The folder has no graph with a cache of ``kv_dtype``, or ``ep`` cannot run it.
        MissingDependencyError: onnxruntime is not installed, or what brings ``ep``.
    """
    ort = onnxruntime_library.load()
    model = folder / (KV_INT8 if kv_dtype == "int8" else MODEL)
    if kv_dtype == "int8" and not model.is_file():
        raise BackendUnavailableError(f"{folder}: no {KV_INT8}; quantize again for an int8 KV cache, or leave it out")
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        trained, synthetic = int(config["max_position_embeddings"]), bool(config.get(SYNTHETIC))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder / 'config.json'}: max_position_embeddings expected ({error}); convert again"
        ) from error
    if speculate == "mtp" and not (folder / MTP).is_file():
        raise BackendUnavailableError(f"{folder}: no {MTP}; the checkpoint had no MTP layer, take auto or ngram")
    opening = OnnxOpening(
        ort, folder, model, choose_context_length(folder, context_length, trained), threads or physical_cores(),
        kv_dtype, cache, spin, speculate, config.get("mtp_hidden_state") == POST_NORM,
    )  # fmt: skip
    backend, placement = open_on(opening, ep, ep_options, context_length, mtp_drafts, strict)
    file = folder / CHAT_TEMPLATE
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    on_cpu = isinstance(backend, OrtBackend) and placement.asked == "cpu"
    what = opening.threads, spin, backend.mtp is not None, *(() if on_cpu else (str(placement), type(backend).__name__))
    return Session(
        backend,
        tokenizer,
        template,
        synthetic=synthetic,
        speculate=speculate,
        mtp_drafts=mtp_drafts,
        costs_file=costs_file(model, *what) if cache else None,
        placement=placement,
    )
