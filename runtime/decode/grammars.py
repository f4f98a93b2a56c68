"""Structures → grammars that follow a text token by token, by llguidance. Knows tokens, and nothing of thinking.

A grammar may come from a stranger. Its text is bounded by ``Structure``, and what it takes of time and memory by limits
of llguidance. It is compiled on a stack of its own, which its recursion cannot exhaust: it may fail, but not crash.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mimo_mobile.errors import BadArgumentError, SessionError
from mimo_mobile.runtime.structure import Structure
from mimo_mobile.runtime.text.tokenizer import Segment, TextTokenizer
from mimo_mobile.untrusted import printable

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

WHITE_SPACE = r"( |\n[ \t]{0,20})?"
"""What may stand between the parts of JSON: no more than usual layouts have, since a model that is unsure could go on
with white space without an end."""

LEXER_STATES = 50_000
"""So many states the regular expressions of one grammar may have, each of which takes about two kilobytes."""

ROW_ITEMS = 20_000
"""So many alternatives a place in a text may have; an object of 1,000 optional properties has four times as many."""

STACK_BYTES = 256 * 2**20
"""The stack of a compilation: the longest chain of rules or references that fits into a ``Structure`` takes a sixth of
it. Only what is used of it takes memory."""

MOST_KEPT = 8
"""So many compiled grammars are kept, for those who ask again with the same one."""

MOST_TRIES = 200
"""So many parts of a schema are tried to say where it is wrong."""

LONGEST_PROBLEM = 500
"""Characters of llguidance's own message that ours shows."""

_stack_lock = threading.Lock()


