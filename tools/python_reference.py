"""The reference of the public names, from their docstrings: ``python -m tools.python_reference docs/python.md``.

Sources are read by griffe and never run. ``mimo_mobile.__all__`` says what is public, and the comments in it name the
groups; this tool knows no name.
"""

from __future__ import annotations

import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mimo_mobile"

HEAD = """# Python API

Written by `make docs` from the docstrings of `mimo_mobile.__all__`. Every name is imported from `mimo_mobile`
itself; a name that is not here may change without notice:

```python
from mimo_mobile import load
```

Words such as *draft*, *prefill* and *repack* are explained in the [glossary](architecture.md#glossary).
"""


def reference() -> str:
    """The Markdown text."""
    package = griffe.load(PACKAGE, search_paths=[ROOT / "src"], docstring_parser="google")
    groups = _groups(ROOT / "src" / PACKAGE / "__init__.py")
    public = {name: _target(package[name]) for names in groups.values() for name in names}
    sections, mentioned = list[str](), dict[str, griffe.Object]()
    for group, names in groups.items():
        sections.append(f"## {group[0].upper()}{group[1:]}\n")
        for name in names:
            sections.append(_entry(name, public[name]))
            mentioned |= _mentioned(public[name])
    others = [target for target in mentioned.values() if target not in public.values()]
    if others:
        sections.append("## Types that the signatures mention\n")
        sections.append("\n".join(_mention(each) for each in sorted(others, key=lambda each: each.name)) + "\n")
    anchors = _anchors("\n".join([HEAD, *sections]))
    contents = [
        f"- {group}: " + ", ".join(f"[`{name}`](#{anchors[f'### `{name}`']})" for name in names)
        for group, names in groups.items()
    ]
    return "\n".join([HEAD, *contents, "", *sections])


