"""tokenizer.json and its companions → a vocabulary: tokens by id, merges, special ids, chat template.

Knows Qwen2's tokenizer type only, which is MiMo's; anything else is an error rather than a wrong tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mimo_mobile.convert.checkpoint import read_json
from mimo_mobile.errors import CheckpointError
from mimo_mobile.layout import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from mimo_mobile.mimo7b import QWEN2_PATTERN

Kind = Literal["normal", "control", "user_defined", "unused"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    Attributes:
        tokens: By id, padded to the rows of the embedding; learnt tokens in GPT-2's byte alphabet.
        kinds: Of each token; ``unused`` is padding.
        merges: ``"left right"``, the most urgent first.
        eos_id: Ends a turn.
        pad_id: Ends a text; never a turn's end in training, yet a stop token.
        chat_template: Jinja2; None when the checkpoint has none.
    """

    tokens: tuple[str, ...]
    kinds: tuple[Kind, ...]
    merges: tuple[str, ...]
    eos_id: int
    pad_id: int
    chat_template: str | None


def read_vocabulary(folder: Path, vocab_size: int) -> Vocabulary:
    """The vocabulary of a checkpoint folder, padded to ``vocab_size``.

    Raises:
        CheckpointError: No tokenizer.json, one of another type, or one with more tokens than the embedding.
    """
    path = folder / TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; download the checkpoint again, its tokenizer files included")
    tokenizer, config = read_json(path), read_json(folder / TOKENIZER_CONFIG)
    _check_type(path, tokenizer)
    tokens: list[str | None] = [None] * vocab_size
    kinds: list[Kind] = ["unused"] * vocab_size
    vocab: Mapping[str, int] = tokenizer["model"]["vocab"]
    added = tokenizer.get("added_tokens", [])
    entries: list[tuple[str, int, Kind]] = [(token, number, "normal") for token, number in vocab.items()]
    entries += [(each["content"], each["id"], "control" if each["special"] else "user_defined") for each in added]
    for token, number, kind in entries:
        if not 0 <= number < vocab_size:
            raise CheckpointError(f"{path}: token {token!r} has id {number}, the embedding only {vocab_size} rows")
        tokens[number], kinds[number] = token, kind
    ids = {token: number for token, number, _ in entries}
    return Vocabulary(
        tokens=tuple(f"[PAD{number}]" if token is None else token for number, token in enumerate(tokens)),
        kinds=tuple(kinds),
        merges=tuple(each if isinstance(each, str) else " ".join(each) for each in tokenizer["model"]["merges"]),
        eos_id=_special(folder, config, "eos_token", ids),
        pad_id=_special(folder, config, "pad_token", ids),
        chat_template=_chat_template(folder, config),
    )


def _check_type(path: Path, tokenizer: Mapping[str, Any]) -> None:
    model, pre = tokenizer.get("model") or {}, tokenizer.get("pre_tokenizer") or {}
    patterns = [step.get("pattern", {}).get("Regex") for step in pre.get("pretokenizers", [])]
    found = model.get("type"), (tokenizer.get("normalizer") or {}).get("type"), QWEN2_PATTERN in patterns
    if found != ("BPE", "NFC", True):
        raise CheckpointError(
            f"{path}: {found[0]} with normalizer {found[1]} and"
            f" {'' if found[2] else 'not '}Qwen2's pre-tokenizer found; byte-level BPE, NFC and Qwen2's expected"
        )


def _special(folder: Path, config: Mapping[str, Any], key: str, ids: Mapping[str, int]) -> int:
    token = config.get(key)
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or text not in ids:
        raise CheckpointError(f"{folder / TOKENIZER_CONFIG}: {key} {text!r} found, one of the tokens expected")
    return ids[text]


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file = folder / CHAT_TEMPLATE
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None
