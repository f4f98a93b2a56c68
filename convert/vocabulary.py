"""tokenizer.json and its companions → a vocabulary: tokens by id, merges, special ids, chat template.

This module knows only Qwen2's type of tokenizer, which is MiMo's; any other type is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

from mimo_mobile import untrusted
from mimo_mobile.convert.json_files import present, read_json, read_text
from mimo_mobile.errors import CheckpointError
from mimo_mobile.layout import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from mimo_mobile.mimo7b import LARGEST_VOCABULARY, QWEN2_PATTERN, STOP_TOKENS, byte_alphabet
from mimo_mobile.problems import Problems

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

Kind = Literal["normal", "control", "user_defined", "unused"]

CHAT_TEMPLATE_JSON = "chat_template.json"
ADDITIONAL_TEMPLATES = "additional_chat_templates"
"""The folder to which transformers also writes templates, beside chat_template.jinja and tokenizer_config.json.

Source: https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/tokenization_utils_base.py
"""

_BEYOND_QWEN2 = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
"""Settings that a BPE model may have, but Qwen2's has not."""

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    Attributes:
        tokens: The tokens by id, padded to the rows of the embedding; learnt tokens are in GPT-2's byte alphabet.
        kinds: The kind of each token; ``unused`` is padding.
        merges: The merges as ``"left right"``, the most urgent first.
        eos_id: The token that ends a turn.
        text_end_id: The token that ends a text. It also stands where a format wants a token that begins a text, as MiMo
            has none.
        pad_id: The token that fills up short rows of a batch; ``text_end_id`` when the checkpoint names none.
        chat_template: The chat template in Jinja2; None when the checkpoint has none.
        flagged: Added tokens with flags that change how the text around them is cut, which a GGUF file cannot carry.
    """

    tokens: tuple[str, ...]
    kinds: tuple[Kind, ...]
    merges: tuple[str, ...]
    eos_id: int
    text_end_id: int
    pad_id: int
    chat_template: str | None
    flagged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Added:
    content: str
    id: int
    special: bool
    flags: tuple[str, ...]


def read_vocabulary(folder: Path, vocab_size: int | None) -> Vocabulary:
    """The vocabulary of a checkpoint folder, padded to ``vocab_size`` if that is known.

    Raises:
        CheckpointError: A file is missing or damaged, or the tokenizer is of another type or has more tokens than the
            embedding has rows; ``.problems`` holds all that is wrong.
    """
    path, problems = folder / TOKENIZER, Problems()
    tokenizer, config, template = None, None, None
    with problems.gather():
        if not present(path):
            raise CheckpointError(f"{path}: missing; download the checkpoint again, its tokenizer files included")
        tokenizer = read_json(path)
        _check_type(path, tokenizer)
    with problems.gather():
        config = read_json(folder / TOKENIZER_CONFIG)
    with problems.gather():
        template = _chat_template(folder, config or {})
    if tokenizer is None:
        problems.raise_any(folder)
    assert tokenizer is not None
    vocab: dict[str, int] = {}
    merges: tuple[str, ...] = ()
    added: list[_Added] = []
    with problems.gather():
        vocab = _vocab(path, tokenizer)
    with problems.gather():
        added = _added(path, tokenizer)
    with problems.gather():
        merges = _merges(path, tokenizer, vocab)
    ids = vocab | {each.content: each.id for each in added}
    kinds: dict[int, Kind] = dict.fromkeys(vocab.values(), "normal")
    kinds |= {each.id: "control" if each.special else "user_defined" for each in added}
    with problems.gather():
        _check_ids(path, vocab, added, vocab_size)
    if vocab and added:  # else all special tokens would be called missing too
        for problem in _check_special_tokens(folder, config or {}, ids):
            problems.add(problem)
    problems.raise_any(folder)
    special = {key: ids[token] for key, token in _special_tokens(config or {}).items() if token is not None}
    text_end_id = ids[STOP_TOKENS[1]]
    token_of = {number: token for token, number in ids.items()}
    size = vocab_size or max(token_of) + 1
    return Vocabulary(
        tokens=tuple(token_of.get(number, f"[PAD{number}]") for number in range(size)),
        kinds=tuple(kinds.get(number, "unused") for number in range(size)),
        merges=merges,
        eos_id=special["eos_token"],
        text_end_id=text_end_id,
        pad_id=special.get("pad_token", text_end_id),
        chat_template=template,
        flagged=tuple(f"{untrusted.printable(each.content)} ({', '.join(each.flags)})" for each in added if each.flags),
    )


def _check_type(path: Path, tokenizer: Mapping[str, Any]) -> None:
    model, pre, normalizer = (_object(tokenizer, key) for key in ("model", "pre_tokenizer", "normalizer"))
    steps = pre.get("pretokenizers")
    patterns = [_object(step, "pattern").get("Regex") for step in steps] if _is_list_of(steps, dict) else []
    found = model.get("type"), normalizer.get("type"), QWEN2_PATTERN in patterns
    if found != ("BPE", "NFC", True):
        raise CheckpointError(
            f"{path}: {found[0]!s:.60} with normalizer {found[1]!s:.60} and"
            f" {'' if found[2] else 'not '}Qwen2's pre-tokenizer found; byte-level BPE, NFC and Qwen2's expected"
        )
    set_ones = [f"{key} {model[key]!r:.60}" for key in _BEYOND_QWEN2 if model.get(key)]
    if set_ones:
        raise CheckpointError(f"{path}: {', '.join(set_ones)} found in the model; Qwen2's tokenizer has none of these")


def _vocab(path: Path, tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocab = _object(tokenizer, "model").get("vocab")
    if not isinstance(vocab, dict) or not vocab or not _is_list_of([*vocab.values()], int):
        raise CheckpointError(f"{path}: model.vocab, an object of tokens and their ids, expected; download it again")
    return vocab


def _added(path: Path, tokenizer: Mapping[str, Any]) -> list[_Added]:
    found = tokenizer.get("added_tokens", [])
    if not _is_list_of(found, dict) or not all(
        isinstance(each.get("content"), str) and each["content"] and type(each.get("id")) is int for each in found
    ):
        raise CheckpointError(f"{path}: added_tokens, objects with content and id, expected; download it again")
    return [
        _Added(each["content"], each["id"], bool(each.get("special")), tuple(flag for flag in _FLAGS if each.get(flag)))
        for each in found
    ]


def _merges(path: Path, tokenizer: Mapping[str, Any], vocab: Mapping[str, int]) -> tuple[str, ...]:
    found = _object(tokenizer, "model").get("merges")
    if not isinstance(found, list):
        raise CheckpointError(f"{path}: model.merges, a list, expected; download it again")
    merges = []
    for each in found:
        pair = each.split(" ") if isinstance(each, str) else each
        if not _is_list_of(pair, str) or len(pair) != 2:
            raise CheckpointError(f"{path}: merge {each!r:.80} found, two tokens expected; download it again")
        left, right = pair
        if vocab and not {left, right, left + right} <= vocab.keys():
            raise CheckpointError(
                f"{path}: merge {each!r:.80} of or into no token of the vocabulary; download it again"
            )
        merges.append(f"{left} {right}")
    return tuple(merges)


def _check_ids(path: Path, vocab: Mapping[str, int], added: Iterable[_Added], vocab_size: int | None) -> None:
    """Check that every id is a row of the embedding and stands for one token, and that every token has one id."""
    problems, owners = Problems(), dict[int, str]()
    entries = [*vocab.items(), *((each.content, each.id) for each in added)]
    beyond = [(token, number) for token, number in entries if not 0 <= number < (vocab_size or LARGEST_VOCABULARY)]
    if beyond:
        (token, number), more = beyond[0], f" (and {len(beyond) - 1} more beyond it)" if len(beyond) > 1 else ""
        problems.add(
            CheckpointError(
                f"{path}: token {token!r:.60} has id {number!s:.40}, the embedding only"
                f" {vocab_size or LARGEST_VOCABULARY} rows{more}"
            )
        )
    for token, number in entries:
        if owners.setdefault(number, token) != token:
            problems.add(
                CheckpointError(f"{path}: id {number!s:.40} is of {owners[number]!r:.60} and of {token!r:.60}")
            )
            break
    learnt = vocab.keys() - {each.content for each in added}
    if foreign := set("".join(learnt)) - byte_alphabet().keys():
        problems.add(CheckpointError(f"{path}: {min(foreign)!r} found in a token, GPT-2's byte alphabet expected"))
    for each in added:
        if vocab.get(each.content, each.id) != each.id:
            problems.add(
                CheckpointError(
                    f"{path}: {each.content!r:.60} has the ids {vocab[each.content]!s:.40} and {each.id!s:.40}"
                )
            )
            break
    problems.raise_any(path)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that tokenizer_config.json gives a meaning to, as text; None for one that it does not name."""
    found = {key: config.get(key) for key in ("eos_token", "pad_token")}
    return {key: token.get("content") if isinstance(token, dict) else token for key, token in found.items()}


