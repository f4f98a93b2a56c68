"""Cases of structures for tests/golden/structures.json: which texts keep to a schema, to a grammar or to choices."""

from __future__ import annotations

from typing import Any

import numpy as np

from mimo_mobile.hub import resolve
from mimo_mobile.runtime import Structure
from mimo_mobile.runtime.decode.structured import Structures
from mimo_mobile.runtime.text.tokenizer import TextTokenizer
from tools.regex_cases import CLOSED, REGEXES
from tools.regex_cases import SCHEMAS as MORE_SCHEMAS

Case = dict[str, Any]

SCHEMAS: list[tuple[dict[str, Any], list[str]]] = [
    (
        {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}},
         "required": ["b"], **CLOSED},
        ['{"b": "x"}', '{"a": 1, "b": "x", "c": null}', '{"a":1,"b":"x"}', '{"b":"x","a":1}', '{"a": 1}', "{}",
         '{"b": "x",}', '{"b": "x", "d": 1}', '{\n  "b": "x"\n}', '{  "b": "x"}', '{"b": 1}', '{"b": "x"} ',
         ' {"b": "x"}',
         '{"b" : "x"}', '{"b": "x", "c": null}', '{"a": -0, "b": ""}', '{"a": 01, "b": ""}', '{"b": "x"'],
    ),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}, "ab": {"type": "integer"}}},
        ["{}", '{"a": 1}', '{"ab": 2}', '{"a": 1, "ab": 2}', '{"z": [1, {}]}', '{"a": "x"}', '{"ab": 2, "abc": "x"}',
         '{"b": null, "c": true}', '{"": 1}', '{"ab": "x"}'],
    ),
    ({"type": "object", "additionalProperties": {"type": "boolean"}}, ["{}", '{"x": true, "y": false}', '{"x": 1}']),
    (
        {"type": "array", "items": {"type": "integer", "minimum": -12, "maximum": 305}, "minItems": 1, "maxItems": 3},
        ["[]", "[1]", "[1, 2, 3]", "[1,2,3]", "[1, 2, 3, 4]", "[-12]", "[-13]", "[305]", "[306]", "[0]", "[99]",
         "[-1, 300]",
         "[1000]", "[-120]", "[1.5]", "[ 1 ]", "[1 , 2]"],
    ),
    ({"type": "array", "items": {"type": "boolean"}}, ["[]", "[true]", "[true, false]", "[1]", "[true,]", "[ ]"]),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 0}, ["[]", "[null]"]),
    ({"type": "integer", "minimum": 7}, ["7", "6", "10", "123456789", "-7", "007", "8", "70"]),
    ({"type": "integer", "exclusiveMaximum": 0, "minimum": -100}, ["0", "-1", "-100", "-101", "-99", "1"]),
    ({"type": "integer"}, ["0", "-5", "12", "1.0", "1e3", "012", "+1", ""]),
    ({"type": "number"}, ["0", "-5.25", "1e10", "1E-3", "1.", ".5", "-", "1.5e+7", "00", "NaN"]),
    (
        {"type": "number", "minimum": 0, "maximum": 1},
        ["0", "1", "0.5", "0.00", "1.0", "1.00", "0.9990", "1.000001", "1.5", "-0.1", "-0", "-1", "2", "10", "1e-3",
         "0.", "00.5"],
    ),
    (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        ["0", "1", "0.5", "0.001", "0.999", "0.0", "1.0", "-0.5", "1.5", "0.0000001"],
    ),
    ({"type": "number", "minimum": 0}, ["0", "0.0", "12.5", "100", "-1", "-0.5", "1e5", "01.5"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0", "0.0", "0.001", "1", "10.0", "-1"]),
    ({"type": "number", "maximum": 0}, ["0", "-0.5", "-1", "-12.25", "0.5", "1", "-0"]),
    ({"type": "number", "exclusiveMaximum": -1.5}, ["-1.5", "-1.6", "-2", "-1.51", "-1", "0", "1.6", "-10.25"]),
    (
        {"type": "number", "minimum": -1.5, "maximum": 12.75},
        ["-1.5", "-1.51", "-1.6", "-1", "-0.25", "-2", "0", "9.99", "12", "12.75", "12.74", "12.76", "12.8", "13", "99",
         "-1.45"],
    ),
    (
        {"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 12.75},
        ["-1.5", "-1.51", "-1.49", "0", "12.75", "12.749", "12.751", "12", "13", "-2"],
    ),
    (
        {"type": "number", "minimum": 3.125, "maximum": 3.5},
        ["3.125", "3.124", "3.12", "3.1", "3", "3.2", "3.49", "3.5", "3.51", "3.6", "4", "3.1249", "3.1251"],
    ),
    (
        {"type": "number", "minimum": 0.001, "exclusiveMaximum": 1000},
        ["0.001", "0.0009", "0.0010", "0", "0.01", "999.99", "1000", "1000.0", "100", "999", "1001", "-0.001"],
    ),
    (
        {"type": "number", "minimum": -20, "maximum": -0.25},
        ["-20", "-20.0", "-20.5", "-0.25", "-0.24", "-3.5", "-21", "0", "3"],
    ),
    ({"minimum": 0.5, "exclusiveMinimum": 0.25}, ["0.5", "0.3", "0.25", "7", "null", '"a"', "[0]", "1e3"]),
    ({"type": ["integer", "null"], "minimum": 0.5, "exclusiveMaximum": 3}, ["0", "1", "2", "3", "null", "1.5"]),
    (
        {"type": "array", "items": {"type": "number", "minimum": 0.1, "maximum": 99.9}},
        ["[]", "[0.1, 99.9]", "[0.05]", "[1,2.5]", "[100]", "[99.91]", "[99.8, 0]"],
    ),
    (
        {"type": "string", "minLength": 2, "maxLength": 4},
        ['"ab"', '"a"', '"abcd"', '"abcde"', '"é计"', '"🙂🙂"', '"\\n\\u00e9"', '"a\\q"', "ab", '"a\nb"', '"\\""',
         '"\\"b"'],
    ),
    ({"type": "string"}, ['""', '"<tool_call> \\\\ \\/ é 🙂"', '"', '"a" "', '"\\u12"', '"\t"', '"\\u001F\\u007f"',
     '"\\u00e9"', '"\\u0041"', '"\x7f"', '"\\\\\\n\\b"']),
    ({"type": ["string", "null"]}, ['"a"', "null", "1"]),
    ({"enum": ["red", "green", 5, None, True]}, ['"red"', '"gree"', '"green"', "5", "null", "true", "false", "55",
     "red"]),
    ({"const": {"a": [1, "x"], "b": {}}}, ['{"a": [1, "x"], "b": {}}', '{"a":[1,"x"],"b":{}}', '{"a": [1], "b": {}}']),
    ({"type": "string", "enum": ["a", 1]}, ['"a"', "1"]),
    ({"const": 1.0}, ["1", "1.0", "1.00", "1e0", "10"]),
    (
        {"enum": [0.5, -2.50, 1e20, 1e-7, 2.5e22, 0.0, 123456789.125, 0.30000000000000004, 7]},
        ["0.5", "0.50", "-2.5", "-2.50", "1e20", "1e+20", "100000000000000000000", "1e-07", "0.0000001",
         "25000000000000000000000", "0", "0.0", "123456789.125", "0.30000000000000004", "0.3", "7", "7.0"],
    ),
    ({"type": "integer", "enum": [2.0, 3]}, ["1", "2", "2.0", "3"]),
    ({"const": {"a": [1.0, 2.5]}}, ['{"a": [1, 2.5]}', '{"a": [1.0, 2.5]}']),
    (
        {"type": "object", "required": ["a"]},
        ["{}", '{"a": 1}', '{"a": null, "b": [2]}', '{"b": 1}', '{"b": 1, "a": 2}', '{"a": 1, "a": 2}'],
    ),
    (
        {"type": "object", "properties": {"b": {"type": "integer"}, "d": {"type": "null"}},
         "required": ["c", "b", "a", "c"], "additionalProperties": {"type": "boolean"}},
        ['{"b": 2, "c": true, "a": false}', '{"b": 2, "d": null, "c": true, "a": false, "e": true}',
         '{"b": 2, "a": false, "c": true}', '{"b": 2, "c": 3, "a": false}', '{"c": true, "a": false}',
         '{"b": 2, "c": true}',
         '{"b": 2, "c": true, "a": false, "c": true}', '{"b": 2, "c": true, "a": false, "ab": true, "cc": false}',
         '{"b": 2, "c": true, "a": false, "e": 1}', "{}"],
    ),
    ({"required": ["é\n"]}, ["1", "{}", '{"é\\n": 1}', '{"é": 1}']),
    ({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}, ["3", '["x"]', '"x"', "[3]"]),
    (
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
            "value": {"type": "integer"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}},
            "required": ["value", "next"], **CLOSED}}},
        ['{"value": 1, "next": null}', '{"value": 1, "next": {"value": 2, "next": null}}', '{"value": 1}',
         '{"value": 1, "next": {}}'],
    ),
    ({}, ["1", '"x"', "[1, [2, {}]]", '{"a": {"b": null}}', "tru", "true", "nul"]),
    (
        {"type": "object", "properties": {'say "é"\\\n': {"type": "boolean"}}, "required": ['say "é"\\\n'], **CLOSED},
        ['{"say \\"é\\"\\\\\\n": true}', '{"say": true}'],
    ),
    (
        {"type": "object", "title": "t", "description": "d", "properties": {"x": {
            "type": "array", "items": {"type": "object", "properties": {"y": {"type": "integer",
            "default": 1}}, **CLOSED}}},
         "required": ["x"], **CLOSED},
        ['{"x": [{"y": 1}, {}]}', '{"x": []}', '{"x": [{"z": 1}]}', '{"x": {}}'],
    ),
]  # fmt: skip

