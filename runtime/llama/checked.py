"""What a GGUF file of MiMo-7B must be: from a few numbers of its metadata follow all tensors, their shapes and types.

llama.cpp aborts the process on many values instead of refusing the file, so that nothing is left to it. This module
knows what llama.cpp computes for the architectures that MiMo's files name, and touches no weights.

Sources: https://github.com/ggml-org/llama.cpp/blob/0c1e57098/src/llama-model.cpp (load_hparams) and
https://github.com/ggml-org/llama.cpp/tree/0c1e57098/src/models (qwen2.cpp, step35.cpp)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mimo_mobile.documents import DocumentError, Value
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader, shown
from mimo_mobile.layout import (
    LARGEST_QUERY_KEY,
    PAIR_ID,
    REFERENCE_KEYS,
    SPLIT_COUNT,
    SPLIT_NO,
    SPLIT_TENSORS,
    Reference,
    parse_reference,
)

MTP_ARCHITECTURE = "step35"
ARCHITECTURES = ("qwen2", MTP_ARCHITECTURE)
"""The architecture that a trunk's file names: the first when it is alone, the second with its MTP layer in the file."""

MATRIX_TYPES = frozenset({
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S",
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "Q1_0",
    "Q2_0",
})  # fmt: skip
"""What ggml can multiply with, and llama-quantize writes. NVFP4 needs scales in tensors of their own. Norms and biases
are F32: llama.cpp aborts on all else.

Source: type_traits_cpu, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/ggml-cpu/ggml-cpu.c
"""

MOST_CONTEXT, MOST_LAYERS = 1 << 24, 512
MOST_TOKEN, MOST_TEMPLATE = 4096, 1_000_000
"""At most so many characters; MiMo-7B's longest token has 256, and its template 2,500."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a checked file is.

    Attributes:
        layers: Those of the trunk, whether the file has their weights or not.
        mtp_layers: The MTP layers behind them.
        trunk: Whether the trunk's weights are in the file; else they are in one beside it.
        largest_query_key: The largest magnitude of q·k that was seen before scaling; None when nobody looked.
    """

    architecture: str
    layers: int
    mtp_layers: int
    trunk: bool
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    largest_query_key: float | None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of every tensor in the file."""
        width, vocabulary = self.hidden_size, self.vocab_size
        shapes: dict[str, tuple[int, ...]] = {}
        if self.trunk:
            shapes = {
                "token_embd.weight": (vocabulary, width),
                "output_norm.weight": (width,),
                "output.weight": (vocabulary, width),
            }
        for layer in range(0 if self.trunk else self.layers, self.layers + self.mtp_layers):
            shapes |= {f"blk.{layer}.{name}": shape for name, shape in self._layer(mtp=layer >= self.layers).items()}
        return shapes

    def _layer(self, *, mtp: bool) -> dict[str, tuple[int, ...]]:
        width, ffn = self.hidden_size, self.intermediate_size
        queries, keys = (count * self.head_dim for count in (self.num_attention_heads, self.num_key_value_heads))
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (width,),
            "attn_q.weight": (queries, width), "attn_q.bias": (queries,),
            "attn_k.weight": (keys, width), "attn_k.bias": (keys,),
            "attn_v.weight": (keys, width), "attn_v.bias": (keys,),
            "attn_output.weight": (width, queries),
            "ffn_norm.weight": (width,),
            "ffn_gate.weight": (ffn, width), "ffn_up.weight": (ffn, width), "ffn_down.weight": (width, ffn),
        }  # fmt: skip
        if mtp:
            shapes |= {
                "nextn.enorm.weight": (width,), "nextn.hnorm.weight": (width,),
                "nextn.eh_proj.weight": (width, 2 * width), "nextn.shared_head_norm.weight": (width,),
            }  # fmt: skip
        return shapes


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a key's value must be: of a type, and from ``least`` to ``most`` or one of ``choices``."""

    kind: str
    least: float = 0
    most: float = 0
    choices: tuple[Any, ...] = ()
    needed: bool = False

    def allows(self, value: Any) -> bool:
        return value in self.choices if self.choices else self.least <= value <= self.most

    def __str__(self) -> str:
        return " or ".join(map(repr, self.choices)) if self.choices else f"{self.least:g}…{self.most:.10g}"


def _count(most: int, *, needed: bool = True) -> _Rule:
    return _Rule("uint32", 1, most, needed=needed)


def _none(kind: str = "uint32") -> _Rule:
    return _Rule(kind, choices=(0,))


