"""Writes the classes of regular expressions that the Kotlin library has from llguidance, so that both mean the same.

`python -m tools.unicode_classes` prints UnicodeClasses.kt; tests/test_android_grammar.py sees that the file is that.
"""

from __future__ import annotations

from collections.abc import Iterator

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

NAMES = {"digit": r"\d", "space": r"\s", "word": r"\w"}
LINE = 112

KOTLIN = """package io.github.mimomobile.runtime.grammar

/** What `\\d`, `\\s` and `\\w` mean in Python's library; tools/unicode_classes.py writes this file. */
internal object UnicodeClasses {{
{classes}
    /** Of each range how far it begins behind the one before, and how long it is, in base 36. */
    private fun ranges(text: String): CharSet {{
        val found = mutableListOf<IntRange>()
        var next = 0
        for (range in text.split(' ')) {{
            val (gap, length) = range.split(':').let {{ Pair(it[0].toInt(36), it.getOrElse(1) {{ "1" }}.toInt(36)) }}
            found += next + gap until next + gap + length
            next += gap + length
        }}
        return CharSet.of(found)
    }}
}}
"""


class _Bytes:
    """A vocabulary of bytes."""

    bos_token_id, eos_token_id, special_token_ids = None, 256, (256,)
    tokens = (*(bytes([value]) for value in range(256)), b"<end>")

    def __call__(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode())


def ranges(expression: str) -> Iterator[tuple[int, int]]:
    """The first and the last of each range of characters that a class has, surrogates passed over."""
    matcher = LLMatcher(LLTokenizer(TokenizerWrapper(_Bytes())), LLMatcher.grammar_from_regex(expression))
    first = None
    for char in range(0x110000):
        if 0xD800 <= char <= 0xDFFF:
            continue
        data = list(chr(char).encode())
        found = matcher.validate_tokens(data) == len(data)
        if found and first is None:
            first = char
        if not found and first is not None:
            yield first, char - 1
            first = None


def kotlin() -> str:
    """UnicodeClasses.kt."""
    classes = []
    for name, expression in NAMES.items():
        parts, after = [], 0
        for first, last in ranges(expression):
            length = last - first + 1
            parts.append(_base36(first - after) + (f":{_base36(length)}" if length > 1 else ""))
            after = last + 1
        lines = [""]
        for part in parts:
            if len(lines[-1]) + len(part) > LINE:
                lines.append("")
            lines[-1] += f"{part} "
        text = " +\n".join(f'            "{line}"' for line in (*lines[:-1], lines[-1].rstrip()))
        classes.append(f"    val {name}: CharSet by lazy {{\n        ranges(\n{text},\n        )\n    }}\n")
    return KOTLIN.format(classes="\n".join(classes))


def _base36(value: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return digits[value] if value < 36 else _base36(value // 36) + digits[value % 36]


if __name__ == "__main__":
    print(kotlin(), end="")
