"""A conversation → a file, and back: its text, its random numbers, and the keys and values that its prompt begins with.

The file is read as a stranger's: its size is what its header says, no more is read than the model's own KV cache could
hold, and what it holds is compared with the model's own before an engine sees it. docs/formats.md tells the layout.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mimo_mobile import documents, files, untrusted
from mimo_mobile.documents import FileFormat, Value
from mimo_mobile.errors import BadArgumentError, ContextFullError, ConversationError, OutputExistsError, SessionError
from mimo_mobile.runtime.backend import BackendState
from mimo_mobile.runtime.decode.exchange import WHEN_FULL, Cut, Turn
from mimo_mobile.runtime.generation_config import GenerationConfig

if TYPE_CHECKING:
    from mimo_mobile.runtime.decode.conversation import Conversation
    from mimo_mobile.runtime.decode.session import Session

MAGIC = b"MiMoConv"
FORMAT = FileFormat("conversation", 1)

MOST_HEADER = 32_000_000
"""Bytes of the header, which has all text of the conversation."""

MOST_TURNS, MOST_ARRAYS = 100_000, 10_000

DTYPES = {"u8": "|u1", "i8": "|i1", "i32": "<i4", "i64": "<i8", "f16": "<f2", "f32": "<f4"}
"""What arrays are made of, as numpy spells it."""

MOST_WAITING = 64_000_000
"""Bytes of what waits for the MTP layer, at most."""

SEEDS = 2**64
"""So many seeds there are."""

_TOKENS, _WAITING = "tokens", "head.ids"
_LENGTHS = struct.Struct("<8sI")
_DIGEST = hashlib.sha256().digest_size
_ADVICE = "the file is damaged, or no conversation that MiMo Mobile saved"


@dataclass(frozen=True, slots=True)
class _Array:
    """One array of a file: its name, its type and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(DTYPES[self.dtype]).itemsize

    @classmethod
    def of(cls, value: Value) -> _Array:
        shape = tuple(each.integer() for each in value["shape"].items(most=8))
        return cls(value["name"].text(), value["dtype"].choice(*DTYPES), shape)


def save(conversation: Conversation, path: Path) -> None:
    """Write a conversation to a file that its owner alone may read; an earlier conversation there is replaced.

    Raises:
        BadArgumentError: A text has half a surrogate pair, which no file can be written with.
        DiskFullError: The disk is full.
        OutputExistsError: Something else than a conversation is there.
        SessionError: The model is closed or busy, or was made of no files that are known, or the conversation has more
            text or turns than readers take.
    """
    if os.path.lexists(path) and not _is_conversation(path):
        raise OutputExistsError(f"{path}: it exists and is no saved conversation; name another file")
    session = conversation.session
    try:
        prompt = conversation.next_prompt()
    except ContextFullError:  # of a text that this context never has room for: no prompt, and no keys of it
        prompt = []
    tokens, state = session.kept(prompt)
    arrays: dict[str, NDArray[Any]] = {_TOKENS: np.array(tokens, np.int32), **(state.arrays if state else {})}
    types = {np.dtype(spelling): name for name, spelling in DTYPES.items()}
    cut, said = conversation._cut, conversation.turns  # another thread may change them
    # No turn has it while it thinks, and no file then.
    told = {"cut_thinks": cut.thinks} if cut and said and said[-1] is cut.turn else {}
    text = FORMAT.to_text(
        {
            "model": session.model.fingerprint(),
            "kv_bytes_per_token": session.model.turns.opened().kv_bytes_per_token,
            "system": conversation.system,
            "turns": [asdict(each) for each in said],
            "dropped": min(conversation.dropped, len(said)),
            "keep_thinking": conversation.keep_thinking,
            "when_full": conversation.when_full,
            "seed": str(conversation.seed % SEEDS),
            "draws": conversation.draws,
            **told,
            "arrays": [asdict(_Array(name, types[each.dtype], each.shape)) for name, each in arrays.items()],
        }
    )
    try:
        header = text.encode()
    except UnicodeEncodeError as error:
        raise BadArgumentError(f"{path}: not saved, a text of the conversation has half a surrogate pair") from error
    if len(header) > MOST_HEADER or len(said) > MOST_TURNS:
        raise SessionError(
            f"{path}: not saved, the conversation has more than {MOST_HEADER / 1e6:g} MB of text or {MOST_TURNS} turns"
        )
    with files.whole(path, force=True) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            digest = hashlib.sha256()
            parts: list[bytes | memoryview] = [_LENGTHS.pack(MAGIC, len(header)), header]
            for part in [*parts, *map(_bytes_of, arrays.values())]:
                digest.update(part)
                file.write(part)
            file.write(digest.digest())


