"""GGUF files that are damaged or lie, each made of a good one: what reader, check and probe must withstand."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import gguf

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from tests.gguf_parts import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Change,
    File,
    add,
    array,
    drop,
    lose,
    more,
    number,
    put,
    string,
    strings,
    tensor,
    text,
    whole,
)  # fmt: skip
from tests.tiny import write_tiny_checkpoint

NAN, INFINITY = float("nan"), float("inf")


def _container() -> dict[str, Change]:
    """Lies of the header, which any GGUF file can tell."""
    made: dict[str, Change] = {
        f"magic {value!r}": whole(magic=value) for value in (b"GGML", b"FUGG", b"\0\0\0\0", b"GGUf")
    }
    made |= {f"version {value}": whole(version=value) for value in (0, 1, 4, 3 << 24, 2**32 - 1)}
    for count in (-1, 0, 3, 2**31, 2**40, 2**62, 2**63):
        made[f"{count} tensors"] = whole(promised_tensors=count)
        made[f"{count} keys"] = whole(promised_keys=count)
    for kind in (U8, I32, F32, STRING, BOOL, F64, ARRAY):
        for power in (31, 33, 40, 62, 63):
            made[f"array of 2^{power} of type {kind}"] = put("x", array(kind, 2**power))
    made |= {f"value of type {kind}": put("x", struct.pack("<I", kind)) for kind in (13, 99, 2**32 - 1)}
    made |= {f"array of type {kind}": put("x", array(kind, 1, bytes(64))) for kind in (13, 99, 2**32 - 1)}
    made["array of arrays"] = put("x", array(ARRAY, 1, array(U8, 1, b"\0")[4:]))
    made["deep arrays"] = put("x", struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 5000)
    made["3 million strings"] = put("x", array(STRING, 3_000_000, bytes(8 * 3_000_000)))
    made["3 million numbers"] = put("x", array(U8, 3_000_000, bytes(3_000_000)))
    made["a truth value of 7"] = put("x", struct.pack("<IB", BOOL, 7))
    made["no UTF-8"] = put("x", string(b"\xff\xfe"))
    for size in (2**30 + 1, 2**40, 2**62, 2**64 - 1):
        made[f"text of {size} bytes"] = put("x", struct.pack("<IQ", STRING, size))
        made[f"key of {size} bytes"] = more(struct.pack("<Q", size))
    made["no key"] = put("", number(U8, 1))
    made["key twice"] = more(text("general.name") + string("again"))
    made |= {
        f"alignment {value}": put("general.alignment", number(U32, value))
        for value in (0, 1, 2, 3, 8, 13, 16, 31, 33, 2**31)
    }
    made["alignment is a text"] = put("general.alignment", string("32"))
    made["alignment is an int32"] = put("general.alignment", number(I32, 32))
    made["alignment is an uint64"] = put("general.alignment", number(U64, 32))
    made |= {f"cut by {size} bytes": whole(short=size) for size in (1, 32, 5000, 100_000)}
    return made


def _tensors() -> dict[str, Change]:
    """Tensors that are not as the container wants them, or not as the model does."""
    name = "blk.0.attn_q.weight"
    made: dict[str, Change] = {
        f"{count} dimensions": tensor(name, dimensions=count) for count in (0, 1, 3, 4, 5, 2**31, 2**32 - 1)
    }
    for ne in (
        (0, 256), (256, 0), (-1, 256), (2**62, 2), (2**32, 2**32), (2**63 - 1, 1), (4, 2**30 - 1, 2**30 + 1),
        (256, 255), (255, 256), (128, 512), (512, 128), (256, 256, 1), (256, 256, 2), (256,), (65536,), (1, 65536),
    ):  # fmt: skip
        made[f"attn_q of {ne}"] = tensor(name, ne=ne)
    made |= {f"weights of type {kind}": tensor(name, kind=kind) for kind in (4, 5, 31, 36, 43, 99, -1, 2**31)}
    for kind in ("F64", "I8", "I16", "I32", "I64", "Q8_K", "Q8_1", "NVFP4"):
        number_of = int(gguf.GGMLQuantizationType[kind])
        for target in ("token_embd.weight", "output.weight", name, "blk.1.ffn_down.weight"):
            made[f"{target} in {kind}"] = tensor(target, kind=number_of)
    for kind in ("F64", "I32", "I8", "F16", "BF16", "Q8_0", "Q4_0"):
        number_of = int(gguf.GGMLQuantizationType[kind])
        for target in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.1.ffn_norm.weight", "blk.0.attn_k.bias"):
            made[f"{target} in {kind}"] = tensor(target, kind=number_of)
    for target in (
        "token_embd.weight", "output.weight", "output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_v.bias",
        "blk.0.ffn_up.weight", "blk.1.attn_output.weight",
    ):  # fmt: skip
        made[f"no {target}"] = lose(target)
    for target, ne in {
        "token_embd.weight": (256, 351), "output.weight": (256, 353), "output_norm.weight": (255,),
        "blk.0.attn_k.weight": (256, 256), "blk.0.attn_k.bias": (127,), "blk.1.ffn_down.weight": (256, 512),
        "blk.0.attn_norm.weight": (512,), "blk.1.attn_output.weight": (256, 128),
    }.items():  # fmt: skip
        made[f"{target} of {ne}"] = tensor(target, ne=ne)
    for extra, ne in {
        "rope_freqs.weight": (32,), "blk.0.attn_q_norm.weight": (64,), "blk.0.ffn_gate_inp.weight": (256, 8),
        "blk.9.attn_norm.weight": (256,), "blk.0.attn_q.scale": (1,), "output.bias": (352,), "cls.weight": (256, 2),
        "blk.0.attn_qkv.weight": (256, 512), "x" * 63: (1,), "blk.99999999999.x": (1,), "a\nb\x1b[31m": (1,),
    }.items():  # fmt: skip
        made[f"also {extra!r:.30}"] = add(extra, ne)
    made |= {f"name of {len(each)} bytes": tensor(name, name=each) for each in (b"", b"x" * 64, b"x" * 100_000)}
    made["name no UTF-8"] = tensor(name, name=b"blk.0.\xff")
    made["tensor twice"] = tensor("blk.0.attn_k.weight", name=b"blk.1.attn_k.weight")
    made |= {f"offset {value}": tensor(name, offset=value) for value in (-1, 0, 1, 2**32, 2**62, 2**63, 2**64 - 32)}
    made["tensors in another order"] = lambda file: [
        setattr(each, "offset", offset) for each, offset in zip(file.tensors, (32 * 11264, 0), strict=False)
    ]
    return made


def _numbers() -> dict[str, Change]:
    """Numbers of the metadata that a trunk cannot have."""
    counts = {
        ".block_count": (0, 1, 3, 512, 513, 600, 2**31, 2**32 - 1),
        ".embedding_length": (0, 1, 255, 512, 2**31),
        ".feed_forward_length": (0, 1, 511, 1024, 2**31, 2**32 - 1),
        ".context_length": (0, 2**31, 2**32 - 1),
        ".attention.head_count": (0, 1, 3, 5, 8, 256, 4096, 2**31),
        ".attention.head_count_kv": (0, 1, 3, 4, 8, 256, 4096, 2**31),
        ".attention.key_length": (0, 1, 2, 32, 63, 65, 128, 2**31),
        ".attention.value_length": (0, 1, 2, 32, 63, 65, 128, 2**31),
        ".rope.dimension_count": (0, 1, 2, 32, 63, 65, 2**31),
        ".expert_count": (1, 8, 2**31), ".expert_used_count": (1, 2**31), ".pooling_type": (3, 99),
        ".expert_group_count": (2,), ".nextn_predict_layers": (2, 3, 9, 2**31), ".embedding_length_out": (1,),
        ".attention.key_length_swa": (1,), ".attention.sliding_window": (0, 1, 16),
        ".rope.dimension_count_swa": (0, 63),
    }  # fmt: skip
    made = {f"{key} {value}": put(key, number(U32, value)) for key, values in counts.items() for value in values}
    reals = (NAN, INFINITY, -INFINITY, 0.0, -0.0, -1.0, 1e-45, 3e38)
    for key in (".attention.layer_norm_rms_epsilon", ".rope.freq_base", ".rope.scaling.factor", ".rope.scale_linear"):
        made |= {f"{key} {value}": put(key, number(F32, value)) for value in reals}
    for key in (".rope.scaling.attn_factor", ".rope.scaling.yarn_beta_fast", ".rope.scaling.yarn_ext_factor"):
        made |= {f"{key} {value}": put(key, number(F32, value)) for value in (NAN, INFINITY, -INFINITY, 3e38)}
    for scaling in ("", "garbage", "longrope", "NONE", "x" * 100_000, "\x1b[31m"):
        made[f".rope.scaling.type {scaling!r:.20}"] = put(".rope.scaling.type", string(scaling))
    for key in (".block_count", ".embedding_length", ".attention.head_count_kv", ".context_length", ".rope.freq_base"):
        made[f"no {key}"] = drop(key)
        for name, value in {
            "text": string("4"), "int32": number(I32, 4), "uint64": number(U64, 4), "float64": number(F64, 4.0),
            "truth": number(BOOL, 1), "array": array(U32, 2, bytes(8)),
        }.items():  # fmt: skip
            made[f"{key} is {name}"] = put(key, value)
    for name in ("", "llama", "qwen2 ", "qwen3", "Qwen2", "qwen2\0", "x" * 100_000, "\x1b[2J", "bert", "step35"):
        made[f"architecture {name!r:.20}"] = put("general.architecture", string(name))
    made["architecture is a number"] = put("general.architecture", number(U32, 2))
    made["no architecture"] = drop("general.architecture")
    made["an adapter"] = put("general.type", string("adapter"))
    made["type is a number"] = put("general.type", number(U32, 1))
    made |= {f"part of {count}": put("split.count", number(U16, count)) for count in (2, 65535)}
    made["part of -1"] = put("split.count", number(I32, -1))
    made["not causal"] = put(".attention.causal", number(BOOL, 0))
    made["a key nobody knows"] = put(".attention.clamp_kqv", number(F32, 1.0))
    return made


def _vocabulary() -> dict[str, Change]:
    """Vocabularies that llama.cpp or the tokenizer cannot use."""
    tokens, kinds, merges = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
    many = [f"t{index}" for index in range(352)]
    made: dict[str, Change] = {
        "no tokens": drop(tokens),
        "tokens are numbers": put(tokens, array(I32, 352, bytes(4 * 352))),
        "tokens are one text": put(tokens, string("abc")),
        "empty vocabulary": put(tokens, strings([])),
        "one token too few": put(tokens, strings(many[1:])),
        "one token too many": put(tokens, strings([*many, "x"])),
        "a token twice": put(tokens, strings([*many[1:], "t5"])),
        "all tokens empty": put(tokens, strings([""] * 352)),
        "a token like an empty one": put(tokens, strings(["[EMPTY_1]", "", *many[2:]])),
        "tokens not UTF-8": put(tokens, array(STRING, 352, b"".join(text(bytes([255, i % 256])) for i in range(352)))),
        "a token of 10 MB": put(tokens, strings(["x" * 10**7, *many[1:]])),
        "a merge of 10 MB": put(merges, strings(["x" * 10**7 + " y"])),
        "foreign tokens": put(tokens, strings(["日本" + each for each in many])),
        "no types": drop(kinds),
        "types are uint32": put(kinds, array(U32, 352, bytes(4 * 352))),
        "types are texts": put(kinds, strings(many)),
        "too few types": put(kinds, array(I32, 351, b"\1\0\0\0" * 351)),
        "too many types": put(kinds, array(I32, 353, b"\1\0\0\0" * 353)),
        "types of 99": put(kinds, array(I32, 352, struct.pack("<i", 99) * 352)),
        "types of -1": put(kinds, array(I32, 352, struct.pack("<i", -1) * 352)),
        "no merges": drop(merges),
        "merges are numbers": put(merges, array(I32, 2, bytes(8))),
        "merges of nothing": put(merges, strings(["", " ", "x", " y", "z "])),
        "too few scores": put("tokenizer.ggml.scores", array(F32, 3, bytes(12))),
        "scores are int8": put("tokenizer.ggml.scores", array(I8, 352, bytes(352))),
        "template is a number": put("tokenizer.chat_template", number(U32, 1)),
        "template is a list": put("tokenizer.chat_template", strings(["a", "b"])),
        "template of 5 MB": put("tokenizer.chat_template", string("x" * 5_000_000)),
        "model bert": put("tokenizer.ggml.model", string("bert")),
        "model is a number": put("tokenizer.ggml.model", number(U32, 1)),
        "no model": drop("tokenizer.ggml.model"),
        "pre llama": put("tokenizer.ggml.pre", string("llama-bpe")),
        "add_bos is a number": put("tokenizer.ggml.add_bos_token", number(U32, 1)),
    }
    for key in ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre"):
        made[f"{key} 352"] = put(f"tokenizer.ggml.{key}_token_id", number(U32, 352))
        made[f"{key} 2^32 - 1"] = put(f"tokenizer.ggml.{key}_token_id", number(U32, 2**32 - 1))
    made["bos is an int32"] = put("tokenizer.ggml.bos_token_id", number(I32, -1))
    made["eos is a text"] = put("tokenizer.ggml.eos_token_id", string("<|endoftext|>"))
    return made


def _mtp() -> dict[str, Change]:
    """What only files with an MTP layer can say; layers 0 and 1 are the trunk's, layer 2 is the MTP layer."""
    pattern = ".attention.sliding_window_pattern"
    counts = {
        ".nextn_predict_layers": (0, 2, 3, 9, 2**31), ".block_count": (0, 1, 2, 4, 600),
        ".rope.dimension_count": (0, 1, 2, 64, 126, 127, 256, 2**31),
        ".rope.dimension_count_swa": (0, 1, 32, 63, 65, 128),
        ".attention.sliding_window": (0, 1, 100, 2**31), ".expert_feed_forward_length": (1, 512, 2**31),
        ".expert_count": (1, 8), ".attention.head_count": (0, 1, 3, 8), ".attention.key_length": (1, 63, 128),
        ".expert_gating_func": (9,), ".expert_shared_feed_forward_length": (4,),
    }  # fmt: skip
    made = {f"{key} {value}": put(key, number(U32, value)) for key, values in counts.items() for value in values}
    made |= {
        f".rope.freq_base_swa {value}": put(".rope.freq_base_swa", number(F32, value)) for value in (NAN, 0.0, 1e4)
    }
    made |= {f"no {key}": drop(key) for key in (pattern, *list(counts)[:6], ".rope.freq_base_swa")}
    made |= {
        "no window": put(pattern, array(BOOL, 3, b"\0\0\0")),
        "windows for two": put(pattern, array(BOOL, 2, b"\1\1")),
        "windows for 600": put(pattern, array(BOOL, 600, b"\1" * 600)),
        "windows are numbers": put(pattern, array(U32, 3, struct.pack("<3I", 1, 0, 1))),
        "windows are one": put(pattern, number(BOOL, 1)),
        "clamps": put(".swiglu_clamp_exp", array(F32, 3, bytes(12))),
        "eh_proj in F64": tensor("blk.2.nextn.eh_proj.weight", kind=28),
        "eh_proj of half": tensor("blk.2.nextn.eh_proj.weight", ne=(256, 256)),
        "enorm in F16": tensor("blk.2.nextn.enorm.weight", kind=1),
        "hnorm of 128": tensor("blk.2.nextn.hnorm.weight", ne=(128,)),
        "a head of its own": add("blk.2.nextn.shared_head_head.weight", (256, 352)),
    }
    for name in ("nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm", "attn_q", "ffn_down"):
        made[f"no {name}"] = lose(f"blk.2.{name}.weight")
    return made


