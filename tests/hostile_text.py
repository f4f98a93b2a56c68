"""Chat templates and tokenizer.json files that would take all time or memory, crash a library, or forge something.

Each kind is here in several spellings. ``cases`` puts them into model folders that are whole otherwise.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimo_mobile.convert.model import convert_checkpoint
from mimo_mobile.hub import Source
from mimo_mobile.layout import CHAT_TEMPLATE, TOKENIZER
from tests.tiny import write_tiny_checkpoint

_BIG = 10**9


def templates() -> Iterator[tuple[str, str]]:
    """Templates that must each be one clear error, by name."""
    yield from _growing()
    yield from _endless()
    yield from _nested()
    yield from _forbidden()
    yield from _strange()


def _growing() -> Iterator[tuple[str, str]]:
    for given, text in (("a constant", "'a'"), ("a role", "messages[0].role")):
        for name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
            yield f"{name} of {given}", f"{{{{ {text}.{name}({_BIG}) }}}}"
        yield f"{given} times a number", f"{{{{ {text} * {_BIG} }}}}"
        yield f"a number times {given}", f"{{{{ {_BIG} * {text} }}}}"
        yield f"a list of {given} times a number", f"{{{{ ([{text}] * {_BIG}) | length }}}}"
        yield f"{given} by the filter center", f"{{{{ {text} | center({_BIG}) }}}}"
        yield f"{given} by the filter indent", f"{{{{ {text} | indent({_BIG}, true) }}}}"
        yield f"{given} by a format", f"{{{{ '%{_BIG}s' | format({text}) }}}}"
        yield f"{given} by the operator of formats", f"{{{{ '%{_BIG}s' % {text} }}}}"
        yield f"{given} by a format with a width given", f"{{{{ '%*s' | format({_BIG}, {text}) }}}}"
        yield f"{given} by str.format", f"{{{{ '{{:>{_BIG}}}'.format({text}) }}}}"
    yield "a number by a format", f"{{{{ '%{_BIG}d' % 1 }}}}"
    yield "a number with decimals", f"{{{{ '%.{_BIG}f' % 1 }}}}"
    yield "many columns", "{{ " + "'" + "%999d" * 20_000 + "' % range(20000) | list }}"
    yield "the filter batch", f"{{{{ 'ab' | batch({_BIG}, 'x') | list }}}}"
    yield "the filter slice", f"{{{{ 'ab' | slice({_BIG}) | list }}}}"
    yield "the filter wordwrap", f"{{{{ 'a b' | wordwrap(1, wrapstring='x' * {_BIG}) }}}}"
    yield "lorem ipsum", f"{{{{ lipsum(n={_BIG}) }}}}"
    yield "JSON indented", f"{{{{ [[[1]]] | tojson(indent={_BIG}) }}}}"
    yield "JSON indented by a text", "{{ [[[1]]] | tojson(indent='" + "a" * 60_000 + "') }}"
    yield "JSON separated", "{{ range(9999) | tojson(separators=('" + "a" * 60_000 + "', ':')) }}"
    yield "a power", "{{ 2 ** 10 ** 9 }}"
    yield "a power of powers", "{{ 10 ** 10 ** 10 }}"
    yield (
        "a power in parts",
        "{% set ns = namespace(x=3) %}{% for i in range(40) %}{% set ns.x = ns.x ** 2 %}{% endfor %}",
    )
    yield "a number of many digits", "{{ " + "9" * 4000 + " }}"
    yield "a number of too many digits", "{{ " + "9" * 60_000 + " }}"
    yield "a hexadecimal number", "{{ 0x" + "f" * 60_000 + " * 2 }}"
    yield "a range", f"{{{{ range({_BIG}) | list | length }}}}"
    yield "a huge range", f"{{% for i in range({10**30}) %}}{{% endfor %}}"
    grow = (
        "{{% set ns = namespace(x='ab') %}}{{% for i in range(60) %}}{{% set ns.x = {} %}}{{% endfor %}}{{{{ ns.x }}}}"
    )
    for name, doubled in {
        "~": "ns.x ~ ns.x", "+": "ns.x + ns.x", "join": "[ns.x, ns.x] | join",
        "join by a method": "'-'.join([ns.x, ns.x])", "format": "'%s%s' | format(ns.x, ns.x)",
        "replace": "ns.x | replace('a', ns.x)", "replace by a method": "ns.x.replace('a', ns.x)",
        "replace of nothing": "ns.x.replace('', ns.x)", "%": "'%s%s' % (ns.x, ns.x)",
        "lists": "[ns.x, ns.x]", "lists as text": "[ns.x, ns.x] | string", "JSON": "[ns.x, ns.x] | tojson",
        "lists together": "(ns.x | list) + (ns.x | list)", "dicts": "{'a': ns.x, 'b': ns.x}", "times": "ns.x * 2",
        "join by what grows": "[1, 2, 3] | join(ns.x)", "upper": "(ns.x ~ ns.x) | upper | title | capitalize",
        "tuples": "(ns.x, ns.x)", "map": "([ns.x] * 2) | map('string') | join",
        "a default": "nothing | default(ns.x ~ ns.x)",
    }.items():  # fmt: skip
        yield f"doubled by {name}", grow.format(doubled)
    yield (
        "doubled in a block",
        grow.replace(
            "{{% set ns.x = {} %}}", "{{% set y %}}{{{{ ns.x }}}}{{{{ ns.x }}}}{{% endset %}}{{% set ns.x = y %}}"
        ).format(),
    )
    yield (
        "doubled in a macro",
        grow.replace("{{% set ns", "{{% macro m(x) %}}{{{{ x }}}}{{{{ x }}}}{{% endmacro %}}{{% set ns", 1).format(
            "m(ns.x)"
        ),
    )
    yield (
        "compared while it doubles",
        grow.replace("{{{{ ns.x }}}}", "{{% if ns.x == [ns.x] %}}{{% endif %}}").format("[ns.x, ns.x]"),
    )
    yield "a key of doubled tuples", grow.replace("{{{{ ns.x }}}}", "{{{{ {{ns.x: 1}} }}}}").format("(ns.x, ns.x)")
    yield (
        "looked up by doubled tuples",
        grow.replace("{{{{ ns.x }}}}", "{{{{ messages[0][ns.x] }}}}").format("(ns.x, ns.x)") + "{{ 1 // 0 }}",
    )
    yield "long text in a loop", "{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}"
    yield "long text in a block", "{% set x %}{% for i in range(99999) %}" + "a" * 100_000 + "{% endfor %}{% endset %}"


def _endless() -> Iterator[tuple[str, str]]:
    opened, closed = "{% for i in range(99999) %}", "{% endfor %}"
    for depth in (2, 5, 15):
        yield f"{depth} ranges nested", opened * depth + "x" + closed * depth
        yield f"{depth} ranges nested and empty", opened * depth + closed * depth
    yield (
        "a loop over a long text",
        "{% set x = 'a' * 3000000 %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    )
    yield "a loop with a condition", "{% for i in range(99999) for j in [1] %}{% endfor %}"
    yield "filtered loops", "{% for i in range(99999) if i < 0 %}{% endfor %}" * 40
    yield "a long body without operations", (opened + "{% if a and b %}{% endif %}" * 4000 + closed)
    yield "a long body of assignments", (opened + "{% set a = b %}" * 6000 + closed)
    yield (
        "a macro with a long body",
        ("{% macro m() %}" + "{% set a = b %}" * 4000 + "{% endmacro %}" + opened + "{{ m() }}" + closed),
    )
    yield "a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"
    yield (
        "a macro that calls itself twice",
        ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}"),
    )
    yield (
        "macros that call each other",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    )
    yield "a macro given to itself", "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}"
    yield "a recursive loop", "{% for i in [[1]] recursive %}{{ loop([i]) }}{% endfor %}"
    yield (
        "a call block",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}x{% endcall %}{% endcall %}{{ m() }}",
    )
    yield (
        "searching for long words",
        (
            "{% set x = 'a' * 900000 %}{% set y = 'a' * 450000 ~ 'b' ~ 'a' * 10 %}"
            "{% for i in range(9999) %}{{ y in x }}{{ x.rfind(y) }}{{ x.count(y) }}{{ x.strip(y) }}{% endfor %}"
        ),
    )
    yield "searching from behind", "{% set x = 'a' * 2000000 %}{{ x.rfind('b' ~ 'a' * 999999) }}{{ 1 // 0 }}"
    yield "stripping many characters", "{% set x = 'a' * 900000 %}{{ x.strip('b' * 900000 ~ 'a') }}{{ 1 // 0 }}"
    yield "splitting at every character", "{% set x = ' a' * 2000000 %}" + "{% set y = x.split() %}" * 50
    yield "sorting", "{% set x = range(99999) | list %}" + "{{ (x | sort(reverse=true))[0] }}" * 900
    yield "unique values", "{% set x = range(99999) | list %}" + "{{ (x | unique)[0] }}" * 900
    yield (
        "comparing long lists",
        "{% set x = range(99999) | list %}{% for i in x %}{% if x == x + [] %}{% endif %}{% endfor %}",
    )
    yield "looking through long lists", "{% set x = range(99999) | list %}{% for i in x %}{{ -1 in x }}{% endfor %}"
    yield "selecting in loops", "{% for i in range(999) %}{{ range(9999) | select('odd') | list | length }}{% endfor %}"
    yield "mapping in loops", "{% for i in range(999) %}{{ range(9999) | map('string') | join }}{% endfor %}"
    yield "grouping", "{{ range(999999) | groupby('x') }}"
    yield "striptags", "{{ ('<' * 999999) | striptags }}"
    yield "urlize", "{{ ('a@' * 999999) | urlize }}"
    yield "wordcount", "{{ ('a ' * 99999999) | wordcount }}"


def _nested() -> Iterator[tuple[str, str]]:
    for depth in (150, 1000, 20_000):
        yield f"{depth} parentheses", "{{ " + "(" * depth + "1" + ")" * depth + " + nothing.at.all }}"
        yield f"{depth} lists", "{{ " + "[" * depth + "]" * depth + " }}"
        yield f"{depth} dicts", "{{ " + "{1:" * depth + "1" + "}" * depth + " }}"
        yield f"{depth} times not", "{{ " + "not " * depth + "nothing.at.all }}"
        yield f"{depth} signs", "{{ " + "-" * depth + "1 + nothing.at.all }}"
        yield f"{depth} sums", "{{ 1" + " + 1" * depth + " + nothing.at.all }}"
        yield f"{depth} attributes", "{{ a" + ".a" * depth + " }}"
        yield f"{depth} filters", "{{ nothing.at.all" + "|trim" * depth + " }}"
        yield f"{depth} conditions", "{% if 1 %}" * depth + "{{ nothing.at.all }}" + "{% endif %}" * depth
    yield "30 loops", "{% for i in [1] %}" * 30 + "{{ nothing.at.all }}" + "{% endfor %}" * 30
    yield (
        "a list in itself, often",
        ("{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"),
    )
    yield "many macros", "".join(f"{{% macro m{i}() %}}{{% endmacro %}}" for i in range(4000))
    yield "100 MB", "a" * 100_000_000
    yield "1 MB of tags", "{{ a }}" * 150_000
    yield "openings only", "{%" * 60_000
    yield "a comment without end", "{#" * 60_000


def _forbidden() -> Iterator[tuple[str, str]]:
    for statement in ("include", "extends", "import"):
        yield f"to {statement}", f"{{% {statement} '/etc/passwd' {'as x' if statement == 'import' else ''} %}}"
    yield "to import from", "{% from '/etc/passwd' import x %}"
    yield "a block", "{% block x %}{{ self.x() }}{% endblock %}"
    yield "a filter for a block", "{% filter upper %}x{% endfilter %}"
    yield "autoescape", "{% autoescape true %}x{% endautoescape %}"
    for name, text in {
        "classes": "''.__class__.__mro__[1].__subclasses__()",
        "globals of a function": "range.__globals__.os",
        "globals of a filter": "cycler.__init__.__globals__.os.popen('id').read()",
        "a loop's class": "loop.__class__",
        "an attribute by a filter": "'' | attr('__class__')",
        "a namespace's class": "namespace().__class__.mro()",
        "a namespace by itself": "namespace()['_Namespace__attrs'].x",
        "a format's fields": "'{0.__class__}'.format(1)",
        "a format's fields by a map": "'{x.__class__}'.format_map({'x': 1})",
        "a list that grows": "messages.append(1)",
        "a dict that grows": "messages[0].update({'a': 1})",
        "a message that is taken away": "messages.pop()",
        "the template itself": "self",
        "a method": "messages[0].items",
        "a function": "range",
        "joiner": "joiner()",
        "cycler": "cycler(1)",
        "debug": "debug()",
        "random": "[1] | random",
        "pprint": "messages | pprint",
        "xmlattr": "{'a': 1} | xmlattr",
        "a translation": "'a'.translate({97: 'b' * 999})",
        "an encoding": "'a'.encode()",
        "spread arguments": "range(*[1])",
        "a namespace in itself": "[namespace(a=1)] | string",
    }.items():
        yield name, f"{{{{ {text} }}}}"
    yield "a macro as a text", "{% macro m() %}{% endmacro %}{{ m }}"
    yield "a macro's function", "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}"
    yield "a loop as a text", "{% for i in [1] %}{{ loop }}{% endfor %}"
    yield "a namespace in a cycle", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x | string }}"


def _strange() -> Iterator[tuple[str, str]]:
    yield "half a surrogate pair", r"{{ '\ud800' }}"
    yield "half a surrogate pair as it stands", "\ud800"
    yield "a surrogate by a format", "{{ '%c' | format(57343) }}"
    yield "a surrogate by a number", "{{ '%c' % 55296 }}"
    yield "colours in a refusal", r"{{ raise_exception('\x1b[31mred\x1b[2J\r\n\u202e') }}"
    yield "a refusal of a megabyte", "{{ raise_exception('a' * 1000000) }}"
    yield "a refusal by a list", "{{ raise_exception([[]]) }}"
    yield "a syntax error in colours", "{% \x1b[31m %}"
    yield "an unknown name in colours", "{{ a['\x1b[31m'].b }}"
    yield "a division by zero", "{{ 1 / 0 }}"
    yield "StopIteration", "{{ [] | first.x }}{{ ([] | first).x }}"
    yield "nothing to unpack", "{% for a, b in [1] %}{% endfor %}"
    yield "a loop over a number", "{% for a in 7 %}{% endfor %}"
    yield "a range without end", "{{ range() }}"
    yield "an index beyond", "{{ messages[99999999999999999999].role }}"
    yield "a slice by zero", "{{ messages[::0] }}"
    yield "a slice by texts", "{{ messages['a':'b'] }}"
    yield "splitting at nothing", "{{ 'a'.split('') }}"
    yield "a keyword twice", "{{ 'a' | tojson(indent=1, indent=2) }}"
    yield "a break outside of loops", "{% break %}"
    yield "a date of a billion characters", f"{{{{ strftime_now('%{_BIG}d') }}}}"
    yield "an unknown filter", "{{ 1 | unknown }}"
    yield "an unknown test", "{{ 1 is unknown }}"
    yield "an unknown tag", "{% unknown %}"
    yield "not to be a number", "{{ 1e999 | int + nothing.at.all }}"
    yield "a large float", "{{ 1e308 ** 64 }}"


def tokenizers(base: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Contents of tokenizer.json that must each be one clear error, made from a good one, by name."""
    whole = json.dumps(base, ensure_ascii=False)
    for name, keys, value in _settings():
        changed = json.loads(whole)
        place = changed
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        yield name, json.dumps(changed, ensure_ascii=False)
    for name, keys in {
        "no model": ["model"], "no normalizer": ["normalizer"], "no pre-tokenizer": ["pre_tokenizer"],
        "no decoder": ["decoder"], "no vocabulary": ["model", "vocab"], "no merges": ["model", "merges"],
        "no added tokens": ["added_tokens"], "no type": ["model", "type"],
        "no pattern": ["pre_tokenizer", "pretokenizers", 0, "pattern"], "no token for a byte": ["model", "vocab", "!"],
        "a token that merges need is missing": ["model", "vocab", base["model"]["merges"][0][0]],
    }.items():  # fmt: skip
        changed = json.loads(whole)
        place = changed
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]
        yield name, json.dumps(changed, ensure_ascii=False)
    yield "nothing", ""
    yield "a list", "[]"
    yield "a number", "7"
    yield "half of it", whole[: len(whole) // 2]
    yield "lists in lists", "[" * 1_000_000
    yield "objects in objects", '{"model":' * 300_000
    yield "NaN", whole.replace('"dropout": null', '"dropout": NaN')
    yield "infinity", whole.replace('"dropout": null', '"dropout": 1e999')
    yield "a dropout of 10**400", whole.replace('"dropout": null', f'"dropout": 1{"0" * 400}')
    yield "the model twice", whole[:-1] + ', "model": {}}'
    yield "half a surrogate pair in a token", whole.replace('"!": 0', r'"\ud800": 0')
    yield "half a surrogate pair in an added token", whole.replace("<|im_start|>", r"\ud800")
    yield "values without number", '{"model": [' + "[]," * 3_000_000 + "[]]}"
    yield "60 MB", whole + " " * 60_000_000


def _settings() -> Iterator[tuple[str, list[Any], Any]]:
    """Names, places and values that do not belong there."""
    space = {"String": " "}
    regex = {"Regex": "(a|aa)+$"}
    normalizers = {
        "Replace": {"pattern": {"String": "a"}, "content": "a" * 100_000},
        "Replace by a pattern": {"pattern": regex, "content": ""},
        "Prepend": {"prepend": "a" * 1_000_000}, "Strip": {"strip_left": True, "strip_right": True}, "Lowercase": {},
        "Precompiled": {"precompiled_charsmap": "AAAA"},
        "Precompiled without end": {"precompiled_charsmap": "/////w==" * 9},
        "NFD": {}, "NFKC": {}, "StripAccents": {}, "Nmt": {}, "ByteLevel": {}, "Unknown": {},
        "BertNormalizer": {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "Sequence": {"normalizers": [{"type": "Replace", "pattern": {"String": ""}, "content": "x" * 999}] * 99},
        "Sequence of NFC": {"normalizers": [{"type": "NFC"}]},
    }  # fmt: skip
    for name, fields in normalizers.items():
        yield f"normalizer {name}", ["normalizer"], {"type": name.split()[0], **fields}
    yield "NFC with more", ["normalizer"], {"type": "NFC", "more": 1}
    yield "normalizer null", ["normalizer"], None
    yield "normalizer a text", ["normalizer"], "NFC"
    steps = ["pre_tokenizer", "pretokenizers"]
    for name, value in {
        "Metaspace": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True},
        "Whitespace": {"type": "Whitespace"}, "UnicodeScripts": {"type": "UnicodeScripts"},
        "Digits": {"type": "Digits"},
        "Punctuation": {"type": "Punctuation", "behavior": "Isolated"}, "null": None, "a list": [],
        "ByteLevel alone": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "Sequence of none": {"type": "Sequence", "pretokenizers": []},
        "Sequence of Sequences": {"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": []}] * 2},
    }.items():  # fmt: skip
        yield f"pre-tokenizer {name}", ["pre_tokenizer"], value
    yield "a pattern without end", [*steps, 0, "pattern"], {"Regex": "(?:(?:(?:a+)+)+)+$"}
    yield "a broken pattern", [*steps, 0, "pattern"], {"Regex": "(((("}
    yield "no object for a pattern", [*steps, 0, "pattern"], "a"
    yield "a text for a pattern", [*steps, 0, "pattern"], space
    yield "the pattern removed", [*steps, 0, "behavior"], "Removed"
    yield "the pattern inverted", [*steps, 0, "invert"], True
    yield "a number for no", [*steps, 0, "invert"], 0
    yield "a blank before", [*steps, 1, "add_prefix_space"], True
    yield "another pattern in it", [*steps, 1, "use_regex"], True
    for name in ("Unigram", "WordPiece", "WordLevel", "bpe", "", None, 7):
        yield f"model {name!r}", ["model", "type"], name
    model: dict[str, Any] = {
        "dropout": 0.5, "unk_token": "!", "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
        "fuse_unk": True,
        "byte_fallback": True, "ignore_merges": True, "cache_capacity": 10**12, "more": [],
    }  # fmt: skip
    for name, value in model.items():
        yield f"model with {name}", ["model", name], value
    for name, value in {
        "a list": [], "nothing": {}, "null": None, "texts for ids": {"!": "0"}, "fractions for ids": {"!": 0.5},
        "truth values for ids": {"!": True},
    }.items():  # fmt: skip
        yield f"vocabulary {name}", ["model", "vocab"], value
    for name, value in {
        "-1": -1, "2**32 - 1": 2**32 - 1, "2**32": 2**32, "2**62": 2**62, "10**30": 10**30, "5": 5, "0.5": 0.5,
    }.items():  # fmt: skip
        yield f"a token with id {name}", ["model", "vocab", "zz"], value
    yield "an empty token", ["model", "vocab", ""], 349
    yield "a token that is not of bytes", ["model", "vocab", "中"], 349
    yield "a token in colours", ["model", "vocab", "\x1b[31m"], 349
    yield "a token of 1 MB", ["model", "vocab", "z" * 1_000_000], 349
    for name, value in {
        "null": None, "an object": {}, "three parts": ["a b c"], "one part": ["ab"], "numbers": [[1, 2]],
        "nothing": [[]],
        "unknown tokens": [["é", "é"]], "empty parts": [["", "!"]], "a list of lists": [[["!"], ["!"]]],
        "null in it": [None],
    }.items():  # fmt: skip
        yield f"merges {name}", ["model", "merges"], value
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for name, value in {
        "without text": {"id": 349, "content": "", **flags}, "without id": {"content": "x", **flags}, "a text": "<x>",
        "with a large id": {"id": 2**32 - 1, "content": "<x>", **flags}, "below zero": {"id": -1,
        "content": "<x>", **flags},
        "with a text for an id": {"id": "7", "content": "<x>", **flags}, "of 1 MB": {"id": 349,
        "content": "x" * 10**6, **flags},
        "with a number for a flag": {"id": 349, "content": "<x>", **flags, "lstrip": 1},
        "with more": {"id": 349, "content": "<x>", **flags, "more": True}, "of another id": {"id": 349,
        "content": "!", **flags},
        "with a learnt id": {"id": 5, "content": "<x>", **flags}, "a number": 7,
    }.items():  # fmt: skip
        yield f"an added token {name}", ["added_tokens", 3], value
    yield "added tokens null", ["added_tokens"], None
    yield "an added token twice", ["added_tokens", 3], {"id": 320, "content": "<|endoftext|>", **flags}
    yield "stop tokens missing", ["added_tokens"], []
    yield (
        "a million added tokens",
        ["added_tokens"],
        [{"id": 400 + index, "content": f"<{index}>"} for index in range(300_000)],
    )
    for name in ("truncation", "padding"):
        yield f"{name} to 1e8", [name], {
            "strategy": {"Fixed": 10**8} if name == "padding" else "LongestFirst", "direction": "Right",
            "max_length": 10**8,
            "stride": 0, "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!",
        }  # fmt: skip
        yield f"{name} true", [name], True
    special = {"<x>": {"id": "<x>", "ids": [1] * 99_999, "tokens": ["<x>"] * 99_999}}
    for name, value in {
        "TemplateProcessing": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>",
        "type_id": 0}}], "pair": [],
                               "special_tokens": special},
        "BertProcessing": {"type": "BertProcessing", "sep": ["!", 0], "cls": ["!", 0]}, "a text": "ByteLevel",
    }.items():  # fmt: skip
        yield f"post-processor {name}", ["post_processor"], value
    for name, value in {
        "Replace": {"type": "Replace", "pattern": space, "content": "x" * 10**6}, "Fuse": {"type": "Fuse"},
        "null": None,
        "Strip": {"type": "Strip", "content": "a", "start": 2**63, "stop": 2**63}, "WordPiece": {"type": "WordPiece"},
    }.items():  # fmt: skip
        yield f"decoder {name}", ["decoder"], value
    yield "a setting of another time", ["chat_template"], "x"
    yield "another version", ["version"], "9.0"
    yield "a setting in colours", ["\x1b[31m"], 1