OTHERS: list[tuple[Structure, list[str]]] = [
    (
        Structure.choice(["yes", "yesterday", "no", 'say "a"\n', "计算 é", "🙂", "🙃", "\\d"]),
        ["yes", "yesterday", "yest", "no", "nono", 'say "a"\n', "计算 é", "🙂", "🙃", "\\d", "", "ye"],
    ),
    (
        Structure.grammar('root ::= "The answer is " digit digit? "."\ndigit ::= [0-9]'),
        ["The answer is 5.", "The answer is 55.", "The answer is 555.", "The answer is .", "the answer is 5."],
    ),
    (
        Structure.grammar('# a list\nroot ::= item ("," item){1,2} # end\nitem ::= ([a-c] | "x" [^0-9])+\n'),
        ["a,b", "a,b,c", "a", "a,b,c,a", "xé,ab", "x1,a", "axz,cc"],
    ),
]


def cases() -> list[Case]:
    """All of them, with Python's verdicts."""
    structures = Structures(TextTokenizer.from_file(resolve("nano").path / "tokenizer.json"))
    tokenizer = TextTokenizer.from_file(resolve("nano").path / "tokenizer.json")
    found: list[Case] = []
    schemas = [(Structure.schema(schema), texts) for schema, texts in (*SCHEMAS, *MORE_SCHEMAS)]
    regexes = [(Structure.regex(expression), texts) for expression, texts in REGEXES]
    for structure, texts in [*schemas, *OTHERS, *regexes]:
        verdicts = [(text, keeps(structures, tokenizer, structure, text)) for text in texts]
        found.append({"kind": structure.kind, "structure": structure.text, "verdicts": verdicts})
    return found


def keeps(structures: Structures, tokenizer: TextTokenizer, structure: Structure, text: str) -> bool:
    """Whether a text is a whole answer of a structure."""
    answer, zeros = structures.answer(structure, thinks=False), np.zeros(tokenizer.size, np.float32)
    for token in tokenizer.encode(text):
        if answer.mask(zeros)[token] != 0:
            return False
        answer.accept(token)
    return bool(answer.over or answer.mask(zeros)[min(tokenizer.stop_ids)] == 0)