def _good() -> dict[str, Change]:
    """Unusual files that must load: nothing that llama.cpp needs is missing, and nothing changes the computation."""
    return {
        "version 2": whole(version=2),
        "alignment 64": lambda file: (put("general.alignment", number(U32, 64))(file), setattr(file, "alignment", 64)),
        "an imatrix": lambda file: (
            put("quantize.imatrix.file", string("imatrix.gguf"))(file),
            put("quantize.imatrix.entries_count", number(I32, 14))(file),
        ),
        "no head length": lambda file: (drop(".attention.key_length")(file), drop(".attention.value_length")(file)),
        "no rope dimension": drop(".rope.dimension_count"),
        "yarn": lambda file: (
            put(".rope.scaling.type", string("yarn"))(file),
            put(".rope.scaling.factor", number(F32, 4.0))(file),
            put(".rope.scaling.original_context_length", number(U32, 128))(file),
        ),
        "one part": put("split.count", number(U16, 1)),
        "scores": put("tokenizer.ggml.scores", array(F32, 352, bytes(4 * 352))),
        "no template": drop("tokenizer.chat_template"),
        "tags": put("general.tags", strings(["text-generation", "math"])),
        "weights in Q8_0": tensor("blk.0.attn_q.weight", kind=8),
        "weights in Q4_K": tensor("blk.0.ffn_down.weight", kind=12),
        "weights in IQ4_XS": tensor("blk.1.ffn_up.weight", kind=23),
        "weights in BF16": tensor("output.weight", kind=30),
    }  # fmt: skip


