"""A checkpoint folder (config.json + safetensors) as validated, lazy tensor views.

Everything that can be checked without reading a weight is checked on opening. This module knows MiMo-7B's names and
shapes through MimoConfig, and nothing of GGUF, ONNX or quantization. It runs no code of a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mimo_mobile.convert.json_files import present, read_bytes, read_json
from mimo_mobile.convert.shards import DTYPES, NO_ADAPTER, TensorView, read_shards
from mimo_mobile.convert.tensors import MTP_TENSOR, Dropped, map_tensor
from mimo_mobile.convert.vocabulary import Vocabulary, read_vocabulary
from mimo_mobile.errors import CheckpointError, MissingTensorError, ShapeMismatchError, UnknownTensorError
from mimo_mobile.mimo7b import LARGEST_VOCABULARY, STOP_TOKENS, MimoConfig
from mimo_mobile.problems import Problems

logger = logging.getLogger(__name__)

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_ADAPTED = re.compile(r"^base_model\.model\.|\.lora_|\.base_layer\.|\.modules_to_save\.")
"""Matches tensor names of an adapter, and of a model that still holds one."""

_ONLY_COPIED = ("vocab.json", "merges.txt")
"""Files that go beside ONNX models; nothing reads them, but it must be known early that they can be read."""

SAMPLE_BYTES = 4096
"""So many bytes of every tensor's beginning, middle and end tell one checkpoint from another."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A validated MiMo-7B checkpoint.

    Attributes:
        path: The folder.
        config: The fields of config.json that decide the computation, with as many MTP layers as the weights have.
        raw_config: All of config.json.
        generation_config: All of generation_config.json; empty when there is none.
        tensors: The tensors by name: exactly those of ``config.tensor_shapes()``, in its order.
        dropped: The names of tensors that are there and not used, each with the reason.
        vocabulary: The tokenizer's vocabulary.
    """

    path: Path
    config: MimoConfig
    raw_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    tensors: Mapping[str, TensorView]
    dropped: Mapping[str, str]
    vocabulary: Vocabulary

    @property
    def num_parameters(self) -> int:
        """How many weights the checkpoint has, MTP layers included."""
        return sum(view.size for view in self.tensors.values())

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The checkpoint in a folder, fully checked except for the weights' values.

        All problems are found before an error is raised: several come as one CheckpointError with ``.problems``.

        Raises:
            CheckpointError: The folder holds no checkpoint, or another model than MiMo-7B; a file is damaged or
                contradicts another; or weights are pickled or quantized.
            MissingTensorError: A shard or a tensor is not there.
            UnknownTensorError: There is a tensor that MiMo-7B does not have, or more MTP layers than config.json says.
            ShapeMismatchError: A tensor's shape is not the one that follows from config.json.
        """
        problems = Problems()
        raw_config: dict[str, Any] = {}
        config, found, vocabulary = None, None, None
        with problems.gather():
            if not present(path / CONFIG):
                raise CheckpointError(f"{path}: no {CONFIG}; a folder with {CONFIG} and *.safetensors expected")
            raw_config = read_json(path / CONFIG)
            config = MimoConfig.from_json(raw_config)
        generation_config: dict[str, Any] = {}
        with problems.gather():
            if present(path / GENERATION_CONFIG):
                generation_config = read_json(path / GENERATION_CONFIG)
        for name in _ONLY_COPIED:
            with problems.gather():
                if present(path / name):
                    read_bytes(path / name)
        with problems.gather():
            found = read_shards(path)
        with problems.gather():
            # As many rows as there are, not as config.json says.
            embedding = (found or {}).get("model.embed_tokens.weight")
            rows = embedding.shape[0] if embedding and embedding.shape else None
            vocabulary = read_vocabulary(path, rows if rows and rows <= LARGEST_VOCABULARY else None)
            _check_stop_tokens(path, vocabulary, [raw_config, generation_config])
        tensors: dict[str, TensorView] = {}
        dropped: dict[str, str] = {}
        if config is not None and found is not None:
            with problems.gather():
                config, found, dropped = _settle_mtp_layers(path, config, found, raw_config)
                tensors, more = _check_tensors(path, config, found)
                dropped |= more
        problems.raise_any(path)
        assert config is not None and vocabulary is not None
        return cls(
            path=path,
            config=config,
            raw_config=MappingProxyType(raw_config),
            generation_config=MappingProxyType(generation_config),
            tensors=MappingProxyType(tensors),
            dropped=MappingProxyType(dropped),
            vocabulary=vocabulary,
        )

    def fingerprint(self) -> str:
        """A SHA-256 that tells this checkpoint from another: of its files' settings and a sample of every tensor."""
        digest = hashlib.sha256(repr((self.config, self.vocabulary)).encode())
        for view in self.tensors.values():
            digest.update(repr((view.name, view.dtype, view.shape)).encode())
            for start in (0, view.nbytes // 2, max(0, view.nbytes - SAMPLE_BYTES)):
                sample = np.empty(min(SAMPLE_BYTES, view.nbytes - start), np.uint8)
                view.shard.read(view.offset + start, sample)
                digest.update(sample.data)
        return digest.hexdigest()


def _check_stop_tokens(path: Path, vocabulary: Vocabulary, configs: Iterable[Mapping[str, Any]]) -> None:
    """Warn of tokens that end an answer by the checkpoint's files, but at which the runtime would not stop."""
    named: dict[int, None] = {vocabulary.eos_id: None}
    for config in configs:
        ids = config.get("eos_token_id")
        for each in ids if isinstance(ids, list) else [ids]:
            if each is None:
                continue
            if isinstance(each, bool) or not isinstance(each, int) or not 0 <= each < len(vocabulary.tokens):
                raise CheckpointError(f"{path}: eos_token_id {ids!r:.60} found, ids of tokens expected")
            named[each] = None
    others = [vocabulary.tokens[each] for each in named if vocabulary.tokens[each] not in STOP_TOKENS]
    if others:
        logger.warning(
            "%s: eos_token_id names %s; MiMo's answers end at %s only",
            path,
            ", ".join(others),
            " and ".join(STOP_TOKENS),
        )


def _settle_mtp_layers(
    path: Path, config: MimoConfig, found: dict[str, TensorView], raw_config: Mapping[str, Any]
) -> tuple[MimoConfig, dict[str, TensorView], dict[str, str]]:
    """The configuration with the MTP layers that are there, the tensors to use, and those that are dropped."""
    key, said = "num_nextn_predict_layers", config.num_nextn_predict_layers
    mtp = [name for name in found if MTP_TENSOR.match(name)]
    if raw_config.get(key, 0) is None and mtp:
        logger.warning("%s: %s in %s is null; the MTP layer in the weights is left out", path, key, CONFIG)
        kept = {name: view for name, view in found.items() if name not in mtp}
        return config, kept, dict.fromkeys(mtp, f"{key} in {CONFIG} is null")
    if said and not mtp:
        logger.warning("%s: no MTP layer in the weights, %s says %d; the trunk alone is used", path, CONFIG, said)
        return dataclasses.replace(config, num_nextn_predict_layers=0), found, {}
    return config, found, {}


def _check_tensors(
    path: Path, config: MimoConfig, found: Mapping[str, TensorView]
) -> tuple[dict[str, TensorView], dict[str, str]]:
    """The tensors that config.json asks for, and what is dropped."""
    if any(_ADAPTED.search(name) for name in found):
        raise UnknownTensorError(f"{path}: {NO_ADAPTER}")
    _check_mtp_layers(path, config, found)
    layers = config.num_hidden_layers
    expected, problems = config.tensor_shapes(), Problems()
    dropped, beyond, unknown = dict[str, str](), list[str](), list[UnknownTensorError]()
    for name in found:
        try:
            target = map_tensor(name, layers)
        except UnknownTensorError as error:
            unknown.append(error)
            continue
        if isinstance(target, Dropped):
            dropped[name] = target.reason
        elif name not in expected:
            beyond.append(name)
    if unknown:
        more = f" ({len(unknown) - 1} more such tensors)" if len(unknown) > 1 else ""
        problems.add(UnknownTensorError(f"{path}: {unknown[0]}{more}"))
    if beyond:
        problems.add(
            UnknownTensorError(
                f"{found[beyond[0]].path}: tensor {beyond[0]}{_more(beyond)} is beyond the {layers} layers that"
                f" {CONFIG} says"
            )
        )
    missing = [name for name in expected if name not in found]
    if missing:
        problems.add(
            MissingTensorError(
                f"{path}: tensor {missing[0]}{_more(missing)} missing; {CONFIG} asks for {len(expected)}"
            )
        )
    problems.found.extend(_lying(found, expected))
    problems.raise_any(path)
    return {name: found[name] for name in expected}, dropped


def _lying(found: Mapping[str, TensorView], expected: Mapping[str, tuple[int, ...]]) -> list[CheckpointError]:
    """One problem for all tensors of a wrong dtype, and one for all of a wrong shape."""
    there = {name: found[name] for name in expected if name in found}
    dtypes = [name for name, view in there.items() if view.dtype not in DTYPES]
    shapes = [name for name, view in there.items() if name not in dtypes and view.shape != expected[name]]
    made: list[CheckpointError] = []
    if dtypes:
        view = there[dtypes[0]]
        made.append(
            CheckpointError(
                f"{view.path}: tensor {view.name}{_more(dtypes)} is {view.dtype}, {', '.join(DTYPES)} expected; use the"
                " original checkpoint"
            )
        )
    if shapes:
        view = there[shapes[0]]
        made.append(
            ShapeMismatchError(
                f"{view.path}: tensor {view.name}{_more(shapes)} is {view.shape}, {expected[view.name]} follows from"
                f" {CONFIG}"
            )
        )
    return made


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _check_mtp_layers(path: Path, config: MimoConfig, names: Iterable[str]) -> None:
    layers = {match[1] for name in names if (match := MTP_TENSOR.match(name))}
    said = config.num_nextn_predict_layers
    if len(layers) == said:
        return
    kind = UnknownTensorError if len(layers) > said else MissingTensorError
    raise kind(
        f"{path}: {len(layers)} MTP layers in the weights, num_nextn_predict_layers in {CONFIG} is {said};"
        " take both from one checkpoint"
    )
