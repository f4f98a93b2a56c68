"""Checkpoint folders that lie, harm or are no checkpoints: each kind that was ever tried on us, made from a tiny one.

``cases`` makes them; that each ends in a CheckpointError, or in a file, is what tests/convert/test_hostile.py sees to.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile_shards import HEADERS, SHARDS
from tests.tiny import write_tiny_checkpoint

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"

NUMBERS = {
    "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 352, "max_position_embeddings": 512,
    "rope_theta": 640000.0, "rms_norm_eps": 1e-5, "num_nextn_predict_layers": 1, "bos_token_id": 320,
    "eos_token_id": 322,
}  # fmt: skip
"""The numbers of the tiny checkpoint's config.json."""

NO_NUMBERS = {
    "NaN": "NaN", "Infinity": "Infinity", "1e400": "1e400", "1e300": "1e300", "10**400": "1" + "0" * 400,
    "10**5000": "1" + "0" * 5000, "subnormal": "5e-324", "-1": "-1", "half": "1.5e18", "2**63": str(2**63),
    "10**9": "1000000000", "true": "true", "text": '"64"', "list": "[64]", "object": "{}",
}  # fmt: skip
"""What stands in a number's place, as it is written in the file."""

FILES = (
    CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX, FIRST, "chat_template.jinja",
    "chat_template.json", "additional_chat_templates/default.jinja", "heldout.jsonl", "draft_vocabulary.json",
    "vocab.json", "merges.txt", "README.md",
)  # fmt: skip
"""The files of a checkpoint that anything of ours reads."""


def base(folder: Path) -> Path:
    """A small whole checkpoint, which the cases share files with."""
    return write_tiny_checkpoint(folder, layers=1, hidden=128, ffn=64)


def put(folder: Path, name: str, content: bytes | str) -> None:
    """Replace a file of a case, whose old content other cases share."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every case by its name; its folder is made when its turn comes, and may be removed afterwards."""
    whole = base(folder / "whole")
    for number, (name, change) in enumerate(_changes().items()):
        case = folder / f"case-{number}"
        case.mkdir()
        for path in whole.iterdir():
            os.link(path, case / path.name)
        change(case)
        yield name, case


Change = Callable[[Path], Any]


def _changes() -> dict[str, Change]:
    made: dict[str, Change] = {}
    for field in NUMBERS:
        for name, text in NO_NUMBERS.items():
            made[f"config: {field} {name}"] = _config_text(field, text)
    made |= {f"config: {name}": _config(**fields) for name, fields in _CONFIGS.items()}
    for file in (CONFIG, INDEX, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "heldout.jsonl"):
        texts = _TEXTS | _LARGE_TEXTS if file in (CONFIG, INDEX) else _TEXTS
        made |= {f"{file}: {name}": _content(file, content) for name, content in texts.items()}
    for file in FILES:
        made |= {f"{file} is {name}": _special(file, make) for name, make in SPECIAL.items()}
    made |= {f"header: {name}": _header(change) for name, change in HEADERS.items()}
    made |= {f"shard: {name}": _bytes(FIRST, change) for name, change in SHARDS.items()}
    made |= {f"index: {name}": _index(change) for name, change in _INDICES.items()}
    for name, bits in {"NaN": 0x7FC0, "-NaN": 0xFFC1, "inf": 0x7F80, "-inf": 0xFF80, "1e38": 0x7E96}.items():
        for place in ("first", "last"):
            made[f"weights: {name} {place}"] = _weight(bits, place)
    made |= {f"vocabulary: {name}": _tokenizer(change) for name, change in _VOCABULARIES.items()}
    made |= {f"special tokens: {name}": _content("generation_config.json", text) for name, text in _STOPS.items()}
    made |= {f"template: {name}": change for name, change in _TEMPLATES.items()}
    return made


def flipped(content: bytes, random: random.Random, most: int) -> bytes:
    """The same bytes with a few of the first ``most`` ones altered, removed or doubled."""
    made = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        place, how = random.randrange(min(most, len(made))), random.randrange(4)
        if how == 0:
            made[place] ^= 1 << random.randrange(8)
        elif how == 1:
            made[place] = random.choice(b'0123456789"[]{},:-+.eE\\ntf\x00\xff')
        elif how == 2:
            del made[place]
        else:
            made.insert(place, made[place])
    return bytes(made)


