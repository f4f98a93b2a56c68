"""Chat templates and tokenizer.json files that would take all time or memory, crash a library, or forge something.

Each kind is here in several spellings. ``cases`` puts them into model folders that are whole otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.layout import CHAT_TEMPLATE, TOKENIZER
from tests.template_kinds import templates
from tests.tiny import write_tiny_checkpoint

__all__ = ["cases", "templates", "tokenizers"]


def tokenizers(base: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Contents of tokenizer.json that must each be one clear error, made from a good one, by name."""
    whole = json.dumps(base, ensure_ascii=False)
    for name, keys, value in _settings():
        changed = json.loads(whole)
        place = changed
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        yield name, json.dumps(changed, ensure_ascii=False)
    for name, keys in {
        "no model": ["model"], "no normalizer": ["normalizer"], "no pre-tokenizer": ["pre_tokenizer"],
        "no decoder": ["decoder"], "no vocabulary": ["model", "vocab"], "no merges": ["model", "merges"],
        "no added tokens": ["added_tokens"], "no type": ["model", "type"],
        "no pattern": ["pre_tokenizer", "pretokenizers", 0, "pattern"], "no token for a byte": ["model", "vocab", "!"],
        "a token that merges need is missing": ["model", "vocab", base["model"]["merges"][0][0]],
    }.items():  # fmt: skip
        changed = json.loads(whole)
        place = changed
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        yield name, json.dumps(changed, ensure_ascii=False)
    tokens = base["model"]["vocab"] | {f"{index:x}": 500 + index for index in range(1 << 18, 2 << 18)}
    yield "a quarter of a million tokens", json.dumps({**base, "model": {**base["model"], "vocab": tokens}})
    merges = base["model"]["merges"] * (1 + (1 << 18) // len(base["model"]["merges"]))
    yield "a quarter of a million merges", json.dumps({**base, "model": {**base["model"], "merges": merges}})
    yield "nothing", ""
    yield "a list", "[]"
    yield "a number", "7"
    yield "half of it", whole[: len(whole) // 2]
    yield "lists in lists", "[" * 1_000_000
    yield "objects in objects", '{"model":' * 300_000
    yield "NaN", whole.replace('"dropout": null', '"dropout": NaN')
    yield "infinity", whole.replace('"dropout": null', '"dropout": 1e999')
    yield "a dropout of 10**400", whole.replace('"dropout": null', f'"dropout": 1{"0" * 400}')
    yield "the model twice", whole[:-1] + ', "model": {}}'
    yield "half a surrogate pair in a token", whole.replace('"!": 0', r'"\ud800": 0')
    yield "half a surrogate pair in an added token", whole.replace("<|im_start|>", r"\ud800")
    yield "values without number", '{"model": [' + "[]," * 3_000_000 + "[]]}"
    yield "60 MB", whole + " " * 60_000_000


def _settings() -> Iterator[tuple[str, list[Any], Any]]:
    """Names, places and values that do not belong there."""
    space = {"String": " "}
    regex = {"Regex": "(a|aa)+$"}
    normalizers = {
        "Replace": {"pattern": {"String": "a"}, "content": "a" * 100_000},
        "Replace by a pattern": {"pattern": regex, "content": ""},
        "Prepend": {"prepend": "a" * 1_000_000}, "Strip": {"strip_left": True, "strip_right": True}, "Lowercase": {},
        "Precompiled": {"precompiled_charsmap": "AAAA"},
        "Precompiled without end": {"precompiled_charsmap": "/////w==" * 9},
        "NFD": {}, "NFKC": {}, "StripAccents": {}, "Nmt": {}, "ByteLevel": {}, "Unknown": {},
        "BertNormalizer": {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "Sequence": {"normalizers": [{"type": "Replace", "pattern": {"String": ""}, "content": "x" * 999}] * 99},
        "Sequence of NFC": {"normalizers": [{"type": "NFC"}]},
    }  # fmt: skip
    for name, fields in normalizers.items():
        yield f"normalizer {name}", ["normalizer"], {"type": name.split()[0], **fields}
    yield "NFC with more", ["normalizer"], {"type": "NFC", "more": 1}
    yield "normalizer null", ["normalizer"], None
    yield "normalizer a text", ["normalizer"], "NFC"
    steps = ["pre_tokenizer", "pretokenizers"]
    for name, value in {
        "Metaspace": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
        "Whitespace": {"type": "Whitespace"}, "UnicodeScripts": {"type": "UnicodeScripts"},
        "Digits": {"type": "Digits"},
        "Punctuation": {"type": "Punctuation", "behavior": "Isolated"}, "null": None, "a list": [],
        "ByteLevel alone": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "Sequence of none": {"type": "Sequence", "pretokenizers": []},
        "Sequence of Sequences": {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": []}] * 2},
    }.items():  # fmt: skip
        yield f"pre-tokenizer {name}", ["pre_tokenizer"], value
    yield "a pattern without end", [*steps, 0, "pattern"], {"Regex": "(?:(?:(?:a+)+)+)+$"}
    yield "a broken pattern", [*steps, 0, "pattern"], {"Regex": "(((("}
    yield "no object for a pattern", [*steps, 0, "pattern"], "a"
    yield "a text for a pattern", [*steps, 0, "pattern"], space
    yield "the pattern removed", [*steps, 0, "behavior"], "Removed"
    yield "the pattern inverted", [*steps, 0, "invert"], True
    yield "a number for no", [*steps, 0, "invert"], 0
    yield "a blank before", [*steps, 1, "add_prefix_space"], True
    yield "another pattern in it", [*steps, 1, "use_regex"], True
    for name in ("Unigram", "WordPiece", "WordLevel", "bpe", "", None, 7):
        yield f"model {name!r}", ["model", "type"], name
    model: dict[str, Any] = {
        "dropout": 0.5, "unk_token": "!", "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
        "fuse_unk": True,
        "byte_fallback": True, "ignore_merges": True, "cache_capacity": 10**12, "more": [],
    }  # fmt: skip
    for name, value in model.items():
        yield f"model with {name}", ["model", name], value
    for name, value in {
        "a list": [], "nothing": {}, "null": None, "texts for ids": {"!": "0"}, "fractions for ids": {"!": 0.5},
        "truth values for ids": {"!": True},
    }.items():  # fmt: skip
        yield f"vocabulary {name}", ["model", "vocab"], value
    for name, value in {
        "-1": -1, "2**32 - 1": 2**32 - 1, "2**32": 2**32, "2**62": 2**62, "10**30": 10**30, "5": 5, "0.5": 0.5,
    }.items():  # fmt: skip
        yield f"a token with id {name}", ["model", "vocab", "zz"], value
    yield "an empty token", ["model", "vocab", ""], 349
    yield "a token that is not of bytes", ["model", "vocab", "中"], 349
    yield "a token in colours", ["model", "vocab", "\x1b[31m"], 349
    yield "a token of 1 MB", ["model", "vocab", "z" * 1_000_000], 349
    for name, value in {
        "null": None, "an object": {}, "three parts": ["a b c"], "one part": ["ab"], "numbers": [[1, 2]],
        "nothing": [[]],
        "unknown tokens": [["é", "é"]], "empty parts": [["", "!"]], "a list of lists": [[["!"], ["!"]]],
        "null in it": [None],
    }.items():  # fmt: skip
        yield f"merges {name}", ["model", "merges"], value
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for name, value in {
        "without text": {"id": 349, "content": "", **flags}, "without id": {"content": "x", **flags}, "a text": "<x>",
        "with a large id": {"id": 2**32 - 1, "content": "<x>", **flags}, "below zero": {"id": -1,
        "content": "<x>", **flags},
        "with a text for an id": {"id": "7", "content": "<x>", **flags}, "of 1 MB": {"id": 349,
        "content": "x" * 10**6, **flags},
        "with a number for a flag": {"id": 349, "content": "<x>", **flags, "lstrip": 1},
        "with more": {"id": 349, "content": "<x>", **flags, "more": True}, "of another id": {"id": 349,
        "content": "!", **flags},
        "with a learnt id": {"id": 5, "content": "<x>", **flags}, "a number": 7,
    }.items():  # fmt: skip
        yield f"an added token {name}", ["added_tokens", 3], value
    yield "added tokens null", ["added_tokens"], None
    yield "an added token twice", ["added_tokens", 3], {"id": 320, "content": "<|endoftext|>", **flags}
    yield "stop tokens missing", ["added_tokens"], []
    yield (
        "a million added tokens",
        ["added_tokens"],
        [{"id": 400 + index, "content": f"<{index}>"} for index in range(300_000)],
    )
    for name in ("truncation", "padding"):
        yield f"{name} to 1e8", [name], {
            "strategy": {"Fixed": 10**8} if name == "padding" else "LongestFirst", "direction": "Right",
            "max_length": 10**8,
            "stride": 0, "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
        }  # fmt: skip
        yield f"{name} true", [name], True
    special = {"<x>": {"id": "<x>", "ids": [1] * 99_999, "tokens": ["<x>"] * 99_999}}
    for name, value in {
        "TemplateProcessing": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>",
        "type_id": 0}}], "pair": [],
                               "special_tokens": special},
        "BertProcessing": {"type": "BertProcessing", "sep": ["!", 0], "cls": ["!", 0]}, "a text": "ByteLevel",
    }.items():  # fmt: skip
        yield f"post-processor {name}", ["post_processor"], value
    for name, value in {
        "Replace": {"type": "Replace", "pattern": space, "content": "x" * 10**6}, "Fuse": {"type": "Fuse"},
        "null": None,
        "Strip": {"type": "Strip", "content": "a", "start": 2**63, "stop": 2**63}, "WordPiece": {"type": "WordPiece"},
    }.items():  # fmt: skip
        yield f"decoder {name}", ["decoder"], value
    yield "a setting of another time", ["chat_template"], "x"
    yield "another version", ["version"], "9.0"
    yield "a setting in colours", ["\x1b[31m"], 1


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Models that are whole but for a hostile template or tokenizer, by name; each is there until the next."""
    checkpoint = write_tiny_checkpoint(folder / "checkpoint")
    whole = convert_checkpoint(Source(checkpoint, "tiny"), folder / "tiny-onnx", to="onnx")[0]
    base = json.loads((whole / TOKENIZER).read_text(encoding="utf-8"))
    files = [(CHAT_TEMPLATE, *each) for each in templates()] + [(TOKENIZER, *each) for each in tokenizers(base)]
    for file, name, content in files:
        made = shutil.copytree(whole, folder / "hostile-onnx", copy_function=_link)
        (made / file).unlink(missing_ok=True)
        (made / file).write_bytes(content.encode("utf-8", "surrogatepass"))
        yield f"{file}: {name}", made
        shutil.rmtree(made)
    for name, content in list(templates())[::20]:  # what differs is how a GGUF file carries them
        (checkpoint / CHAT_TEMPLATE).write_text(content, encoding="utf-8")
        into = folder / "hostile-gguf"
        into.mkdir()
        yield (
            f"GGUF with a template: {name}",
            convert_checkpoint(Source(checkpoint, "tiny"), into / "hostile.gguf", to="gguf", dtype="f32")[0],
        )
        shutil.rmtree(into)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
