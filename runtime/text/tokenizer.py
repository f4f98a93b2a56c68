"""Text ↔ token ids, for both backends by the tokenizers library: llama.cpp's own skips the NFC step.

Knows MiMo's tokenizer type (Qwen2's); knows nothing of chats. A special token is one that the vocabulary marks so, like
``<|im_end|>``: it has a name, but decodes to no text. Other added tokens, like ``<tool_call>``, are text as all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mimo_mobile.errors import BadArgumentError, ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.mimo7b import QWEN2_PATTERN, STOP_TOKENS, byte_alphabet

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""enum llama_token_type."""


class Segment(NamedTuple):
    """A part of a prompt: a text, or the name of a special token."""

    text: str
    special: bool = False


class TextTokenizer:
    """A byte-level BPE tokenizer.

    Attributes:
        special_tokens: The names of special tokens, and their ids.
        stop_ids: Tokens that end a turn or a text.
        size: One more than the largest id in use; larger rows of the logits are padding.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer of the tokenizers library.

        Raises:
            ModelLoadError: It lacks MiMo's stop tokens.
        """
        self._tokenizer = tokenizer
        self._added = dict(tokenizer.get_added_tokens_decoder())
        self.special_tokens = {token.content: number for number, token in self._added.items() if token.special}
        tokenizer.encode_special_tokens = True  # their names are text to it; ``segments`` finds them
        self._finder = Tokenizer(models.BPE())
        self._finder.add_tokens(list(self._added.values()))
        self._finder_tokens = self._finder.get_added_tokens_decoder()
        learnt = tokenizer.get_vocab(with_added_tokens=True).keys() - {each.content for each in self._added.values()}
        if foreign := set("".join(learnt)) - byte_alphabet().keys():
            raise ModelLoadError(
                f"tokenizer: {min(foreign)!r} found in a token, GPT-2's byte alphabet expected; not MiMo's tokenizer"
            )
        self.size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        stops = [tokenizer.token_to_id(token) for token in STOP_TOKENS]
        if None in stops:
            raise ModelLoadError(
                f"tokenizer: {' and '.join(STOP_TOKENS)} expected, one is missing; not MiMo's tokenizer"
            )
        self.stop_ids = frozenset(stops)

    @classmethod
    def from_file(cls, path: Path) -> TextTokenizer:
        """The tokenizer in a tokenizer.json.

        Raises:
            ModelLoadError: The file is missing, damaged or not MiMo's.
        """
        try:
            text = path.read_bytes().decode()
            tokenizer, fields = Tokenizer.from_str(text), json.loads(text)
            added = {each["content"]: each["id"] for each in fields["added_tokens"]}
            if any(tokenizer.token_to_id(token) != number for token, number in added.items()):
                # The library counts added tokens on after the learnt ones, whatever their ids; the model keeps ids.
                fields["model"]["vocab"] |= added
                tokenizer = Tokenizer.from_str(json.dumps(fields))
            return cls(tokenizer)
        except ModelLoadError:
            raise
        except Exception as error:  # the library raises nothing more exact
            raise ModelLoadError(f"{path}: cannot be read ({error}); convert the checkpoint again") from error

    @classmethod
    def from_gguf(cls, header: GgufHeader) -> TextTokenizer:
        """The tokenizer that a GGUF file carries.

        Raises:
            ModelLoadError: It is of another type or damaged.
        """
        found = header.value("tokenizer.ggml.model"), header.value("tokenizer.ggml.pre")
        if found != ("gpt2", "qwen2"):
            raise ModelLoadError(f"{header.path}: tokenizer {found} found, ('gpt2', 'qwen2') expected: not a MiMo-7B")
        tokens, kinds = header.strings("tokenizer.ggml.tokens"), header.integers("tokenizer.ggml.token_type")
        if len(tokens) != len(kinds):
            raise ModelLoadError(f"{header.path}: {len(tokens)} tokens with {len(kinds)} types; convert it again")
        pairs = [merge.partition(" ") for merge in header.strings("tokenizer.ggml.merges")]
        merges = [(left, right) for left, _, right in pairs]
        # Added tokens too: only so may they have any ids, the lowest ones or ones after a gap.
        used = {_NORMAL, _CONTROL, _USER_DEFINED}
        vocab = {token: number for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind in used}
        if len(vocab) != sum(kind in used for kind in kinds):
            raise ModelLoadError(f"{header.path}: a token has two ids; a damaged vocabulary, convert it again")
        try:
            tokenizer = Tokenizer(models.BPE(vocab, merges))
        except Exception as error:  # a merge that makes no token
            raise ModelLoadError(f"{header.path}: damaged vocabulary ({error}); convert it again") from error
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_tokens(
            [
                AddedToken(token, special=kind == _CONTROL, normalized=False)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind in (_CONTROL, _USER_DEFINED)
            ]
        )
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids; names of special tokens in the text become these tokens.

        Raises:
            BadArgumentError: The text holds half of a surrogate pair.
        """
        return self.encode_segments(self.segments(text))

    def encode_segments(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids; texts are encoded as text, with names of special tokens in them too.

        Raises:
            BadArgumentError: A text holds half of a surrogate pair.
        """
        ids: list[int] = []
        for special, run in groupby(segments, lambda segment: segment.special):
            if special:
                ids += [self.special_tokens[segment.text] for segment in run]
            else:
                text = "".join(segment.text for segment in run)
                check_text(text)
                ids += self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def segments(self, text: str) -> list[Segment]:
        """The text cut at the names of special tokens in it.

        Raises:
            BadArgumentError: The text holds half of a surrogate pair.
        """
        check_text(text)
        segments: list[Segment] = []
        end = 0
        found = self._finder.encode(text, add_special_tokens=False)
        for number, (start, stop) in zip(found.ids, found.offsets, strict=True):
            token = self._finder_tokens[number]
            if token.special:
                segments += [Segment(text[end:start]), Segment(token.content, special=True)]
                end = stop
        return [segment for segment in [*segments, Segment(text[end:])] if segment.text]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, malformed UTF-8 replaced."""
        return b"".join(self.token_bytes(number) for number in ids).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; none for control tokens and padding."""
        if token_id in self._added:
            added = self._added[token_id]
            return b"" if added.special else str(added.content).encode()
        token = self._tokenizer.id_to_token(token_id)
        return b"" if token is None else bytes(map(byte_alphabet().__getitem__, token))


def check_text(text: str, place: str = "text") -> None:
    """See that a text can be encoded.

    Raises:
        BadArgumentError: It holds half of a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise BadArgumentError(f"{place}: U+{code:04X} found at {error.start}, which is no character") from error
