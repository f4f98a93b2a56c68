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
from mimo_mobile.mimo7b import LARGEST_VOCABULARY, STOP_TOKENS
from mimo_mobile.problems import Problems
from mimo_mobile.tokenizer_file import TokenizerData, TokenizerError, read_tokenizer

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

Kind = Literal["normal", "control", "user_defined", "unused"]

CHAT_TEMPLATE_JSON = "chat_template.json"
ADDITIONAL_TEMPLATES = "additional_chat_templates"
"""The folder to which transformers also writes templates, beside chat_template.jinja and tokenizer_config.json.

Source: https://github.com/huggingface/transformers/blob/v4.57.6/src/transformers/tokenization_utils_base.py
"""


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


def read_vocabulary(folder: Path, vocab_size: int | None) -> Vocabulary:
    """The vocabulary of a checkpoint folder, padded to ``vocab_size`` if that is known.

    Raises:
        CheckpointError: A file is missing or damaged, or the tokenizer is of another type or has more tokens than the
            embedding has rows; ``.problems`` holds all that is wrong.
    """
    path, problems = folder / TOKENIZER, Problems()
    found, config, template = None, None, None
    with problems.gather():
        found = _tokenizer(path)
        _check_rows(path, found, vocab_size)
    with problems.gather():
        config = read_json(folder / TOKENIZER_CONFIG)
    with problems.gather():
        template = _chat_template(folder, config or {})
    if found is None:
        problems.raise_any(folder)
    assert found is not None
    ids = {**found.vocab, **{each.content: each.id for each in found.added}}
    kinds: dict[int, Kind] = dict.fromkeys(found.vocab.values(), "normal")
    kinds |= {each.id: "control" if each.special else "user_defined" for each in found.added}
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
        merges=tuple(f"{left} {right}" for left, right in found.merges),
        eos_id=special["eos_token"],
        text_end_id=text_end_id,
        pad_id=special.get("pad_token", text_end_id),
        chat_template=template,
        flagged=tuple(
            f"{untrusted.printable(each.content)} ({', '.join(each.flags)})" for each in found.added if each.flags
        ),
    )


def _tokenizer(path: Path) -> TokenizerData:
    if not present(path):
        raise CheckpointError(f"{path}: missing; download the checkpoint again, its tokenizer files included")
    document = read_json(path)
    try:
        return read_tokenizer(document)
    except TokenizerError as error:
        each = [f"{path}: {problem}; not MiMo's tokenizer, or damaged: download it again" for problem in error.problems]
        raise CheckpointError("; ".join(each), [*map(CheckpointError, each)]) from error


def _check_rows(path: Path, found: TokenizerData, vocab_size: int | None) -> None:
    """Check that every id is a row of the embedding."""
    entries = [*found.vocab.items(), *((each.content, each.id) for each in found.added)]
    beyond = [(token, number) for token, number in entries if number >= (vocab_size or LARGEST_VOCABULARY)]
    if beyond:
        (token, number), more = beyond[0], f" (and {len(beyond) - 1} more beyond it)" if len(beyond) > 1 else ""
        raise CheckpointError(
            f"{path}: token {token!r:.60} has id {number}, the embedding only {vocab_size} rows{more}"
        )


def _special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that tokenizer_config.json gives a meaning to, as text; None for one that it does not name."""
    found = {key: config.get(key) for key in ("eos_token", "pad_token")}
    return {key: token.get("content") if isinstance(token, dict) else token for key, token in found.items()}


def _check_special_tokens(folder: Path, config: Mapping[str, Any], ids: Mapping[str, int]) -> Iterator[CheckpointError]:
    """What is wrong with the special tokens; a checkpoint need not have a token for padding."""
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


def _is_list_of(value: Any, kind: type[_T]) -> TypeGuard[list[_T]]:
    return isinstance(value, list) and all(type(each) is kind for each in value)
