"""Chat templates that would take all time or memory, get out of the sandbox, or forge something; by kinds."""

from __future__ import annotations

from collections.abc import Iterator

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
