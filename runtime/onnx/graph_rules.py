"""What the operators of MiMo's graphs give for what they read: the rules behind ``graph_check``.

Shapes: B batch, T new tokens, L tokens that get logits, K key/value heads, D head_dim.
Operators: https://github.com/microsoft/onnxruntime/blob/v1.22.0/docs/ContribOperators.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from mimo_mobile.graph_file import Declared, GraphFile, Node, Tensor
from mimo_mobile.layout import MOST_TOKENS
from mimo_mobile.untrusted import printable

MOST_WIDTH, MOST_HEADS, MOST_HEAD_DIM = 1 << 16, 1024, 512
"""The widest row between two layers, the most heads, and their largest size. MiMo-7B has 22,016, 32 and 128."""

MOST_VOCABULARY, LARGEST_BLOCK = 1 << 20, 256

FLOATS = {"FLOAT": 1, "FLOAT16": 10}
"""What activations may be, with ONNX's number for it."""

KV_TYPES, MS = (*FLOATS, "INT8"), "com.microsoft."


@dataclass(frozen=True, slots=True)
class Value:
    """What a node gives.

    Attributes:
        kind: ``rows`` [B, T, width], ``last`` [B, L, width] and other kinds of values in MiMo's graphs.
        type: The data type.
        sizes: The dimensions that are numbers.
    """

    kind: str
    type: str
    sizes: tuple[int, ...] = ()


@dataclass(slots=True)
class Facts:
    """What a graph turned out to be.

    Attributes:
        hidden_size: Width of its hidden states.
        logits_size: How many tokens get logits.
        vocabulary: How many tokens have a row in the embedding.
        positions: For how many positions there are angles.
        layers: (K, D) of each layer.
        drafts: The tokens that it scores, when it names them.
    """

    hidden_size: int = 0
    logits_size: int = 0
    vocabulary: int = 0
    positions: int = MOST_TOKENS
    layers: list[tuple[int, int]] = field(default_factory=list)
    drafts: tuple[int, ...] = ()


def shown(node: Node) -> str:
    """A node in words."""
    return f"{printable(node.op):.60} (node {printable(node.name):.60})"


