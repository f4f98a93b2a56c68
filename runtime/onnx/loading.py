"""An ONNX folder → a session, on the CPU or another execution provider."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mimo_mobile import documents, onnxruntime_library, untrusted
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.layout import CHAT_TEMPLATE, CONFIG, DATA, MOST_TOKENS, MTP, TOKENIZER
from mimo_mobile.mimo7b import POST_NORM, PRE_NORM, SYNTHETIC
from mimo_mobile.runtime.decode.speculator import speculator_for
from mimo_mobile.runtime.devices import memory
from mimo_mobile.runtime.load_config import LoadConfig
from mimo_mobile.runtime.mapped_files import MappedFiles
from mimo_mobile.runtime.model import Model
from mimo_mobile.runtime.onnx import graph_check
from mimo_mobile.runtime.onnx.backend import OrtBackend
from mimo_mobile.runtime.onnx.ep_choice import open_on
from mimo_mobile.runtime.onnx.needs import OnnxNeeds, trunk_of
from mimo_mobile.runtime.onnx.opening import OnnxOpening
from mimo_mobile.runtime.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Described:
    """What the runtime needs of a model's config.json.

    Attributes:
        trained: The longest context.
        synthetic: Whether the weights are random.
        reads_normed_states: Whether the MTP layer wants hidden states after the trunk's last norm.
    """

    trained: int
    synthetic: bool
    reads_normed_states: bool


def read_config(path: Path) -> Described:
    """What a config.json says.

    Raises:
        ModelLoadError: It cannot be read.
    """
    try:
        found = documents.parse(untrusted.read_text(path))
        synthetic, state = found.get(SYNTHETIC), found.get("mtp_hidden_state")
        return Described(
            found["max_position_embeddings"].integer(1, MOST_TOKENS),
            synthetic is not None and synthetic.flag(),
            state is not None and state.choice(PRE_NORM, POST_NORM) == POST_NORM,
        )
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}; convert again") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: {error}; convert again") from error


def load_onnx(folder: Path, config: LoadConfig, files: MappedFiles) -> Model:
    """The model in a folder that ``mimo convert`` or ``mimo quantize`` wrote; ``files`` watches what is mapped.

    The folder holds model.onnx, its data, tokenizer.json, config.json and the chat template. With int8 as
    ``kv_dtype`` the graph with an int8 cache is taken; any other type must be the one that model.onnx has built in.

    Raises:
        ModelLoadError: A file is missing or damaged, the graph lacks inputs of MiMo's decoder, or the model is too
            large for the memory.
        BackendUnavailableError: The folder has no graph with a cache of ``kv_dtype``, or ``ep`` cannot run it.
        MissingDependencyError: onnxruntime or the package that brings ``ep`` is not installed.
    """
    ort = onnxruntime_library.load()
    model = trunk_of(folder, config)
    _check_name(model)
    tokenizer = TextTokenizer.from_file(folder / TOKENIZER)
    described = read_config(folder / CONFIG)
    file = folder / CHAT_TEMPLATE
    try:
        template = untrusted.read_text(file) if file.exists() else None
    except OSError as error:
        raise ModelLoadError(f"{file}: cannot be read: {error.strerror}; convert the checkpoint again") from error
    except ValueError as error:
        raise ModelLoadError(f"{file}: {error}; convert the checkpoint again") from error
    drafts = config.speculate in ("auto", "mtp") and os.path.lexists(folder / MTP)
    graph_check.check_folder(model, folder / MTP if drafts else None, described.trained)
    needs = OnnxNeeds.of(folder, config)
    opening = OnnxOpening(
        ort,
        folder,
        model,
        config,
        memory.context_of(folder, config, needs.ways, described.trained),
        config.choose_threads(model, folder / DATA),
        needs.ways,
        described.reads_normed_states,
        files,
    )
    backend, placement = open_on(opening)
    try:
        on_cpu = isinstance(backend, OrtBackend) and placement.asked == "cpu"
        where = () if on_cpu else (str(placement), type(backend).__name__)
        key = (model, opening.threads, config.spins, backend.mtp is not None, *where)
        return Model(
            backend,
            tokenizer,
            template,
            speculator=speculator_for(backend, config, *key),
            placement=placement,
            synthetic=described.synthetic,
            files=files,
            weights=[each for each in (model, folder / DATA) if each.is_file()],
            name=f"ONNX Runtime ({placement.asked}) with {model}",
        )
    except BaseException:
        backend.close()
        raise


def _check_name(model: Path) -> None:
    """See that ONNX Runtime can be given a file's name, of which Python makes lone surrogates where it is no UTF-8."""
    try:
        str(model).encode()
    except UnicodeEncodeError as error:
        raise ModelLoadError(
            f"{model}: a name that is not UTF-8 found, in which ONNX Runtime opens no file; rename the folder, or start"
            " the program inside it and load ."
        ) from error
