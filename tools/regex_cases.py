"""Regular expressions and texts for tests/golden/structures.json, most of them one part of the syntax each."""

from __future__ import annotations

from typing import Any

REGEXES: list[tuple[str, list[str]]] = [
    ("^a$", ["a", "aa", "b"]),
    ("^a|b$", ["a", "b", "ab"]),
    (r"\Aa\z|^$", ["a", "", "aa"]),
    ("a*?b", ["aab", "b", "aabb"]),
    ("(?:ab)+", ["abab", "ab", "aba", ""]),
    ("(?<first>a)(?P<second_2>b)?", ["a", "ab", "b"]),
    (r"\d+", ["1", "٣9", "x", "", "½"]),
    (r"\w{3}", ["é_1", "计算x", "a-b", "ab"]),
    (r"\s", [" ", "\xa0", "\n", "\u200b", "\u3000"]),
    (r"\D\W\S", ["a-a", "1-a", "aaa", "a- ", "🙂🙂🙂"]),
    (r"[^\W\d_]+", ["é", "a1", "计算", "_"]),
    (r"[\d.,-]+", ["1.2,3-", "a"]),
    (".", ["\n", "\r", "🙂", "\u2028", "ab"]),
    ("[^a]", ["b", "\n", "a", "é", ""]),
    ("[]a]+", ["]a", "b"]),
    ("[^]a]", ["]", "b"]),
    ("[a-]", ["-", "a", "b"]),
    ("[--a]", ["-", "a", "."]),
    ("[]-a]", ["]", "-", "a", "^"]),
    (r"[\--a]", ["-", ".", "a", "b"]),
    ("[a-c-e]", ["-", "b", "d", "e"]),
    (r"[a\-z\]^$.|]", ["-", "]", "^", "$", ".", "|", "b"]),
    ("[é-í计]", ["é", "í", "计", "a", "算"]),
    ("[🙂-🙅]{2}", ["🙂🙃", "🙅🙅", "🙂", "🙆🙂"]),
    (r"\x41\u0042\u{43}\U00000044\x{1F642}", ["ABCD🙂", "ABCD"]),
    (r"\n\t\r\f\v\a", ["\n\t\r\f\v\a", "ntrfva"]),
    (r"\.\*\+\?\(\)\[\]\{\}\|\^\$\\\/\-\#\&\~\ \_\%", [".*+?()[]{}|^$\\/-#&~ _%", "."]),
    ("a{2}b{2,}c{1,3}d{0}", ["aabbc", "aabbbbccc", "aabc", "aabbcccc", "aabbcd"]),
    ("a{ 1 , 2 }", ["a", "aa", "aaa"]),
    ("(a{3}){2}", ["aaaaaa", "aaaaa"]),
    ("a{3}{2}", ["aaaaaa", "aaa"]),
    ("a**b++", ["b", "aabb", "a"]),
    ("a]}", ["a]}", "a"]),
    ("()", ["", "a"]),
    ("a|", ["a", "", "b"]),
    ("(a?)*b", ["aab", "b", "c"]),
    ("(a|b?c*)+", ["", "abcca", "d"]),
    ("(?:a|)+b", ["b", "aab", "a"]),
    ("(a|aa)+", ["aaaaa", ""]),
    ("((((a))))", ["a"]),
    ("a #b\nc", ["a #b\nc", "a"]),
    ("<think>|<tool_call>", ["<think>", "<tool_call>", "<think"]),
    ("é+計?", ["éé計", "é", "計"]),
    (r"-?\d{1,6}(\.\d+)?", ["-12.5", "1234567", "1.", ""]),
    (r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", ["2026-11-29", "2026-13-01", "2026-1-1"]),
    (r"[\w.+-]+@[\w-]+(\.[\w-]+)+", ["a.b+c@é-x.org", "a@b", "@b.c"]),
    (r"(yes|no)(, (yes|no)){0,3}\.", ["yes.", "yes, no, no.", "yes, maybe.", "yes, no, no, no, no."]),
    (r"[^\x00-\x7F]+", ["é计🙂", "a", "éa"]),
    ("(?:the )?answer is [0-9]+", ["the answer is 42", "answer is 7", "answer is "]),
    ("(x{0,40}y){2,3}", ["xxyxy", "yyy", "y", "x" * 41 + "yy"]),
]

CLOSED = {"additionalProperties": False}
LETTERS = ['"a"', '"b"', '"\\""', '"\\n"', '"\\u000a"', '"\\u000A"', '"\\u0022"', '"\\\\"', '"\\u007f"', '"\\u007F"',
           '"\\t"', '"\\u0001"', '"\x7f"', '"é"', '"\\u0000"', '"\n"', '"ab"', '""']  # fmt: skip


def _string(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def _format(name: str) -> dict[str, Any]:
    return {"type": "string", "format": name}


SCHEMAS: list[tuple[dict[str, Any], list[str]]] = [
    (_string("b"), ['"b"', '"abc"', '"ac"', '"a\\nb"', '"\\"b"', "b", '""']),
    (_string("^b"), ['"b"', '"ab"', '"ba"']),
    (_string("b$"), ['"b"', '"ab"', '"ba"']),
    (_string("^a|b$"), ['"a"', '"xa"', '"ax"', '"xb"']),
    (_string(""), ['"a"', '""']),
    (_string("^[^a]$"), LETTERS),
    (_string(r"^[\n\"\\]$"), LETTERS),
    (_string(r"^\W$"), LETTERS),
    (_string("^.$"), LETTERS),
    (_string(r"^\w+$"), ['"é_1"', '"a_1"', '"-"']),
    (_string(r"^\d\D$"), ['"1x"', '"٣x"', '"1٣"', '"12"']),
    (_string(r"^\s$"), ['" "', '"\\t"', '"\u3000"', '"a"']),
    (_string(r"^(\([0-9]{3}\))?[0-9]{3}-[0-9]{4}$"), ['"555-1212"', '"(888)555-1212"', '"(888)555-1212 x"']),
    ({"pattern": "^a$"}, ['"a"', '"b"', "1"]),
    ({"type": ["string", "null"], "format": "date"}, ['"2020-02-29"', '"2020-02-30"', '"2020-04-31"', '"2020-12-31"',
                                                      '"2020-13-01"', '"20200101"', "null", '"x"']),
    (_format("time"), ['"12:00:00z"', '"23:59:60+00:00"', '"24:00:00Z"', '"12:00:00"', '"12:00:00.5Z"', '"12:00:00.Z"',
                       '"12:00:00+24:00"']),
    (_format("date-time"), ['"2020-01-31T12:00:00Z"', '"2020-01-31 12:00:00Z"', '"2020-01-31t12:00:00.25-08:00"']),
    (_format("uuid"), ['"123e4567-e89b-12d3-A456-426614174000"', '"123e4567e89b12d3a456426614174000"', '"x"']),
    (_format("ipv4"), ['"255.0.10.199"', '"256.1.1.1"', '"01.1.1.1"', '"1.1.1"']),
    (_format("email"), ['"a@b"', '"a.b+c@x-y.org"', '"é@b.c"', '"a@[1.2.3.4]"', '"a..b@c"', '"a"']),
    (_format("hostname"), ['"a"', '"x-1.example.org"', '"-a"', '"a..b"']),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"a"', "null"]),
    ({"oneOf": [{"const": "a"}, {"enum": ["b", 1]}]}, ['"a"', '"b"', "1", '"c"']),
    (
        {"oneOf": [{"type": "object", "properties": {"k": {"const": kind}, kind: {"type": "integer"}},
                    "required": ["k", kind], **CLOSED} for kind in ("x", "y")]},
        ['{"k": "x", "x": 1}', '{"k": "y", "y": 1}', '{"k": "x", "y": 1}', '{"k": "z"}'],
    ),
    ({"allOf": [{"$ref": "#/$defs/a"}], "description": "x", "$defs": {"a": {"type": "integer"}}}, ["1", '"a"']),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
     ["[]", "[1]", '[1, "a"]', '[1, "a", null]', '["a"]', "[1, 2]"]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
     ["[]", "[1]", '[1, "a"]', '[1, "a", null]']),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": {"type": "string"},
      "minItems": 2, "maxItems": 4},
     ["[1]", "[1, null]", '[1, null, "b", "c"]', '[1, null, "b", "c", "d"]', "[1, null, 2]"]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "minItems": 1, "maxItems": 1},
     ["[]", "[1]", "[1, null]"]),
    ({"type": "array", "items": False}, ["[]", "[1]"]),
    ({"type": "integer", "minimum": 1.5, "maximum": 10.0}, ["1", "2", "10", "11"]),
    ({"type": "integer", "exclusiveMinimum": -2.5, "exclusiveMaximum": 3.5}, ["-3", "-2", "3", "4"]),
    ({"type": "string", "maxLength": 3000}, ['"abc"', '""']),
]  # fmt: skip