def cases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Models that are whole but for a hostile template or tokenizer, by name; each is there until the next."""
    checkpoint = write_tiny_checkpoint(folder / "checkpoint")
    whole = convert_checkpoint(Source(checkpoint, "tiny"), folder / "tiny-onnx", to="onnx")[0]
    base = json.loads((whole / TOKENIZER).read_text(encoding="utf-8"))
    files = [(CHAT_TEMPLATE, *each) for each in templates()] + [(TOKENIZER, *each) for each in tokenizers(base)]
    for file, name, content in files:
        made = shutil.copytree(whole, folder / "hostile-onnx", copy_function=_link)
        (made / file).unlink(missing_ok=True)
        (made / file).write_bytes(content.encode("utf-8", "surrogatepass"))
        yield f"{file}: {name}", made
        shutil.rmtree(made)
    for name, content in list(templates())[::20]:  # what differs is how a GGUF file carries them
        (checkpoint / CHAT_TEMPLATE).write_text(content, encoding="utf-8")
        into = folder / "hostile-gguf"
        into.mkdir()
        yield (
            f"GGUF with a template: {name}",
            convert_checkpoint(Source(checkpoint, "tiny"), into / "hostile.gguf", to="gguf", dtype="f32")[0],
        )
        shutil.rmtree(into)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
