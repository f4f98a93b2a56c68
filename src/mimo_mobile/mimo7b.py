"""The facts of the MiMo-7B family: configuration, tensor names and shapes, token ids, sampling.

This module knows nothing of files or formats. Field names are those of config.json.
Source: https://huggingface.co/XiaomiMiMo/MiMo-7B-RL (config.json, modeling_mimo.py) and
https://github.com/XiaomiMiMo/MiMo/tree/3a3fe65.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

from mimo_mobile.errors import CheckpointError
from mimo_mobile.problems import Problems
from mimo_mobile.untrusted import printable

ARCHITECTURE = "MiMoForCausalLM"
MODEL_TYPE = "mimo"

SYNTHETIC = "mimo_mobile_synthetic"
"""A key in config.json that is true when the weights are random (`mimo synth`)."""

SAMPLING_TEMPERATURE = 0.6
SAMPLING_TOP_P = 0.95
"""Xiaomi's evaluation settings (README of MiMo, paper arXiv 2505.07608, section 5)."""

DEFAULT_SYSTEM_PROMPT = ""
"""Xiaomi recommends an empty system prompt; it must be given, or the template writes its own."""

# https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/tokenizer.json, pre_tokenizer
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before byte-level BPE, after NFC."""


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's byte alphabet, backwards: printable Latin-1 stands for itself, the rest follows from U+0100 on.

    Source: bytes_to_unicode, https://github.com/openai/gpt-2/blob/9b63575/src/encoder.py
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


STOP_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""They end a turn and a text; generation stops at either."""

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
TOOL_CALL_OPEN, TOOL_CALL_CLOSE = "<tool_call>", "</tool_call>"
"""Both are plain text in MiMo's vocabulary, of several tokens each, and no special tokens."""