class Matcher:
    """A grammar that follows one text."""

    def __init__(self, engine: LLMatcher, tokenizer: TextTokenizer) -> None:
        """Begin before the first token."""
        self._engine, self._size = engine, tokenizer.size
        self._ends = sorted(tokenizer.stop_ids)
        self._bits = np.zeros((self._size + 31) // 32, np.uint32)
        self._allowed: NDArray[np.bool_] | None = None

    @property
    def over(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        return self._engine.is_stopped() and self._engine.is_accepting()

    def certain(self) -> list[int]:
        """Tokens of the text that comes next in any case, as far as there is only one; a model may cut it otherwise."""
        return self._engine.compute_ff_tokens()

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens [V] may come next; those that end the turn may when the text is whole.

        Raises:
            BadArgumentError: The grammar takes more time or memory than it may.
        """
        if self._allowed is None:
            self._engine.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            self._check()
            allowed = np.unpackbits(self._bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
            allowed[self._ends] = self._engine.is_accepting()
            self._allowed = allowed
        return self._allowed

    def accept(self, token: int) -> None:
        """Go on by ``token``.

        Raises:
            BadArgumentError: The grammar takes more time or memory than it may.
        """
        self._engine.consume_token(token)
        self._check()
        self._allowed = None

    def _check(self) -> None:
        if self._engine.is_error():
            raise BadArgumentError(
                f"the structure cannot be followed any further: {_shown(self._engine.get_error())}; make it simpler"
            )


class Grammars:
    """What structures come to with one tokenizer; the first one takes half a second for MiMo-7B's vocabulary."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Compile nothing yet."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._kept: OrderedDict[Structure, LLMatcher] = OrderedDict()

    def matcher(self, structure: Structure) -> Matcher:
        """A structure's grammar, before the first token of a text.

        Raises:
            BadArgumentError: The structure is wrong, or too complicated.
        """
        with self._lock:
            compiled = self._kept.pop(structure, None)
            if compiled is None:
                compiled = _on_deep_stack(lambda: self._compiled(structure))
            self._kept[structure] = compiled
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return Matcher(compiled.deep_copy(), self._tokenizer)

    def _compiled(self, structure: Structure) -> LLMatcher:
        from llguidance import LLTokenizer, TokenizerWrapper

        if self._vocabulary is None:
            self._vocabulary = LLTokenizer(TokenizerWrapper(_Vocabulary(self._tokenizer)))
        engine, problem = self._tried(structure)
        if engine is None and structure.kind == "schema":
            place, problem = self._place(json.loads(structure.text), problem)
            raise BadArgumentError(f"schema: at {place}: {problem}")
        if engine is None:
            raise BadArgumentError(f"{structure.kind}: {problem}")
        return engine

    def _tried(self, structure: Structure) -> tuple[LLMatcher | None, str]:
        """The compiled structure, or what is wrong with it."""
        from llguidance import LLMatcher, LLParserLimits

        assert self._vocabulary is not None
        try:
            limits = LLParserLimits(max_items_in_row=ROW_ITEMS, max_lexer_states=LEXER_STATES, verbose_errors=False)
            engine = LLMatcher(self._vocabulary, _grammar(structure), log_level=0, limits=limits)
            if engine.is_error():
                return None, _shown(engine.get_error())
            first = engine.deep_copy()
            first.compute_bitmask()
            problem = first.get_error()
            if problem.startswith("NoExtension"):
                problem = "no text at all keeps to it"
            return (None, _shown(problem)) if problem else (engine, "")
        except Exception as error:  # of a part of llguidance that is written in Python
            return None, _shown(str(error) or type(error).__name__)

    def _place(self, schema: dict[str, Any], problem: str) -> tuple[str, str]:
        """Where in a schema the innermost part is that alone has a problem, too, and the problem."""
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        place, part, tries = "#", schema, 0
        while True:
            for step, child in _parts(part):
                tries += 1
                alone = Structure("schema", json.dumps(shared | child, ensure_ascii=False))
                if tries > MOST_TRIES:
                    return place, problem
                engine, found = self._tried(alone)
                if engine is None and found == problem:
                    place, part = f"{place}/{step}", child
                    break
            else:
                return place, problem


class _Vocabulary:
    """A tokenizer as llguidance's wrapper takes it."""

    bos_token_id = None

    def __init__(self, tokenizer: TextTokenizer) -> None:
        special = {number: name.encode() for name, number in tokenizer.special_tokens.items()}
        self.tokens = [special.get(number) or tokenizer.token_bytes(number) for number in range(tokenizer.size)]
        self.special_token_ids, self.eos_token_id = sorted(special), min(tokenizer.stop_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_segments([Segment(text)])


def _grammar(structure: Structure) -> str:
    """A structure in llguidance's own form."""
    from llguidance import LLMatcher, grammar_from

    if structure.kind == "schema":
        return LLMatcher.grammar_from_json_schema(
            structure.text, overrides={"whitespace_pattern": WHITE_SPACE, "lenient": False}
        )
    if structure.kind == "choice":  # as one expression, since a rule of many alternatives takes an item for each
        return LLMatcher.grammar_from_regex("|".join(map(_escaped, json.loads(structure.text))))
    return grammar_from(structure.kind, structure.text)


def _escaped(text: str) -> str:
    """An expression that matches a text alone."""
    return "".join(each if each.isalnum() else f"\\x{{{ord(each):x}}}" for each in text)


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas within a schema, each with the step of a JSON pointer that leads there."""
    for key in ("properties", "patternProperties", "$defs", "definitions", "anyOf", "allOf", "oneOf", "prefixItems"):
        found = schema.get(key)
        named = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        for name, part in named:
            if isinstance(part, dict):
                yield f"{key}/{str(name).replace('~', '~0').replace('/', '~1')}", part
    for key in ("items", "additionalProperties"):
        if isinstance(part := schema.get(key), dict):
            yield key, part


def _on_deep_stack(work: Callable[[], LLMatcher]) -> LLMatcher:
    """What ``work`` returns, in a thread whose stack llguidance's recursion cannot exhaust."""
    made: list[LLMatcher] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            made.append(work())
        except BaseException as error:  # a panic in Rust is no Exception
            failed.append(error)

    thread = threading.Thread(target=run, name="mimo-grammar")
    with _stack_lock:
        before = threading.stack_size(STACK_BYTES)
        try:
            thread.start()
        except RuntimeError as error:
            raise SessionError("there is no memory to compile a structure in; close something") from error
        finally:
            threading.stack_size(before)
    thread.join()
    if failed:
        raise failed[0] if isinstance(failed[0], Exception) else BadArgumentError("the structure cannot be compiled")
    return made[0]


def _shown(problem: str) -> str:
    """A message of llguidance's, in one line."""
    line = " ".join(problem.split())
    return printable(line if len(line) <= LONGEST_PROBLEM else f"{line[:LONGEST_PROBLEM]}…")