def _config_text(field: str, text: str) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | {field: "@"}
        put(folder, CONFIG, json.dumps(config).replace('"@"', text))

    return change


def _config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        put(folder, CONFIG, json.dumps(json.loads((folder / CONFIG).read_text()) | fields))

    return change


_CONFIGS: dict[str, dict[str, Any]] = {
    "odd head_dim": {"head_dim": 63},
    "odd head_dim with its hidden_size": {"head_dim": 63, "hidden_size": 126},
    "head_dim of one": {"head_dim": 1, "num_attention_heads": 128},
    "head_dim of 8": {"head_dim": 8, "num_attention_heads": 16},
    "odd head_dim by division": {"head_dim": None, "hidden_size": 129, "num_attention_heads": 3},
    "head_dim with a remainder": {"head_dim": None, "num_attention_heads": 7},
    "more heads than hidden": {"head_dim": None, "num_attention_heads": 256},
    "heads that do not divide": {"num_attention_heads": 3},
    "kv heads that do not divide": {"num_key_value_heads": 3},
    "more kv heads than heads": {"num_key_value_heads": 8},
    "heads that do not fit the tensors": {"num_attention_heads": 4, "hidden_size": 256},
    "no architectures": {"architectures": None},
    "architectures a number": {"architectures": 5},
    "architectures a text": {"architectures": "xMiMoForCausalLMx"},
    "architectures an object": {"architectures": {"MiMoForCausalLM": 1}},
    "architectures of lists": {"architectures": [["MiMoForCausalLM"]]},
    "model_type a list": {"model_type": ["mimo"]},
    "rope_scaling a number": {"rope_scaling": 5},
    "rope_scaling a list": {"rope_scaling": [1, 2]},
    "rope_scaling yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 1e300}},
    "rope_scaling huge": {"rope_scaling": {"x" * 1000: "y" * 100_000}},
    "rope_scaling NaN theta": {"rope_scaling": {"rope_theta": "NaN"}},
    "two rope_thetas": {"rope_parameters": {"rope_theta": 10000}},
    "layer_types a number": {"layer_types": 5},
    "layer_types controls": {"layer_types": ["\x1b[2J\x1b]0;title\x07"]},
    "layer_types of lists": {"layer_types": [["full_attention"]]},
    "quantization_config": {"quantization_config": {"bits": 4}},
    "attention_bias a number": {"attention_bias": 1},
    "use_mrope null": {"use_mrope": None},
    "hidden_act gelu": {"hidden_act": "gelu"},
    "mtp_hidden_state a list": {"mtp_hidden_state": ["pre_norm"]},
    "eos_token_id of texts": {"eos_token_id": ["a"]},
    "eos_token_id of lists": {"eos_token_id": [[1]]},
    "eos_token_id beyond": {"eos_token_id": [322, 100_000]},
    "eos_token_id many": {"eos_token_id": [322] * 100_000},
    "tied embeddings": {"tie_word_embeddings": True},
}

_TEXTS: dict[str, bytes | str] = {
    "empty": "",
    "nothing but NUL": bytes(100),
    "a number": "5",
    "a list": "[]",
    "null": "null",
    "half": '{"a": ',
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": '{"a":' + "[" * 5000 + "]" * 5000 + "}",
    "a key twice": '{"a": 1, "a": 2}',
    "half a surrogate pair": '{"a": "\\ud800"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "Latin-1": '{"a": "é"}'.encode("latin-1"),
    "digits": '{"a": ' + "9" * 1_000_000 + "}",
}

_LARGE_TEXTS = {
    "many values": '{"a": [' + "0," * 3_000_000 + "0]}",
    "long": '{"a": "' + "x" * 33_000_000 + '"}',
}


def _content(file: str, content: bytes | str) -> Change:
    return lambda folder: put(folder, file, content)


def _special(file: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        make(path)

    return change


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "a pipe": os.mkfifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a socket": _socket,
}


def _bytes(file: str, change: Callable[[bytes], bytes]) -> Change:
    return lambda folder: put(folder, file, change((folder / file).read_bytes()))