PRE_NORM, POST_NORM = "pre_norm", "post_norm"
"""The values that ``mtp_hidden_state`` can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MimoConfig:
    """The fields of config.json that decide the computation; names as in config.json.

    Attributes:
        mtp_hidden_state: Which hidden state of the trunk the MTP layer reads: before model.norm, as Xiaomi's vLLM
            does, or after it, as FastMTP's heads want. No field of Xiaomi's; may be added to config.json.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    num_nextn_predict_layers: int = 0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    mtp_hidden_state: str = PRE_NORM

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> MimoConfig:
        """The configuration in a parsed config.json.

        Raises:
            CheckpointError: Not a MiMo-7B configuration, or one that asks for what MiMo-7B does not do; its
                ``.problems`` are all of them.
        """
        architectures = config.get("architectures")
        listed = architectures if isinstance(architectures, list) else []
        if config.get("model_type") != MODEL_TYPE or ARCHITECTURE not in listed:
            raise CheckpointError(
                f"config.json: model_type {config.get('model_type')!r:.60} with architectures {architectures!r:.60}"
                f" found, {MODEL_TYPE!r} with [{ARCHITECTURE!r}] expected: this is no MiMo-7B checkpoint"
            )
        problems = Problems()
        for key, value in _EXPECTED.items():
            found = config.get(key, value)
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                problems.add(CheckpointError(f"config.json: {key} {found!r:.60} found, {value!r} expected"))
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in config and field.name != "rope_theta":
                with problems.gather():
                    values[field.name] = _checked(field.name, config[field.name])
        with problems.gather():
            _check_layer_types(config.get("layer_types"))
        refused = {"rope_theta"}  # when it is there in a form that was refused, it is not called missing too
        with problems.gather():
            values |= _rope_theta(config)
            refused.clear()
        heads = values.get("num_attention_heads")
        if "head_dim" not in values and config.get("head_dim") is None and heads and "hidden_size" in values:
            values["head_dim"] = values["hidden_size"] // heads
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in values]
        missing = [name for name in missing if config.get(name) is None and name not in refused]
        if missing:
            problems.add(
                CheckpointError(f"config.json: {', '.join(missing)} missing; every MiMo-7B config.json has them")
            )
        for text in _head_problems(**{name: values.get(name) for name in _HEADS}):
            problems.add(CheckpointError(f"config.json: {text}"))
        problems.raise_any("config.json")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """A whole config.json, as MiMo-7B's checkpoints have it."""
        made: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return made | {
            "architectures": [ARCHITECTURE],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "max_window_layers": self.num_hidden_layers,
            "model_type": MODEL_TYPE,
            "sliding_window": self.max_position_embeddings,
            "tie_word_embeddings": False,
            "tokenizer_class": ["Qwen2Tokenizer"],
            "torch_dtype": "bfloat16",
            "transformers_version": "4.40.1",
            "use_cache": True,
            "use_mrope": False,
            "use_sliding_window": False,
        }

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor name that a checkpoint of this configuration holds, with its shape, in file order.

        >>> len(MIMO_7B.tensor_shapes())
        451
        """
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_hidden_layers):
            shapes |= self._block(f"model.layers.{layer}.")
        shapes["model.norm.weight"] = (self.hidden_size,)
        shapes["lm_head.weight"] = (self.vocab_size, self.hidden_size)
        for layer in range(self.num_nextn_predict_layers):
            prefix = f"model.mtp_layers.{layer}."
            shapes[prefix + "token_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "hidden_layernorm.weight"] = (self.hidden_size,)
            shapes[prefix + "input_proj.weight"] = (self.hidden_size, 2 * self.hidden_size)
            shapes |= self._block(prefix)
            shapes[prefix + "final_layernorm.weight"] = (self.hidden_size,)
        return shapes

    def _block(self, prefix: str) -> dict[str, tuple[int, ...]]:
        hidden, ffn = self.hidden_size, self.intermediate_size
        query = self.num_attention_heads * self.head_dim
        key = self.num_key_value_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
        for name, rows in (("q", query), ("k", key), ("v", key)):
            shapes[f"self_attn.{name}_proj.weight"] = (rows, hidden)
            shapes[f"self_attn.{name}_proj.bias"] = (rows,)
        shapes["self_attn.o_proj.weight"] = (hidden, query)
        shapes["post_attention_layernorm.weight"] = (hidden,)
        shapes["mlp.gate_proj.weight"] = shapes["mlp.up_proj.weight"] = (ffn, hidden)
        shapes["mlp.down_proj.weight"] = (hidden, ffn)
        return {prefix + name: shape for name, shape in shapes.items()}


_EXPECTED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": True,
    "use_sliding_window": False,
    "use_mrope": False,
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
}
"""What config.json may say of these, if it says anything."""

LARGEST_VOCABULARY = 1 << 20
"""No vocabulary has more tokens, of which each takes memory when it is read; MiMo-7B's embedding has 151,680 rows."""

MOST_POSITIONS = 1 << 18
"""No context is longer: ONNX models hold a table of angles for every position. MiMo-7B-RL-0530 has 65,536."""

_RANGES: Mapping[str, tuple[float, float]] = {
    "hidden_size": (1, 1 << 16),
    "intermediate_size": (1, 1 << 18),
    "num_hidden_layers": (1, 1000),
    "num_attention_heads": (1, 1024),
    "num_key_value_heads": (1, 1024),
    "head_dim": (16, 256),
    "vocab_size": (1, LARGEST_VOCABULARY),
    "max_position_embeddings": (1, MOST_POSITIONS),
    "rope_theta": (1.0, 1e12),
    "rms_norm_eps": (1e-12, 1e6),
    "num_nextn_predict_layers": (0, 100),
    "bos_token_id": (0, LARGEST_VOCABULARY - 1),
    "eos_token_id": (0, LARGEST_VOCABULARY - 1),
}
"""The least and the most of each number: ten times what any MiMo-7B has, or more. Ranges with a fraction are of numbers
that may have one. rms_norm_eps grows with the square of the residual stream, which a model may have multiplied."""

_NULL: Mapping[str, int | None] = {"num_nextn_predict_layers": 0, "bos_token_id": None, "eos_token_id": None}
"""What null stands for, where it may stand."""