_COMMON = {
    "block_count": _count(MOST_LAYERS),
    "context_length": _count(MOST_CONTEXT),
    "embedding_length": _count(1 << 20),
    "feed_forward_length": _count(1 << 24),
    "attention.head_count": _count(1 << 12),
    "attention.head_count_kv": _count(1 << 12),
    "attention.key_length": _count(1 << 10, needed=False),
    "attention.value_length": _count(1 << 10, needed=False),
    "attention.layer_norm_rms_epsilon": _Rule("float32", 1e-13, 1e6, needed=True),
    "attention.causal": _Rule("bool", choices=(True,)),
    "rope.freq_base": _Rule("float32", 1, 1e12, needed=True),
    "rope.scaling.type": _Rule("string", choices=("none", "linear", "yarn")),
    "rope.scaling.factor": _Rule("float32", 1, 1000),
    "rope.scale_linear": _Rule("float32", 1, 1000),
    "rope.scaling.original_context_length": _count(MOST_CONTEXT, needed=False),
    "rope.scaling.finetuned": _Rule("bool", choices=(False, True)),
    "rope.scaling.attn_factor": _Rule("float32", 0.001, 100),
    "rope.scaling.yarn_ext_factor": _Rule("float32", -1, 100),
    "rope.scaling.yarn_attn_factor": _Rule("float32", 0.001, 100),
    "rope.scaling.yarn_beta_fast": _Rule("float32", 0.001, 1000),
    "rope.scaling.yarn_beta_slow": _Rule("float32", 0.001, 1000),
    "expert_count": _none(),
    "expert_used_count": _none(),
    "pooling_type": _none(),
    "vocab_size": _count(1 << 24, needed=False),
}
_RULES = {
    "qwen2": _COMMON | {"rope.dimension_count": _count(1 << 10, needed=False), "nextn_predict_layers": _none()},
    MTP_ARCHITECTURE: _COMMON | {
        "rope.dimension_count": _count(1 << 11),
        "rope.dimension_count_swa": _count(1 << 10),
        "rope.freq_base_swa": _Rule("float32", 1, 1e12, needed=True),
        "nextn_predict_layers": _count(MOST_LAYERS - 1),
        "attention.sliding_window": _count(MOST_CONTEXT),
        "expert_feed_forward_length": _Rule("uint32", choices=(0,), needed=True),
    },
}  # fmt: skip
"""Architecture → key without it → what it must be. What is not here would change the computation, and is refused."""

_WINDOWS = "attention.sliding_window_pattern"

_LARGEST = _Rule("float32", 0, 3e38)


def checked(header: GgufHeader) -> GgufModel:
    """What the file is, when llama.cpp can compute all of it.

    Raises:
        ModelLoadError: It is no MiMo-7B, or is damaged; the message says what was found and expected.
    """
    architecture = header.value("general.architecture")
    if architecture not in ARCHITECTURES:
        raise _error(header, f"architecture {_shown(architecture)} found, {ARCHITECTURES[0]!r} (MiMo-7B's) expected")
    if header.value("general.type") not in (None, "model"):
        raise _error(header, f"general.type {_shown(header.value('general.type'))} found, 'model' expected")
    values = _numbers(header, architecture)
    model = _model(header, architecture, values)
    if model.trunk and (header.value(SPLIT_COUNT) or 0) not in (0, 1):
        raise _error(header, "one part of a split model found; join the parts with `llama-gguf-split --merge`")
    _check_attention(header, model, values)
    _check_vocabulary(header, model.vocab_size)
    _check_tensors(header, model)
    return model


def _numbers(header: GgufHeader, architecture: str) -> dict[str, Any]:
    """The values of an architecture's keys, each within its rule; None where a key is not there."""
    rules, prefix = _RULES[architecture], f"{architecture}."
    for key in header.keys():
        name = key.removeprefix(prefix)
        if name != key and name not in rules and (architecture, name) != (MTP_ARCHITECTURE, _WINDOWS):
            raise _error(header, f"the key {shown(key)} found, which no MiMo-7B has")
    return {name: _number(header, prefix + name, name, rule) for name, rule in rules.items()}


def _number(header: GgufHeader, key: str, name: str, rule: _Rule) -> Any:
    """The value of a key, which errors call ``name``, within its rule; None when the key is not there."""
    kind, value = header.kind(key), header.value(key)
    if kind == "nothing":
        if rule.needed:
            raise _error(header, f"{name} missing, {rule} expected")
        return None
    if kind != rule.kind:
        raise _error(header, f"{name} {_shown(value)} ({kind}) found, {rule} ({rule.kind}) expected")
    if not rule.allows(value):
        raise _error(header, f"{name} {_shown(value)} found, {rule} expected")
    return value