def _header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Alter the header of a shard; what ``change`` returns, if anything, is written in its place."""

    def altered(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        made = change(header)
        encoded = made if isinstance(made, bytes) else json.dumps(header if made is None else made).encode()
        return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]

    return _bytes(FIRST, altered)


def _index(change: Callable[[dict[str, Any]], Any]) -> Change:
    def altered(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        made = change(index["weight_map"])
        put(folder, INDEX, json.dumps(index if made is None else made))

    return altered


def _all_in(shard: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda weight_map: weight_map.update(dict.fromkeys(weight_map, shard))


_INDICES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no map": lambda _: {},
    "the map a list": lambda _: {"weight_map": [FIRST]},
    "the map empty": lambda _: {"weight_map": {}},
    "numbers": _all_in(5),
    "lists": _all_in([FIRST]),
    "a folder above": _all_in("../whole/" + FIRST),
    "an absolute path": _all_in("/dev/zero.safetensors"),
    "another file": _all_in("config.json"),
    "a name with NUL": _all_in("a\0.safetensors"),
    "a name with controls": _all_in("\x1b[2J.safetensors"),
    "a long name": _all_in("x" * 5000 + ".safetensors"),
    "no name": _all_in(".safetensors"),
    "dots": _all_in("..safetensors"),
    "a shard too few": _all_in(FIRST),
    "many shards": lambda weight_map: weight_map.update({f"x{i}": f"{i}.safetensors" for i in range(100_000)}),
    "a tensor with controls": lambda weight_map: weight_map.update({"\x1b[2J": FIRST}),
    "a tensor less": lambda weight_map: weight_map.pop("lm_head.weight"),
}


def _weight(bits: int, place: str) -> Change:
    """Write one weight of the first or the last tensor of a shard."""

    def altered(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        data = np.frombuffer(content[8 + length :], np.uint16).copy()
        data[0 if place == "first" else -1] = bits
        return content[: 8 + length] + data.tobytes()

    return _bytes(FIRST if place == "first" else SECOND, altered)


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Change:
    def altered(folder: Path) -> None:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        change(tokenizer)
        put(folder, "tokenizer.json", json.dumps(tokenizer))

    return altered


_VOCABULARIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "an id of 10**400": lambda t: t["model"]["vocab"].update(a=10**400),
    "an id of 2**24": lambda t: t["model"]["vocab"].update(a=2**24),
    "an id below 0": lambda t: t["model"]["vocab"].update(a=-1),
    "an id a text": lambda t: t["model"]["vocab"].update(a="1"),
    "an id a boolean": lambda t: t["model"]["vocab"].update(a=True),
    "no tokens": lambda t: t["model"].update(vocab={}),
    "tokens a list": lambda t: t["model"].update(vocab=["a"]),
    "model a list": lambda t: t.update(model=[]),
    "merges numbers": lambda t: t["model"].update(merges=[1, 2]),
    "merges of three": lambda t: t["model"].update(merges=[["a", "b", "c"]]),
    "a long merge": lambda t: t["model"].update(merges=["x" * 1_000_000]),
    "merges an object": lambda t: t["model"].update(merges={"a": "b"}),
    "added an object": lambda t: t.update(added_tokens={}),
    "added null": lambda t: t.update(added_tokens=None),
    "added without content": lambda t: t["added_tokens"][0].pop("content"),
    "added an empty token": lambda t: t["added_tokens"][0].update(content=""),
    "added with controls": lambda t: t["added_tokens"][0].update(content="\x1b[2J", lstrip=True),
    "added id beyond": lambda t: t["added_tokens"][0].update(id=10**30),
    "added id a fraction": lambda t: t["added_tokens"][0].update(id=1.5),
    "type a list": lambda t: t["model"].update(type=["BPE"] * 10_000),
}

_STOPS = {
    name: json.dumps({"eos_token_id": value})
    for name, value in {
        "a text": "a", "an object": {}, "a list of objects": [{}], "beyond": 10**30, "below 0": -1, "a fraction": 1.5,
        "true": True, "many": ["a"] * 100_000,
    }.items()
}  # fmt: skip

_TEMPLATES: dict[str, Change] = {
    "a number": _content("chat_template.json", '{"chat_template": 5}'),
    "of numbers": _content("chat_template.json", '{"chat_template": [{"name": 5, "template": 5}]}'),
    "of objects": _content("chat_template.json", '{"chat_template": {"default": {}}}'),
    "with names that steer": _content("chat_template.json", '{"chat_template": {"\\u001b[2J": "a", "b": "c"}}'),
    "no UTF-8": _content("chat_template.jinja", b"\xff\xfe"),
    "long": _content("chat_template.jinja", "x" * 33_000_000),
}