def load(session: Session, path: Path, config: GenerationConfig | None, *, text_only: bool) -> Conversation:
    """The conversation in a file, on a session; see ``Session.load_conversation``."""
    try:
        with untrusted.opened(path) as file:
            return _Reader(path, file).conversation(session, config, text_only=text_only)
    except OSError as error:
        raise ConversationError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """One file under way: every byte that is read counts for its checksum."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path, self._file, self._digest = path, file, hashlib.sha256()
        self._size = os.fstat(file.fileno()).st_size

    def conversation(self, session: Session, config: GenerationConfig | None, *, text_only: bool) -> Conversation:
        header, arrays = self._header()
        try:
            system, turns, choices = _text_of(header)
            made = session.conversation(
                system, config, keep_thinking=choices["keep_thinking"], when_full=choices["when_full"]
            )
            seed, draws = _numbers_of(header)
            cut_thinks = _cut_thinks_of(header, turns)
            dropped = header["dropped"].integer(most=len(turns))
            model, per_token = header["model"].hexadecimal(64), header["kv_bytes_per_token"].integer()
        except ValueError as error:
            self._refuse(str(error), error)
        made.restore(turns, dropped, seed if config is None or config.seed is None else config.seed, draws)
        if cut_thinks is not None:
            made._cut = Cut(turns[:-1], turns[-1], cut_thinks)
        count = arrays[0].shape[0]
        if text_only or not count:
            self._skip_to_end()
            return made
        self._check_model(session, model, per_token)
        self._check_size(session, arrays, count)
        kept = {each.name: self._array(each) for each in arrays}
        self._check_end()
        tokens, waiting = kept.pop(_TOKENS).tolist(), kept.get(_WAITING)
        ids = tokens
        if waiting is not None and waiting.dtype == np.int64:  # else the MTP layer refuses it
            ids = [*tokens, *waiting.reshape(-1)[1:].tolist()]
        if min(ids) < 0 or max(ids) >= session.model.tokenizer.size:
            self._refuse("an id found that is no token")
        try:
            session.adopt(tokens, BackendState(count, kept))
        except ConversationError as error:
            raise ConversationError(f"{self._path}: {error}; with text_only=True the text alone is loaded") from error
        return made

    def _header(self) -> tuple[Value, list[_Array]]:
        """What the file says of itself; its size is right then."""
        magic, length = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if magic != MAGIC:
            self._refuse("it does not begin as a saved conversation does")
        if length > MOST_HEADER:
            self._refuse(f"a header of {length} bytes found, of which {MOST_HEADER} are the most")
        try:
            header = documents.parse(self._read(length).decode())
            if (version := header[FORMAT.field].integer(least=1)) > FORMAT.version:
                raise ConversationError(
                    f"{self._path}: a newer MiMo Mobile wrote it: {FORMAT.field} is {version}, {FORMAT.version} is the"
                    " newest known here; update MiMo Mobile"
                )
            arrays = [_Array.of(each) for each in header["arrays"].items(least=1, most=MOST_ARRAYS)]
        except ValueError as error:
            self._refuse(str(error), error)
        first = arrays[0]
        if (first.name, first.dtype, len(first.shape)) != (_TOKENS, "i32", 1):
            self._refuse("its first array is not the ids of its tokens")
        if len({each.name for each in arrays}) != len(arrays):
            self._refuse("two of its arrays have one name")
        expected = _LENGTHS.size + length + sum(each.nbytes for each in arrays) + _DIGEST
        if expected != self._size:
            self._refuse(f"{self._size} bytes found, {expected} expected")
        return header, arrays

    def _check_model(self, session: Session, model: str, per_token: int) -> None:
        advice = "load that model, or the text alone with text_only=True"
        if (here := session.model.fingerprint()) != model:
            raise ConversationError(
                f"{self._path}: saved with another model (SHA-256 {model[:12]}… found, {here[:12]}… expected); {advice}"
            )
        if (mine := session.model.turns.opened().kv_bytes_per_token) != per_token:
            raise ConversationError(
                f"{self._path}: saved with another type of KV cache ({per_token} bytes a token found, {mine} expected);"
                " load the model with the kv_dtype of then, or the text alone with text_only=True"
            )

    def _check_size(self, session: Session, arrays: Sequence[_Array], count: int) -> None:
        """See that the model's own KV cache could hold as much, before anything is read."""
        if count > session.model.context_length:
            raise ContextFullError(
                f"{self._path}: the conversation has {count} tokens, the context holds {session.model.context_length};"
                " load the model with a larger context_length, or the text alone with text_only=True"
            )
        # The MTP layer has one layer's keys and values, which are at most as large as the trunk's.
        most = 2 * count * (session.model.turns.opened().kv_bytes_per_token + 64) + MOST_WAITING
        if (found := sum(each.nbytes for each in arrays)) > most:
            self._refuse(f"{found} bytes of keys and values found, {most} are the most for {count} tokens")

    def _array(self, array: _Array) -> NDArray[Any]:
        try:
            made = np.empty(array.shape, DTYPES[array.dtype])
        except ValueError as error:  # of shapes with a zero beside numbers that are too large for numpy
            self._refuse(str(error), error)
        view = _bytes_of(made)
        if self._file.readinto(view) != len(view):
            self._refuse("it ends early")
        self._digest.update(view)
        return made

    def _skip_to_end(self) -> None:
        while (left := self._size - _DIGEST - self._file.tell()) > 0:
            self._read(min(left, 1 << 20))
        self._check_end()

    def _check_end(self) -> None:
        whole = self._digest.digest()
        if self._read(_DIGEST) != whole:
            self._refuse("its checksum is wrong")

    def _read(self, size: int) -> bytes:
        found = self._file.read(min(size, self._size))
        if len(found) != size:
            self._refuse("it ends early")
        self._digest.update(found)
        return found

    def _refuse(self, problem: str, cause: Exception | None = None) -> NoReturn:
        told = untrusted.printable(problem)
        shown = told if len(told) <= documents.LONGEST else told[: documents.LONGEST] + "…"
        raise ConversationError(f"{self._path}: {shown}; {_ADVICE}") from cause


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """A view of an array's memory."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _text_of(header: Value) -> tuple[str, tuple[Turn, ...], Mapping[str, Any]]:
    turns = tuple(
        Turn(**{name: each[name].text(MOST_HEADER) for name in ("question", "thinking", "answer")})
        for each in header["turns"].items(most=MOST_TURNS)
    )
    choices = {"keep_thinking": header["keep_thinking"].flag(), "when_full": header["when_full"].choice(*WHEN_FULL)}
    return header["system"].text(MOST_HEADER), turns, choices


def _numbers_of(header: Value) -> tuple[int, int]:
    seed = header["seed"].text(20)
    if not (seed.isascii() and seed.isdecimal() and int(seed) < SEEDS):
        raise documents.DocumentError("seed: a whole number below 2^64 in decimal digits expected")
    return int(seed), header["draws"].integer()


def _cut_thinks_of(header: Value, turns: Sequence[Turn]) -> bool | None:
    """Whether the last answer was asked for with thinking; None when it was not cut, or an older file."""
    found = header.get("cut_thinks")
    if found is not None and not turns:
        raise documents.DocumentError("cut_thinks: a turn expected, whose answer was cut")
    return None if found is None else found.flag()


def _is_conversation(path: Path) -> bool:
    with suppress(OSError), untrusted.opened(path) as file:
        return file.read(len(MAGIC)) == MAGIC
    return False