def _model(header: GgufHeader, architecture: str, values: dict[str, Any]) -> GgufModel:
    layers, mtp = values["block_count"], values["nextn_predict_layers"] or 0
    if mtp >= layers:
        raise _error(header, f"{mtp} MTP layers among {layers} layers found, fewer expected")
    heads, width = values["attention.head_count"], values["embedding_length"]
    return GgufModel(
        architecture=architecture,
        layers=layers - mtp,
        mtp_layers=mtp,
        trunk=mtp == 0 or "blk.0.attn_norm.weight" in header.tensors,
        hidden_size=width,
        intermediate_size=values["feed_forward_length"],
        num_attention_heads=heads,
        num_key_value_heads=values["attention.head_count_kv"],
        head_dim=values["attention.key_length"] or width // heads,
        vocab_size=header.count("tokenizer.ggml.tokens"),
        context_length=values["context_length"],
        largest_query_key=_number(header, LARGEST_QUERY_KEY, LARGEST_QUERY_KEY, _LARGEST),
    )


def windows_of(header: GgufHeader, layers: int) -> tuple[bool, ...]:
    """Of each of the trunk's layers, whether llama.cpp takes it for one with a window, by what it loads first."""
    if header.value("general.architecture") != MTP_ARCHITECTURE:
        return (False,) * layers
    return tuple(header.truths(f"{MTP_ARCHITECTURE}.{_WINDOWS}")[:layers])


def _check_attention(header: GgufHeader, model: GgufModel, values: dict[str, Any]) -> None:
    """Check what the attention's numbers must be to each other."""
    heads, kv_heads, head_dim = model.num_attention_heads, model.num_key_value_heads, model.head_dim
    if heads % kv_heads:
        raise _error(header, f"head_count {heads} found, a multiple of head_count_kv {kv_heads} expected")
    if head_dim % 2 or head_dim == 0:
        raise _error(header, f"heads of {head_dim} found, an even number expected")
    if model.architecture != MTP_ARCHITECTURE and heads * head_dim != model.hidden_size:
        found = f"head_count {heads} with heads of {head_dim}"
        raise _error(header, f"{found} found, together embedding_length {model.hidden_size} expected")
    whole = {"attention.value_length": head_dim, "rope.dimension_count": head_dim, "vocab_size": model.vocab_size}
    if model.architecture == MTP_ARCHITECTURE:
        # Layers with full attention rotate half of dimension_count: step35.cpp
        whole |= {"rope.dimension_count": 2 * head_dim, "rope.dimension_count_swa": head_dim}
        whole |= {"rope.freq_base_swa": values["rope.freq_base"]}
        window, windows = values["attention.sliding_window"], header.truths(f"{MTP_ARCHITECTURE}.{_WINDOWS}")
        if window < model.context_length:
            raise _error(header, f"a sliding window of {window} found, the whole context expected")
        layers = model.layers + model.mtp_layers
        if len(windows) != layers or not any(windows):
            raise _error(
                header, f"a sliding window for {layers} layers expected, {sum(windows)} of {len(windows)} found"
            )
    for name, expected in whole.items():
        if values[name] not in (None, expected):
            raise _error(header, f"{name} {values[name]} found, {expected} expected")


def _check_tensors(header: GgufHeader, model: GgufModel) -> None:
    expected = model.tensor_shapes()
    if missing := sorted(expected.keys() - header.tensors.keys()):
        raise _error(header, f"{_listed(missing)} missing, {len(expected)} tensors expected")
    if unknown := [shown(name) for name in header.tensors if name not in expected]:
        raise _error(header, f"{_listed(unknown)} found, which no MiMo-7B of {model.layers} layers has")
    for name, shape in expected.items():
        found = header.tensors[name]
        if found.shape != shape:
            raise _error(header, f"{name} of {_shape(found.shape)} found, {_shape(shape)} expected by the metadata")
        if len(shape) == 1 and found.type != "F32":
            raise _error(header, f"{name} in {found.type} found, F32 expected")
        if found.type not in MATRIX_TYPES:
            raise _error(header, f"{name} in {found.type} found, with which llama.cpp cannot compute")


