"""What an answer must be: JSON of a schema, what a regular expression matches, one of some texts, or a grammar's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mimo_mobile import untrusted
from mimo_mobile.arguments import check, check_fields, check_text
from mimo_mobile.errors import BadArgumentError

Kind = Literal["schema", "regex", "choice", "grammar"]

MOST_CHARACTERS = 65_536
"""So long a structure may be, since it may come from a stranger; large schemas in use have a third of it."""


@dataclass(frozen=True, slots=True)
class Structure:
    r"""What the answer of a generation must be; the thinking before it stays free.

    ``schema``, ``regex``, ``choice`` and ``grammar`` make one. Tokens that would leave the structure are never taken.
    The answer is whole when the generation ends with ``stop`` and no stop string cut it.

    >>> Structure.regex(r"-?\d+")
    Structure(kind='regex', text='-?\\d+')

    Attributes:
        kind: ``schema``, ``regex``, ``choice`` or ``grammar``.
        text: The schema or the choices as JSON, the expression, or the grammar.
    """

    kind: Kind
    text: str

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            BadArgumentError: The text is empty, too long, or no JSON where it should be.
        """
        check_fields(self)
        check_text(self.text, self.kind)
        if not self.text or len(self.text) > MOST_CHARACTERS:
            raise BadArgumentError(
                f"{self.kind}: {len(self.text)} characters found, from 1 to {MOST_CHARACTERS} expected; make it shorter"
            )
        if self.kind in ("schema", "choice"):
            value = _parsed(self.kind, self.text)
            if self.kind == "schema":
                if not isinstance(value, dict):
                    raise BadArgumentError(f"schema: {type(value).__name__} found, a JSON object expected")
            elif not (isinstance(value, list) and value and all(isinstance(each, str) and each for each in value)):
                raise BadArgumentError("choice: a list of texts expected, at least one, and none of them empty")

    @classmethod
    def schema(cls, schema: Mapping[str, Any] | str) -> Structure:
        """JSON that a JSON schema describes, given as a mapping or as its text.

        Objects have their properties in the schema's order. Draft 2020-12 is read, except for what no grammar can
        express, such as ``not`` and ``uniqueItems``, which is an error.

        Raises:
            BadArgumentError: It is no JSON object, or too long.
        """
        if isinstance(schema, str):
            return cls("schema", schema)
        return cls("schema", _dumped("schema", check("schema", schema, Mapping)))

    @classmethod
    def regex(cls, expression: str) -> Structure:
        """What a regular expression matches from its beginning to its end, in Rust's syntax.

        Raises:
            BadArgumentError: It is empty, or too long.
        """
        return cls("regex", expression)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Structure:
        """One of some texts.

        Raises:
            BadArgumentError: There are none, one is empty, or they are too long.
        """
        return cls("choice", _dumped("choice", list(check("choice", texts, Sequence[str]))))

    @classmethod
    def grammar(cls, text: str) -> Structure:
        """What a grammar describes: llguidance's Lark, with a rule ``start``, or llama.cpp's GBNF, with ``root``.

        Raises:
            BadArgumentError: It is empty, or too long.
        """
        return cls("grammar", text)


def _parsed(kind: str, text: str) -> Any:
    try:
        return untrusted.parse_json(text)
    except ValueError as error:
        raise BadArgumentError(f"{kind}: no JSON: {error}") from error


def _dumped(kind: str, value: object) -> str:
    try:
        return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArgumentError(f"{kind}: it cannot be written as JSON: {error}") from error