def _check_special_tokens(folder: Path, config: Mapping[str, Any], ids: Mapping[str, int]) -> Iterator[CheckpointError]:
    """What is wrong with the special tokens; a checkpoint need not have a token for padding."""
    for stop in STOP_TOKENS:
        if stop not in ids:
            yield CheckpointError(f"{folder / TOKENIZER}: no token {stop}; not MiMo's tokenizer")
    for key, text in _special_tokens(config).items():
        if (key, text) != ("pad_token", None) and not (isinstance(text, str) and text in ids):
            yield CheckpointError(f"{folder / TOKENIZER_CONFIG}: {key} {text!r:.80} found, one of the tokens expected")


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template that chats are written with; of several it is the default one.

    As in transformers, template files take precedence over tokenizer_config.json.
    """
    templates: dict[str, Any] = {}
    path, found = folder / TOKENIZER_CONFIG, config.get("chat_template")
    if present(folder / CHAT_TEMPLATE_JSON):
        path = folder / CHAT_TEMPLATE_JSON
        found = read_json(path).get("chat_template")
    if _is_list_of(found, dict):
        templates |= {str(each.get("name")): each.get("template") for each in found}
    elif isinstance(found, dict):
        templates |= found
    elif found is not None:
        templates["default"] = found
    files = sorted((folder / ADDITIONAL_TEMPLATES).glob("*.jinja"))
    if present(folder / CHAT_TEMPLATE):
        files.append(folder / CHAT_TEMPLATE)
    for path in files:
        templates["default" if path.name == CHAT_TEMPLATE else path.stem] = read_text(path)
    if not templates:
        return None
    wrong = [name for name, text in templates.items() if not isinstance(text, str)]
    if wrong:
        raise CheckpointError(f"{path}: chat_template {_listed(wrong)} is no text; a Jinja2 template expected")
    if len(templates) > 1 and "default" not in templates:
        raise CheckpointError(
            f"{path}: chat templates {_listed(templates)} found, none called default; name the one for chats so"
        )
    chosen = "default" if "default" in templates else next(iter(templates))
    others = [name for name in templates if name != chosen]
    if others:
        logger.warning("%s: the chat template %s is taken, %s left out", folder, _listed([chosen]), _listed(others))
    return str(templates[chosen])


def _listed(names: Iterable[str]) -> str:
    """Names from a file as a message may show them."""
    return untrusted.printable(", ".join(names))[:200]


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within an object; empty when there is none."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _is_list_of(value: Any, kind: type[_T]) -> TypeGuard[list[_T]]:
    return isinstance(value, list) and all(type(each) is kind for each in value)
