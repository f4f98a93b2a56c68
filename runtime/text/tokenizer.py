"""Text ↔ token ids, for both backends by the tokenizers library: llama.cpp's own skips the NFC step.

Knows MiMo's tokenizer type (Qwen2's); knows nothing of chats. A special token is one that the vocabulary marks so, like
``<|im_end|>``: it has a name, but decodes to no text. Other added tokens, like ``<tool_call>``, are text as all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mimo_mobile import tokenizer_file, untrusted
from mimo_mobile.arguments import check_text
from mimo_mobile.errors import ModelLoadError
from mimo_mobile.gguf_header import GgufHeader
from mimo_mobile.mimo7b import QWEN2_PATTERN, STOP_TOKENS, byte_alphabet
from mimo_mobile.tokenizer_file import ADDED_FLAGS, TokenizerData, TokenizerError, check_tokenizer, read_tokenizer

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

    def __init__(self, data: TokenizerData) -> None:
        """Build the tokenizer from checked data."""
        self._added = {each.id: each for each in data.added}
        self.special_tokens = {each.content: each.id for each in data.added if each.special}
        # Added tokens too: only so may they have any ids, the lowest ones or ones after a gap.
        ids = {**data.vocab, **{each.content: each.id for each in data.added}}
        self._tokenizer = Tokenizer(models.BPE(ids, list(data.merges)))
        self._tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated")
        bytes_step = pre_tokenizers.ByteLevel(False, use_regex=False)
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_step])
        self._tokenizer.decoder = decoders.ByteLevel()
        added = [
            AddedToken(each.content, special=each.special, **{flag: flag in each.flags for flag in ADDED_FLAGS})
            for each in data.added
        ]
        self._tokenizer.add_tokens(added)
        self._tokenizer.encode_special_tokens = True  # their names are text to it; ``segments`` finds them
        self._finder = Tokenizer(models.BPE())
        self._finder.add_tokens(added)
        self._finder_tokens = self._finder.get_added_tokens_decoder()
        self.size = max(ids.values()) + 1
        self.stop_ids = frozenset(ids[token] for token in STOP_TOKENS)

    @classmethod
    def from_file(cls, path: Path) -> TextTokenizer:
        """The tokenizer in a tokenizer.json.

        Raises:
            ModelLoadError: The file is missing, damaged or not MiMo's.
        """
        try:
            return cls(read_tokenizer(untrusted.parse_json(untrusted.read_text(path))))
        except OSError as error:
            raise ModelLoadError(f"{path}: cannot be read: {error.strerror}; convert the checkpoint again") from error
        except TokenizerError as error:
            raise ModelLoadError(f"{path}: not MiMo's tokenizer: {error}; convert the checkpoint again") from error
        except ValueError as error:
            raise ModelLoadError(f"{path}: cannot be read: {error}; convert the checkpoint again") from error

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
        numbered = list(zip(tokens, kinds, range(len(tokens)), strict=True))
        vocab = {token: number for token, kind, number in numbered if kind == _NORMAL}
        added = [
            tokenizer_file.AddedToken(token, number, special=kind == _CONTROL)
            for token, kind, number in numbered
            if kind in (_CONTROL, _USER_DEFINED)
        ]
        if len(vocab) != kinds.count(_NORMAL):
            raise ModelLoadError(f"{header.path}: a token has two ids; a damaged vocabulary, convert it again")
        data = TokenizerData(vocab, [(left, right) for left, _, right in pairs], added)
        try:
            check_tokenizer(data)
        except TokenizerError as error:
            raise ModelLoadError(f"{header.path}: damaged vocabulary: {error}; convert it again") from error
        return cls(data)

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

    def special_name(self, token_id: int) -> str:
        """The name of a special token; of others, whose text says what they are, nothing."""
        return self._added[token_id].content if token_id in self._added and self._added[token_id].special else ""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; none for control tokens and padding."""
        if token_id in self._added:
            added = self._added[token_id]
            return b"" if added.special else str(added.content).encode()
        token = self._tokenizer.id_to_token(token_id)
        return b"" if token is None else bytes(map(byte_alphabet().__getitem__, token))