def _anchors(text: str) -> dict[str, str]:
    """What GitHub calls each heading in links; a second heading of the same words gets a number."""
    anchors: dict[str, str] = {}
    counts: dict[str, int] = {}
    for line in re.findall(r"^#+ .*$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        anchors[line] = slug + (f"-{counts[slug]}" if slug in counts else "")
        counts[slug] = counts.get(slug, 0) + 1
    return anchors


def _groups(file: Path) -> dict[str, list[str]]:
    """The names of ``__all__`` by the comment that stands above them."""
    groups: dict[str, list[str]] = {}
    with file.open("rb") as source:
        tokens = tokenize.tokenize(source.readline)
        next(token for token in tokens if token.string == "__all__")
        next(token for token in tokens if token.string == "[")
        for token in tokens:
            if token.string == "]":
                break
            if token.type == tokenize.COMMENT and not token.string.startswith("# noqa"):
                group = groups.setdefault(token.string.lstrip("# "), [])
            elif token.type == tokenize.STRING:
                group.append(token.string.strip("\"'"))
    return groups


def _target(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def _entry(name: str, target: griffe.Object) -> str:
    parts = [f"### `{name}`\n"]
    if isinstance(target, griffe.Class):
        parts += [*_class(name, target)]
    elif isinstance(target, griffe.Function):
        parts += [_code(_signature(name, target)), *_docstring(target)]
    elif isinstance(target, griffe.Attribute):
        parts += [_code(_value(name, target)), *_docstring(target)]
    return "\n".join(parts)


def _class(name: str, target: griffe.Class) -> Iterator[str]:
    made = target.members.get("__init__")
    fields = "dataclass" in target.labels
    if any(str(base).endswith("Protocol") for base in target.bases):
        yield _code(f"class {name}(Protocol)")
    elif isinstance(made, griffe.Function) and (fields or made.docstring is not None):
        yield _code(_signature(name, made, returns=False))
    yield from _docstring(target)
    if isinstance(made, griffe.Function) and not fields:
        yield from _docstring(made)
    for member in target.members.values():
        if member.name.startswith("_") or isinstance(member, griffe.Alias) or member.docstring is None:
            continue
        if isinstance(member, griffe.Function):
            caller = f"{name}." if {"classmethod", "staticmethod"} & member.labels else ""
            yield from [f"#### `{name}.{member.name}`\n", _code(caller + _signature(member.name, member))]
            yield from _docstring(member)
        elif isinstance(member, griffe.Attribute) and "property" in member.labels:
            yield from [f"#### `{name}.{member.name}`\n", _code(f"{member.name}: {member.annotation}")]
            yield from _docstring(member)
    heirs = [each for each in target.module.classes.values() if _descends(each, target)]
    if heirs:
        yield f"Its special cases are in `{target.module.path}`:\n"
        yield (
            "\n".join(f"{'  ' * (_depth(each, target) - 1)}- `{each.name}`: {_summary(each)}" for each in heirs) + "\n"
        )


def _descends(heir: griffe.Class, base: griffe.Class) -> bool:
    return any(found.path == base.path for found in heir.mro())


def _depth(heir: griffe.Class, base: griffe.Class) -> int:
    return [found.path for found in heir.mro()].index(base.path) + 1


def _signature(name: str, function: griffe.Function, *, returns: bool = True) -> str:
    parameters, star = list[str](), False
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is griffe.ParameterKind.keyword_only and not star:
            parameters.append("*")
        star = star or parameter.kind in (griffe.ParameterKind.keyword_only, griffe.ParameterKind.var_positional)
        prefix = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}
        text = (prefix.get(parameter.kind, "") if parameter.kind else "") + parameter.name
        if parameter.annotation is not None:
            text += f": {parameter.annotation}"
        if parameter.default is not None:
            text += f" = {_default(parameter.default)}"
        parameters.append(text)
    end = f" -> {function.returns}" if returns and function.returns is not None else ""
    line = f"{name}({', '.join(parameters)}){end}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){end}"


def _default(default: Any) -> str:
    """A default as it is written, or what the constant that it names holds."""
    if isinstance(default, griffe.ExprName):
        found = _resolved(default)
        if isinstance(found, griffe.Attribute) and found.value is not None:
            return str(found.value)
    return str(default)


def _resolved(name: griffe.ExprName) -> griffe.Object | None:
    if not name.canonical_path.startswith(PACKAGE):
        return None
    parent = name.parent
    while isinstance(parent, griffe.Object) and parent.parent is not None:
        parent = parent.parent
    try:
        found = parent.modules_collection[name.canonical_path] if isinstance(parent, griffe.Object) else None
    except KeyError:
        return None
    return None if found is None else _target(found)


def _mentioned(target: griffe.Object) -> dict[str, griffe.Object]:
    """The package's own types in the signatures of a name and of its public members."""
    found: dict[str, griffe.Object] = {}
    members = [target, *(m for n, m in target.members.items() if not n.startswith("_") or n == "__init__")]
    for member in members:
        annotations: list[Any] = []
        if isinstance(member, griffe.Function):
            annotations = [member.returns, *(parameter.annotation for parameter in member.parameters)]
        elif isinstance(member, griffe.Attribute):
            annotations = [member.annotation]
        for annotation in annotations:
            for part in annotation.iterate() if isinstance(annotation, griffe.Expr) else ():
                named = _resolved(part) if isinstance(part, griffe.ExprName) else None
                if named is not None:
                    found[named.path] = named
    return found


def _mention(target: griffe.Object) -> str:
    if isinstance(target, griffe.Attribute):
        return f"- `{target.name} = {target.value}` {_summary(target)}".rstrip()
    return f"- `{target.name}` (`{target.module.path}`): {_summary(target)}"


def _value(name: str, target: griffe.Attribute) -> str:
    """A constant; of a long one its type, or what makes it."""
    if len(text := f"{name} = {target.value}") <= 100 and "\n" not in text:
        return text
    if target.annotation is not None:
        return f"{name}: {target.annotation}"
    return f"{name} = {target.value.function}(…)" if isinstance(target.value, griffe.ExprCall) else f"{name} = …"


def _summary(target: griffe.Object) -> str:
    return _prose(target.docstring.value.split("\n\n")[0]) if target.docstring is not None else ""


def _docstring(target: griffe.Object) -> Iterator[str]:
    for section in target.docstring.parsed if target.docstring is not None else ():
        kind, value = section.kind, section.value
        if kind is griffe.DocstringSectionKind.text:
            yield _prose(value) + "\n"
        elif kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes):
            yield f"{'Arguments' if kind is griffe.DocstringSectionKind.parameters else 'Attributes'}:\n"
            yield "\n".join(f"- `{item.name}`: {_prose(item.description)}" for item in value) + "\n"
        elif kind is griffe.DocstringSectionKind.raises:
            yield "Raises:\n"
            yield "\n".join(f"- `{item.annotation}`: {_prose(item.description)}" for item in value) + "\n"
        elif kind is griffe.DocstringSectionKind.examples:
            yield "\n".join(
                _prose(text) if part is griffe.DocstringSectionKind.text else _code(text) for part, text in value
            )
        else:
            raise NotImplementedError(f"{target.path}: a section {kind.value!r}, which this tool cannot write")


def _prose(text: str) -> str:
    """Markdown of a docstring's text: one line a paragraph, indented ones and examples as they are."""
    paragraphs = []
    for paragraph in text.split("\n\n"):
        drawn = paragraph.startswith("    ") or paragraph.lstrip().startswith(">>>")
        paragraphs.append(_code(paragraph).rstrip() if drawn else re.sub(r"\s*\n\s*", " ", paragraph))
    return re.sub(r"``(.+?)``", r"`\1`", "\n\n".join(paragraphs))


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
