"""What a tokenizer.json of MiMo's may hold, checked whole: a byte-level BPE vocabulary, its merges and added tokens.

MiMo's tokenizer is Qwen2's. Whatever else such a file can ask for is named and refused, so that the tokenizers library,
which would do it, never sees it: it gets the checked vocabulary alone. That of a GGUF file is checked here, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mimo_mobile.mimo7b import LARGEST_VOCABULARY, QWEN2_PATTERN, STOP_TOKENS, byte_alphabet
from mimo_mobile.untrusted import printable

MOST_TOKENS = 1 << 18
"""So many tokens, and so many merges, are read; MiMo-7B has 151,665 and 151,387. Each takes memory several times."""

LONGEST_TOKEN = 1024
"""Characters of a token; the longest of MiMo-7B has 128."""

MOST_ADDED = 10_000
"""Added tokens are searched for in every text; MiMo-7B has 22."""

ADDED_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
"""What can change how the text around an added token is cut; MiMo's have none of these flags."""

_TRUTH = (False, True)

_BYTE_LEVEL: dict[str, tuple[Any, ...]] = {
    "type": ("ByteLevel",), "add_prefix_space": _TRUTH, "trim_offsets": _TRUTH, "use_regex": _TRUTH,
}  # fmt: skip
"""As a decoder or a post-processor, where the flags change nothing."""

_BYTE_LEVEL_STEP = {**_BYTE_LEVEL, "add_prefix_space": (False,), "use_regex": (False,)}
_SPLIT: dict[str, Any] = {
    "type": ("Split",), "pattern": {"Regex": (QWEN2_PATTERN,)}, "behavior": ("Isolated",), "invert": (False,),
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "type": ("BPE",), "dropout": (None, 0), "unk_token": (None,), "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""), "fuse_unk": (False,), "byte_fallback": (False,), "ignore_merges": (False,),
}  # fmt: skip
_FILE: dict[str, Any] = {
    "version": ("1.0",), "truncation": (None,), "padding": (None,), "normalizer": {"type": ("NFC",)},
    "pre_tokenizer": {"type": ("Sequence",), "pretokenizers": [_SPLIT, _BYTE_LEVEL_STEP]},
}  # fmt: skip
"""What each setting may be: one of several values, an object of settings, or a list of them.

Source: https://huggingface.co/Qwen/Qwen2.5-7B/blob/main/tokenizer.json, and what transformers 5.24 writes for it
"""

_MAY_LACK = frozenset({"version", "truncation", "padding", "trim_offsets", *_MODEL.keys() - {"type"}})
"""Settings that older files do not have."""


class TokenizerError(ValueError):
    """It is not MiMo's tokenizer, or damaged.

    Attributes:
        problems: All that was found.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """List what was found."""
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in texts before all else.

    Attributes:
        content: Its text.
        id: Its id.
        special: It has a name but decodes to no text, like ``<|im_end|>``.
        flags: Those of ``lstrip``, ``rstrip``, ``single_word`` and ``normalized`` that are set.
    """

    content: str
    id: int
    special: bool
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """A byte-level BPE tokenizer of MiMo's type.

    Attributes:
        vocab: The learnt tokens in GPT-2's byte alphabet, and their ids.
        merges: The merges, the most urgent first.
        added: The added tokens; some may be in ``vocab``, too.
    """

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: Sequence[AddedToken]


def read_tokenizer(document: object) -> TokenizerData:
    """The tokenizer in a parsed tokenizer.json.

    Raises:
        TokenizerError: Something in it is not MiMo's, or damaged.
    """
    if not isinstance(document, dict):
        raise TokenizerError([f"{_shown(document)} found, an object expected"])
    model = document.get("model")
    settings = {key: value for key, value in document.items() if key not in ("model", "added_tokens")}
    problems = list(_differences("", settings, _FILE | _ends(settings)))
    if not isinstance(model, dict):
        raise TokenizerError([*problems, f"model {_shown(model)} found, an object expected"])
    learnt = {"vocab", "merges"}
    problems += _differences("model", {key: value for key, value in model.items() if key not in learnt}, _MODEL)
    vocab, merges, added = model.get("vocab"), model.get("merges"), document.get("added_tokens", [])
    with_ids = isinstance(vocab, dict) and vocab and all(type(number) is int for number in vocab.values())
    for right, expected in (
        (with_ids, "model.vocab, an object of tokens and their ids"),
        (isinstance(merges, list), "model.merges, a list"),
        (
            isinstance(added, list) and len(added) <= MOST_ADDED,
            f"added_tokens, objects with content and id and {MOST_ADDED:,} at most",
        ),
    ):
        if not right:
            problems.append(f"{expected}, expected")
    if problems:
        raise TokenizerError(problems)
    made = TokenizerData(cast("dict[str, int]", vocab), _pairs(cast("list[Any]", merges)), [*map(_added, added)])
    check_tokenizer(made)
    return made


def check_tokenizer(found: TokenizerData) -> None:
    """See that tokens, ids and merges fit together, and that every text has tokens.

    Raises:
        TokenizerError: They do not.
    """
    vocab = found.vocab
    for name, many in (("tokens", vocab), ("merges", found.merges)):
        if len(many) > MOST_TOKENS:
            raise TokenizerError([f"{len(many):,} {name} found, {MOST_TOKENS:,} at most expected"])
    problems = [*_id_problems(found), *_token_problems(found)]
    for left, right in found.merges:
        if left not in vocab or right not in vocab or left + right not in vocab:
            problems.append(f"merge {_shown([left, right])} of or into no token of the vocabulary")
            break
    if problems:
        raise TokenizerError(problems)