class Maker:
    """Makes the files of a tiny checkpoint, whose good ones it converts once."""

    def __init__(self, folder: Path) -> None:
        """Work in ``folder``."""
        self.folder = folder
        self._taken_apart: dict[Path, File] = {}
        self._made = 0
        folder.mkdir(parents=True, exist_ok=True)
        source = Source(write_tiny_checkpoint(folder / "checkpoint"), "tiny")
        self.trunk = convert_checkpoint(source, folder / "trunk.gguf", to="gguf", dtype="f16")[0]
        self.single = convert_checkpoint(source, folder / "one.gguf", to="gguf", dtype="f16", single_file=True)[0]

    def made(self, base: Path, name: str, change: Change) -> tuple[str, Path]:
        """A changed file by its name; the name of the file says nothing, as with real ones."""
        if base not in self._taken_apart:
            self._taken_apart[base] = File.of(base)
        file = copy.deepcopy(self._taken_apart[base])
        change(file)
        self._made += 1
        return name, file.write(self.folder / f"{base.stem}-{self._made}.gguf")

    def bad(self) -> Iterator[tuple[str, Path]]:
        """Files that are no MiMo-7B."""
        yield from self.bad_containers()
        for group in (_tensors, _numbers, _vocabulary):
            for name, change in group().items():
                yield self.made(self.trunk, name, change)
        for name, change in _mtp().items():
            yield self.made(self.single, f"with MTP: {name}", change)

    def bad_containers(self) -> Iterator[tuple[str, Path]]:
        """Those among them that are no GGUF at all."""
        for name, change in _container().items():
            yield self.made(self.trunk, name, change)
        data = self.trunk.read_bytes()
        for size in (0, 3, 4, 8, 23, 24, 100, 5000, 10_000):
            path = self.folder / f"first-{size}.gguf"
            path.write_bytes(data[:size])
            yield f"first {size} bytes", path

    def good(self) -> Iterator[tuple[str, Path]]:
        """Files that must load."""
        for name, change in _good().items():
            yield self.made(self.trunk, name, change)

    def flips(self, count: int, seed: int = 0) -> Iterator[tuple[str, Path]]:
        """Good files with one to four bits of the header flipped."""
        choose = random.Random(seed)
        for number_of in range(count):
            base = choose.choice((self.trunk, self.single))
            header, size = gguf.GGUFReader(base).data_offset, base.stat().st_size
            data = bytearray(base.read_bytes()[:header])
            places = [choose.randrange(8 * header) for _ in range(choose.randint(1, 4))]
            for place in places:
                data[place // 8] ^= 1 << place % 8
            path = self.folder / f"flip-{number_of}.gguf"
            path.write_bytes(data)
            with path.open("ab") as file:
                file.truncate(size)
            yield f"{base.stem}: bits {places}", path


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every bad file, made in a folder one after the other; whoever tries them may remove each."""
    yield from Maker(folder).bad()