def _check_vocabulary(header: GgufHeader, size: int) -> None:
    """Check what llama.cpp makes of the vocabulary; the tokenizer checks what we do."""
    key = "tokenizer.ggml"
    # llama.cpp wants all tokens to differ, and calls empty ones so.
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(header.strings(f"{key}.tokens"))]
    if len(set(tokens)) != size or not tokens:
        raise _error(header, f"{len(set(tokens))} different tokens found, {max(1, size)} expected")
    merges = header.strings(f"{key}.merges")
    if (longest := max(map(len, (*tokens, *merges)))) > MOST_TOKEN:
        raise _error(header, f"a token or merge of {longest:,} characters found, {MOST_TOKEN:,} are the most")
    kinds = header.integers(f"{key}.token_type")
    if len(kinds) != size or not 1 <= min(kinds) <= max(kinds) <= 6:
        raise _error(header, f"{len(kinds)} token types found, {size} from 1 to 6 expected")
    scores = header.kind(f"{key}.scores")
    if scores != "nothing" and (scores, header.count(f"{key}.scores")) != ("array of float32", size):
        raise _error(header, f"{key}.scores: {scores} found, {size} scores in float32 expected")
    for name in header.keys():
        kind, value = header.kind(name), header.value(name)
        if name.startswith(f"{key}.add_") and kind != "bool":
            raise _error(header, f"{shown(name)} {_shown(value)} found, a truth value expected")
        if name.startswith(key) and name.endswith("_token_id") and (kind != "uint32" or value >= size):
            raise _error(header, f"{shown(name)} {_shown(value)} found, one of {size} tokens expected")
        if name == "tokenizer.chat_template" and (kind != "string" or len(value) > MOST_TEMPLATE):
            raise _error(header, f"{name}: a text of at most {MOST_TEMPLATE:,} characters expected, another found")


def check_pair(trunk: GgufHeader, trunk_model: GgufModel, mtp: GgufHeader, mtp_model: GgufModel) -> None:
    """Check that an MTP file belongs to the same model as the trunk, so that llama.cpp can read both as one.

    Raises:
        ModelLoadError: It does not, or one of the files does not say which part of a model it is.
    """
    same = [PAIR_ID, "tokenizer.ggml.token_type"]
    pairs = [(each, each) for each in same]
    pairs += [(f"qwen2.{name}", f"{MTP_ARCHITECTURE}.{name}") for name in _COMMON if name != "block_count"]
    found = [(_any_value(trunk, first), _any_value(mtp, second)) for first, second in pairs]
    if trunk_model.layers != mtp_model.layers or mtp_model.trunk or any(first != second for first, second in found):
        raise ModelLoadError(f"{mtp.path}: belongs to another model than {trunk.path.name}; quantize both together")
    tensors = len(trunk.tensors) + len(mtp.tensors)
    for header, key, kind, value in (
        (trunk, SPLIT_NO, "uint16", 1), (mtp, SPLIT_NO, "uint16", 0), (mtp, SPLIT_COUNT, "uint16", 2),
        (mtp, SPLIT_TENSORS, "int32", tensors),
    ):  # fmt: skip
        found_kind, number = header.kind(key), header.value(key)
        if (found_kind, number) != (kind, value):
            raise ModelLoadError(
                f"{header.path}: {key} {_shown(number)} ({found_kind}) found, {value} ({kind}) expected, without which"
                " llama.cpp does not read trunk and MTP layer as one model; llama-quantize leaves it out: quantize both"
                " together with `mimo quantize`, or load the trunk with speculate off"
            )


def _any_value(header: GgufHeader, key: str) -> Any:
    return header.array(key) if header.kind(key).startswith("array") else header.value(key)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _shown(value: Any) -> str:
    """A value of the file, as messages show it."""
    return shown(repr(value))


def _error(header: GgufHeader, found: str) -> ModelLoadError:
    return ModelLoadError(f"{header.path}: {found}; a damaged file, or no MiMo-7B: download or convert it again")


def reference_in(header: GgufHeader, model: GgufModel) -> Reference | None:
    """What a file says that its model computes for a known prompt; None when it says nothing.

    Raises:
        ModelLoadError: It is no prompt, or no logits, of this model.
    """
    if not any(header.count(key) for key in REFERENCE_KEYS.values()):
        return None
    try:
        found = parse_reference(Value({name: header.array(key) for name, key in REFERENCE_KEYS.items()}))
    except DocumentError as error:
        raise ModelLoadError(f"{header.path}: the known prompt: {error}; download or convert it again") from error
    if (largest := max(*found.ids, *found.top_ids)) >= model.vocab_size:
        raise ModelLoadError(
            f"{header.path}: the known prompt: token {largest} found, the model has {model.vocab_size}; download or"
            " convert it again"
        )
    return found