_HEADS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def _head_problems(
    hidden_size: int | None, num_attention_heads: int | None, num_key_value_heads: int | None, head_dim: int | None
) -> Iterator[str]:
    """What is wrong with the sizes of heads, as far as they are known; the engines run no others."""
    if num_attention_heads and num_key_value_heads and num_attention_heads % num_key_value_heads:
        yield (f"num_attention_heads {num_attention_heads} is no multiple of num_key_value_heads {num_key_value_heads}")
    if hidden_size and num_attention_heads and head_dim and num_attention_heads * head_dim != hidden_size:
        yield (
            f"num_attention_heads {num_attention_heads} of head_dim {head_dim} found, together hidden_size"
            f" {hidden_size} expected"
        )
    elif head_dim and head_dim % 16:
        yield f"head_dim {head_dim} found, a multiple of 16 expected"


def _check_layer_types(layer_types: Any) -> None:
    """See that every layer attends to the whole context; transformers writes a list from 4.53 on."""
    if layer_types is None:
        return
    if not isinstance(layer_types, list):
        raise CheckpointError(f"config.json: layer_types {layer_types!r:.60} found, a list expected")
    if other := sorted({f"{each!s:.60}" for each in layer_types} - {"full_attention"}):
        listed = printable(", ".join(other))[:200]
        raise CheckpointError(f"config.json: layer_types {listed} found, full_attention expected")


def _rope_theta(config: Mapping[str, Any]) -> dict[str, float]:
    """The base of plain rotary positions, wherever config.json has it; empty when it has none.

    transformers up to 4 writes ``rope_theta`` and ``rope_scaling``, from 5 on both in ``rope_parameters``.
    Source: https://github.com/huggingface/transformers/blob/v5.0.0/src/transformers/modeling_rope_utils.py
    """
    problems = Problems()
    found: dict[str, Any] = {"rope_theta": config.get("rope_theta")}
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            problems.add(CheckpointError(f"config.json: {key} {rope!r:.60} found, an object or null expected"))
            continue
        kinds = {str(rope[name]) for name in ("rope_type", "type") if rope.get(name) is not None} or {"default"}
        beyond = sorted(set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
        if kinds != {"default"} or beyond or rope.get("partial_rotary_factor") not in (None, 1):
            problems.add(
                CheckpointError(
                    f"config.json: {key} {dict(rope)!r:.200} found, plain rotary positions (rope_type default)"
                    " expected; scaled ones are not converted"
                )
            )
        found[f"{key}.rope_theta"] = rope.get("rope_theta")
    thetas: dict[str, float] = {}
    for name, value in found.items():
        if value is not None:
            with problems.gather():
                thetas[name] = _number(name, value, *_RANGES["rope_theta"])
    if len(set(thetas.values())) > 1:
        said = " and ".join(f"{name} {value:g}" for name, value in thetas.items())
        problems.add(CheckpointError(f"config.json: {said} found, which contradict each other; keep the right one"))
    problems.raise_any("config.json")
    theta = next(iter(thetas.values()), None)
    return {} if theta is None else {"rope_theta": theta}


def _checked(name: str, value: Any) -> float | int | str | tuple[int, ...] | None:
    """The value of a field, which has the type and the range that the field must have."""
    if name == "mtp_hidden_state":
        if value not in (PRE_NORM, POST_NORM):
            raise CheckpointError(f"config.json: {name} {value!r:.60} found, {PRE_NORM} or {POST_NORM} expected")
        return str(value)
    if value is None and name in _NULL:
        return _NULL[name]
    least, most = _RANGES[name]
    if name == "eos_token_id" and isinstance(value, list):
        return tuple(int(_number(name, each, least, most)) for each in value)
    return _number(name, value, least, most)


def _number(name: str, value: Any, least: float, most: float) -> float:
    """A number in a range, which is a whole one when the range's ends are."""
    kinds = (int, float) if isinstance(least, float) else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        whole = "a number" if float in kinds else "a whole number"
        raise CheckpointError(f"config.json: {name} {value!r:.60} found, {whole} from {least:g} to {most:g} expected")
    return float(value) if float in kinds else value


MIMO_7B = MimoConfig(
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151680,
    max_position_embeddings=32768,
    rope_theta=640000.0,
    rms_norm_eps=1e-5,
    num_nextn_predict_layers=1,
    bos_token_id=151643,
    eos_token_id=151645,
)
"""The post-trained MiMo-7B (SFT, RL-Zero, RL)."""