class Rules:
    """Goes through a graph once, node by node."""

    def __init__(self, graph: GraphFile) -> None:
        self._graph, self._facts, self._node = graph, Facts(), Node("", (), (), {})
        self._values: dict[str, Value] = {}
        self._rules: dict[str, Callable[[], Value | tuple[Value | None, ...]]] = {
            "ReduceSum": self._reduce_sum, "Sub": self._sub, "Shape": self._shape, "Gather": self._gather,
            f"{MS}GatherBlockQuantized": self._gather_blocks, "Cast": self._cast,
            "SimplifiedLayerNormalization": self._norm, f"{MS}SkipSimplifiedLayerNormalization": self._skip_norm,
            "MatMul": self._matmul, f"{MS}MatMulNBits": self._matmul_blocks, "Add": self._add, "Concat": self._concat,
            f"{MS}GroupQueryAttention": self._attention, "Split": self._split, "Sigmoid": self._sigmoid,
            "Mul": self._mul, "Slice": self._slice, "Identity": self._identity,
        }  # fmt: skip

    def facts(self) -> Facts:
        """What the graph is; a ValueError says where it is something else."""
        graph = self._graph
        if graph.others:
            raise ValueError(f"{graph.others[0]} found")
        for name, declared in graph.inputs.items():
            self._take_input(name, declared)
        for tensor in graph.tensors.values():
            if not tensor.location and (tensor.data is None or len(tensor.data) != tensor.nbytes):
                raise ValueError(f"weight {tensor.name!r:.100} has not the bytes that its shape takes")
        for name, declared in graph.known.items():
            known = graph.tensors.get(name)
            if known is None or (known.type, known.shape) != (declared.type, declared.shape):
                raise ValueError(f"it says of {name!r:.100} what it is not")
        for node in graph.nodes:
            self._node = node
            self._compute()
        for name, declared in graph.outputs.items():
            self._give_output(name, declared)
        for name in graph.inputs:
            if name.startswith("past_key_values.") and name.replace("past_key_values", "present") not in graph.outputs:
                raise ValueError(f"input {name!r:.60} found, but not the output of the same name")
        return self._facts

    def _take_input(self, name: str, declared: Declared) -> None:
        numbers = tuple(size for size in declared.shape if isinstance(size, int))
        tokens = {"input_ids": "ids", "attention_mask": "mask"}
        if name in tokens and declared.type == "INT64" and len(declared.shape) == 2 and numbers in ((), (1,)):
            self._values[name] = Value(tokens[name], "INT64")
        elif name == "hidden_states" and declared.type in FLOATS and len(declared.shape) == 3 and len(numbers) == 1:
            self._values[name] = self._rows(declared.type, numbers[0])
        elif name.startswith("past_key_values.") and declared.type in KV_TYPES and len(declared.shape) == 4:
            if len(numbers) != 2 or not all(isinstance(declared.shape[place], int) for place in (1, 3)):
                raise ValueError(f"input {name!r:.60} of shape {declared.shape} found")
            self._values[name] = Value("past", declared.type, numbers)
        elif name != "logits_start" or name not in self._graph.tensors:
            raise ValueError(f"input {name!r:.60} of type {declared.type} and shape {declared.shape} found")

    def _give_output(self, name: str, declared: Declared) -> None:
        given = self._values.get(name)
        kinds = {"logits": ("last", "rows"), "draft_ids": ("drafts",), "x": ("rows",)}
        kinds |= {each: ("rows",) for each in ("hidden_states", "hidden_states_out")}
        wanted = ("present",) if name.startswith("present.") else kinds.get(name, ())
        numbers = tuple(size for size in declared.shape if isinstance(size, int))
        if given is None or given.kind not in wanted or declared.type != given.type:
            raise ValueError(f"output {name!r:.60} of type {declared.type} found")
        if numbers not in (given.sizes, (1, *given.sizes)) or isinstance(declared.shape[-1], str):
            raise ValueError(f"output {name!r:.60} of shape {declared.shape} found, {given.sizes} expected")
        if name == "logits":
            self._facts.logits_size = given.sizes[0]
        elif given.kind == "rows":
            self._facts.hidden_size = given.sizes[0]
            if self._values.get("hidden_states", given) != given:
                raise ValueError(f"output {name!r:.60} and the input hidden_states differ in size")

    def _compute(self) -> None:
        node = self._node
        if node.op not in self._rules:
            raise ValueError(f"operator {shown(node)} found, which no graph of MiMo has")
        found = self._rules[node.op]()
        results = found if isinstance(found, tuple) else (found,)
        if len(node.outputs) != len(results):
            raise ValueError(f"{shown(node)}: {len(node.outputs)} outputs found")
        for name, value in zip(node.outputs, results, strict=True):
            if (value is None) != (name == "") or name in self._values or name in self._graph.tensors:
                raise ValueError(f"{shown(node)}: output {name!r:.60} found")
            if value is not None:
                self._values[name] = value

    # What a node reads.

    def _fail(self, expected: str) -> ValueError:
        return ValueError(f"{shown(self._node)}: {expected} expected")

    def _inputs(self, count: int) -> None:
        if len(self._node.inputs) != count:
            raise self._fail(f"{count} inputs")

    def _value(self, place: int, *kinds: str) -> Value:
        value = self._values.get(self._node.inputs[place])
        if value is None or value.kind not in kinds:
            raise self._fail(f"{' or '.join(kinds)} as input {place}")
        return value

    def _weight(self, place: int, dimensions: int, *types: str) -> Tensor:
        name = self._node.inputs[place]
        tensor = self._graph.tensors.get(name)
        if tensor is None or name in self._graph.inputs or len(tensor.shape) != dimensions or tensor.type not in types:
            raise self._fail(f"a weight of {dimensions} dimensions and type {' or '.join(types)} as input {place}")
        return tensor

    def _constant(self, place: int, value: int, dimensions: int) -> None:
        tensor = self._weight(place, dimensions, "INT64")
        if tensor.data != struct.pack("<q", value):
            raise self._fail(f"{value} as input {place}")

    def _attributes(self, **expected: int | str | tuple[int, ...] | type[float]) -> None:
        """See that a node's attributes are these: each a value, one of several, or any finite number from 0 on."""
        found = self._node.attributes
        if set(found) != set(expected):
            raise self._fail(f"attributes {', '.join(sorted(expected)) or 'of no kind'}")
        for name, wanted in expected.items():
            value = found[name]
            if wanted is float:
                fits = isinstance(value, float) and 0 <= value < math.inf
            else:
                several = wanted if isinstance(wanted, tuple) else (wanted,)
                fits = not isinstance(value, float) and value in several
            if not fits:
                raise self._fail(f"another {name} than {value!r:.40}")

    def _rows(self, kind: str, width: int, of: str = "rows") -> Value:
        if not 1 <= width <= (MOST_VOCABULARY if of == "last" else MOST_WIDTH):
            raise ValueError(f"rows of {width} numbers found, at most {MOST_WIDTH} expected")
        return Value(of, kind, (width,))

    def _number(self, name: str, least: int, most: int) -> int:
        value = self._node.attributes.get(name)
        if not isinstance(value, int) or not least <= value <= most:
            raise self._fail(f"{name} from {least} to {most}")
        return value

    # What each operator gives.

    def _reduce_sum(self) -> Value:
        self._inputs(2)
        self._attributes(keepdims=0)
        self._value(0, "mask")
        self._constant(1, 1, 1)
        return Value("sum", "INT64")

    def _sub(self) -> Value:
        self._inputs(2)
        self._attributes()
        self._value(0, "sum")
        self._constant(1, 1, 0)
        return Value("lengths", "INT64")

    def _shape(self) -> Value:
        self._inputs(1)
        self._attributes()
        self._value(0, "mask")
        return Value("shape", "INT64")

    def _gather(self) -> Value:
        self._inputs(2)
        self._attributes()
        if self._node.inputs[0] in self._values:
            self._value(0, "shape")
            self._constant(1, 1, 0)
            return Value("total", "INT64")
        table = self._weight(0, 2, *FLOATS, "BFLOAT16")
        return self._embedded(table.shape[0], table.type, table.shape[1])

    def _gather_blocks(self) -> Value:
        self._inputs(3)
        block = self._number("block_size", 16, LARGEST_BLOCK)
        self._attributes(block_size=block, gather_axis=0, quantize_axis=1)
        table, scales = self._weight(0, 2, "INT4"), self._weight(2, 2, *FLOATS)
        if table.shape[1] % block or scales.shape != (table.shape[0], table.shape[1] // block):
            raise self._fail("scales for each block")
        return self._embedded(table.shape[0], scales.type, table.shape[1])

    def _embedded(self, tokens: int, kind: str, width: int) -> Value:
        self._value(1, "ids")
        self._facts.vocabulary = tokens
        return self._rows(kind, width)

    def _cast(self) -> Value:
        self._inputs(1)
        name = self._node.inputs[0]
        if name in self._graph.tensors:
            angles = self._weight(0, 2, *FLOATS)
            value = Value("angles", angles.type, angles.shape)
        else:
            value = self._value(0, "rows", "lengths", "total")
        if value.type == "INT64":
            self._attributes(to=6)
            return Value(value.kind, "INT32")
        self._attributes(to=tuple(FLOATS.values()))
        kind = next(each for each, number in FLOATS.items() if number == self._node.attributes["to"])
        return Value(value.kind, kind, value.sizes)

    def _norm(self) -> Value:
        self._inputs(2)
        self._attributes(epsilon=float, axis=-1, stash_type=1)
        return self._normed(self._value(0, "rows"), 1)

    def _normed(self, rows: Value, place: int) -> Value:
        if self._weight(place, 1, rows.type).shape != rows.sizes:
            raise self._fail(f"{rows.sizes[0]} weights")
        return rows

    def _skip_norm(self) -> tuple[Value | None, ...]:
        self._inputs(3)
        self._attributes(epsilon=float)
        rows = self._value(0, "rows")
        if rows != self._value(1, "rows"):
            raise self._fail("two summands of the same size")
        return self._normed(rows, 2), None, None, rows

    def _matmul(self) -> Value:
        self._inputs(2)
        self._attributes()
        rows = self._value(0, "rows", "last")
        weight = self._weight(1, 2, rows.type)
        if weight.shape[0] != rows.sizes[0]:
            raise self._fail(f"a weight of {rows.sizes[0]} inputs")
        return self._rows(rows.type, weight.shape[1], rows.kind)

    def _matmul_blocks(self) -> Value:
        self._inputs(3)
        rows = self._value(0, "rows", "last")
        outputs, bits = self._number("N", 1, MOST_VOCABULARY), self._number("bits", 4, 8)
        block, width = self._number("block_size", 16, LARGEST_BLOCK), rows.sizes[0]
        self._attributes(K=width, N=outputs, bits=(4, 8), block_size=block, accuracy_level=(1, 2, 3, 4))
        values, scales = self._weight(1, 3, "UINT8"), self._weight(2, 2, rows.type)
        blocks = width // block
        if width % block or values.shape != (outputs, blocks, block * bits // 8) or scales.shape != (outputs, blocks):
            raise self._fail(f"a weight of {width} inputs and {outputs} outputs in blocks of {block}")
        return self._rows(rows.type, outputs, rows.kind)

    def _add(self) -> Value:
        self._inputs(2)
        self._attributes()
        return self._normed(self._value(0, "rows"), 1)

    def _concat(self) -> Value:
        if len(self._node.inputs) not in (2, 3):
            raise self._fail("2 or 3 inputs")
        self._attributes(axis=-1)
        parts = [self._value(place, "rows") for place in range(len(self._node.inputs))]
        if len({part.type for part in parts}) > 1:
            raise self._fail("parts of one type")
        return self._rows(parts[0].type, sum(part.sizes[0] for part in parts))

    def _attention(self) -> tuple[Value | None, ...]:
        node, quantized = self._node, len(self._node.inputs) == 14
        sinks = any(node.inputs[11:12])
        self._inputs(14 if quantized else 12 if sinks else 9)
        heads, kv_heads = self._number("num_heads", 1, MOST_HEADS), self._number("kv_num_heads", 1, MOST_HEADS)
        more: dict[str, int | str] = {"smooth_softmax": 1} if sinks else {}
        if quantized:
            more |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        more |= {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 1, "rotary_interleaved": 0}
        self._attributes(scale=float, **more)
        if any(node.inputs[1:3]) or any(node.inputs[9:11]):
            raise self._fail("queries, keys and values in one")
        if [name.replace("past_key_values", "present") for name in node.inputs[3:5]] != list(node.outputs[1:]):
            raise self._fail("a KV cache that is extended in place")
        rows, key, value = self._value(0, "rows"), self._value(3, "past"), self._value(4, "past")
        size = key.sizes[1]
        if key != value or key.sizes[0] != kv_heads or not 1 <= size <= MOST_HEAD_DIM or size % 8 or heads % kv_heads:
            raise self._fail(f"a KV cache of {kv_heads} heads")
        if rows.sizes[0] != (heads + 2 * kv_heads) * size:
            raise self._fail(f"rows of {(heads + 2 * kv_heads) * size} numbers")
        if key.type != ("INT8" if quantized else rows.type):
            raise self._fail("a KV cache of the type of attention")
        if self._value(5, "lengths").type != "INT32" or self._value(6, "total").type != "INT32":
            raise self._fail("32-bit lengths")
        for place in (7, 8):
            cast = self._values.get(node.inputs[place])
            shape = cast.sizes if cast and cast.kind == "angles" else self._weight(place, 2, rows.type).shape
            if shape[1] != size // 2 or (cast or rows).type != rows.type:
                raise self._fail(f"angles for heads of {size}")
            self._facts.positions = min(self._facts.positions, shape[0])
        if sinks and self._weight(11, 1, rows.type).shape != (heads,):
            raise self._fail(f"{heads} sinks")
        for place in (12, 13) if quantized else ():
            if self._weight(place, 1, "FLOAT").shape != (kv_heads * size,):
                raise self._fail(f"{kv_heads * size} scales")
        self._facts.layers.append((kv_heads, size))
        present = Value("present", key.type, key.sizes)
        return self._rows(rows.type, heads * size), present, present

    def _split(self) -> tuple[Value | None, ...]:
        self._inputs(1)
        self._attributes(axis=-1, num_outputs=2)
        rows = self._value(0, "rows")
        if rows.sizes[0] % 2:
            raise self._fail("two halves")
        return (self._rows(rows.type, rows.sizes[0] // 2),) * 2

    def _sigmoid(self) -> Value:
        self._inputs(1)
        self._attributes()
        return self._value(0, "rows")

    def _mul(self) -> Value:
        self._inputs(2)
        self._attributes()
        if self._value(0, "rows") != self._value(1, "rows"):
            raise self._fail("two factors of the same size")
        return self._value(0, "rows")

    def _slice(self) -> Value:
        self._inputs(4)
        self._attributes()
        rows = self._value(0, "rows")
        start = self._graph.tensors.get("logits_start")
        if self._node.inputs[1] != "logits_start" or start is None or (start.type, start.shape) != ("INT64", (1,)):
            raise self._fail("logits_start as input 1")
        self._constant(2, (1 << 63) - 1, 1)
        self._constant(3, 1, 1)
        return Value("last", rows.type, rows.sizes)

    def _identity(self) -> Value:
        self._inputs(1)
        self._attributes()
        tokens = self._weight(0, 1, "INT64")
        if tokens.data is None or len(tokens.data) > 8 * MOST_VOCABULARY:
            raise self._fail("the tokens that may be drafted, in the graph itself")
        self._facts.drafts = tuple(each for (each,) in struct.iter_unpack("<q", tokens.data))
        return Value("drafts", "INT64", tokens.shape)