def _id_problems(found: TokenizerData) -> Iterator[str]:
    added = {each.content: each.id for each in found.added}
    if len(added) != len(found.added):
        yield "an added token is there twice"
    for numbers in (found.vocab, added):
        beyond = [token for token, number in numbers.items() if not 0 <= number < LARGEST_VOCABULARY]
        if beyond:
            found_id = _shown(numbers[beyond[0]])
            yield f"token {_shown(beyond[0])} has id {found_id}, one below {LARGEST_VOCABULARY:,} expected"
    both = [token for token in added.keys() & found.vocab.keys() if added[token] != found.vocab[token]]
    if both:
        yield f"{_shown(both[0])} has the ids {found.vocab[both[0]]} and {added[both[0]]}"
    everything = {**found.vocab, **added}
    owners = {number: token for token, number in everything.items()}
    if not both and len(owners) != len(everything):
        token, number = next((token, number) for token, number in everything.items() if owners[number] != token)
        yield f"id {number} is of {_shown(token)} and of {_shown(owners[number])}"


def _token_problems(found: TokenizerData) -> Iterator[str]:
    learnt = found.vocab.keys() - {each.content for each in found.added}
    if foreign := set("".join(learnt)) - byte_alphabet().keys():
        yield f"{_shown(min(foreign))} found in a token, GPT-2's byte alphabet expected"
    missing = [byte for character, byte in byte_alphabet().items() if character not in found.vocab]
    if missing and not foreign:
        yield f"no token for the byte {missing[0]}, one for each expected"
    for stop in STOP_TOKENS:
        if stop not in found.vocab and all(each.content != stop for each in found.added):
            yield f"no token {stop}"
    if "" in learnt:
        yield "an empty token found"
    if max(map(len, (*found.vocab, *(each.content for each in found.added))), default=0) > LONGEST_TOKEN:
        yield f"a token of more than {LONGEST_TOKEN} characters found"


def _ends(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What may stand for the steps after the model: a post-processor need not be there."""
    ends: dict[str, Any] = {"decoder": _BYTE_LEVEL, "post_processor": _BYTE_LEVEL}
    return {key: expected if settings.get(key) or key == "decoder" else (None,) for key, expected in ends.items()}


def _differences(place: str, found: Any, expected: Any) -> Iterator[str]:
    """What of the settings that were found is not as expected."""
    if isinstance(expected, tuple):
        if not any(found == each and type(found) in (type(each), float) for each in expected):
            wanted = " or ".join(json.dumps(each) for each in expected)
            yield f"{place} {_shown(found)} found, {wanted} expected"
    elif isinstance(expected, list):
        if isinstance(found, list) and len(found) == len(expected):
            for index, (each, wanted) in enumerate(zip(found, expected, strict=True)):
                yield from _differences(f"{place}[{index}]", each, wanted)
        else:
            kinds = ", ".join(each["type"][0] for each in expected)
            yield f"{place} {_shown(found)} found, {kinds} expected"
    elif not isinstance(found, dict):
        yield f"{place} {_shown(found)} found, {expected.get('type', ('an object',))[0]} expected"
    else:
        yield from _object_differences(place, found, expected)


def _object_differences(place: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    before = f"{place}." if place else ""
    wanted = expected.get("type")
    if wanted and found.get("type") not in wanted:  # settings of another type are not worth a word each
        yield f"{before}type {_shown(found.get('type'))} found, {wanted[0]} expected"
        return
    for name in found.keys() - expected.keys():
        yield f"{before}{printable(name)[:40]} {_shown(found[name])} found, which MiMo's tokenizer has not"
    for name, each in expected.items():
        if name in found:
            yield from _differences(before + name, found[name], each)
        elif name not in _MAY_LACK and each != (None,):
            yield f"{before}{name} is missing"


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    """The merges as pairs; older files write them as ``"left right"``."""
    pairs = []
    for each in merges:
        parts = each.split(" ") if isinstance(each, str) else each
        if not isinstance(parts, list) or len(parts) != 2 or not (type(parts[0]) is type(parts[1]) is str):
            raise TokenizerError([f"merge {_shown(each)} found, two tokens expected"])
        pairs.append((parts[0], parts[1]))
    return pairs


def _added(found: Any) -> AddedToken:
    if not isinstance(found, dict) or not isinstance(found.get("content"), str) or type(found.get("id")) is not int:
        raise TokenizerError([f"added_tokens, objects with content and id, expected, {_shown(found)} found"])
    if not found["content"]:
        raise TokenizerError(["an added token without text found"])
    flags = {key: value for key, value in found.items() if key not in ("content", "id")}
    wrong = [key for key, value in flags.items() if key not in ("special", *ADDED_FLAGS) or not isinstance(value, bool)]
    if wrong:
        what = f"{printable(wrong[0])[:40]} {_shown(flags[wrong[0]])}"
        raise TokenizerError([f"added token {_shown(found['content'])} with {what} found, true or false expected"])
    flagged = tuple(flag for flag in ADDED_FLAGS if flags.get(flag))
    return AddedToken(found["content"], found["id"], flags.get("special", False), flagged)


def _shown(value: object) -> str:
    """The beginning of a value of the file."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        value = value["type"]
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else text[:60] + "…"
