"""The part of Jinja2 that chat templates may use: jinja2 reads and compiles them, we do what they ask for.

A template is a program from elsewhere. Of jinja2's syntax tree only the kinds of nodes that are named here are
accepted, and in their expressions every operation becomes a call of ours, which counts what it costs: see
``template_values`` and ``template_filters``. What is left to jinja2 is the order of things: conditions, loops, scopes
and macros.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mimo_mobile.runtime.text.template_budget import Budget
from mimo_mobile.runtime.text.template_filters import Filters
from mimo_mobile.runtime.text.template_values import Values

LONGEST, MOST_NODES = 100_000, 10_000
"""Characters of a template, and nodes of its syntax tree; the longest that we know have some 30,000 and 3,000."""

MOST_DEPTH = 100
"""So deeply statements and expressions may be nested, which keeps jinja2 and Python within their stacks."""

NODES_A_STEP = 16
"""Of so many nodes of a loop's or a macro's body each time that it runs is one step."""

STEPS, STEPS_A_MESSAGE = 200_000, 1_000
CHARACTERS, CHARACTERS_A_CHARACTER = 8_000_000, 64
"""The budget: what a template may do at all, and what for each message and for each of their characters.

A template with tools takes some 20 to 100 steps for each message, and copies what it says less than ten times.
"""

_STATEMENTS = (
    nodes.Template, nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Macro, nodes.With,
    nodes.Scope, nodes.Break, nodes.Continue,
)  # fmt: skip
_EXPRESSIONS = (
    nodes.TemplateData, nodes.Const, nodes.Name, nodes.NSRef, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call,
    nodes.Filter, nodes.Test, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow,
    nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Concat, nodes.CondExpr,
    nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
)  # fmt: skip


class ChatTemplate:
    """A template that can be rendered any number of times.

    Raises:
        Exception: It is no template, or does what chat templates may not; jinja2 and Python raise many kinds.
    """

    def __init__(self, source: str, text: Callable[[str], str]) -> None:
        """Read ``source``, whose texts become what ``text`` makes of them."""
        if len(source) > LONGEST:
            raise TemplateError(f"{len(source):,} characters found, {LONGEST:,} at most expected")
        try:
            tree = _environment(Budget(0, 0)).parse(source)
            _check(tree)
        except RecursionError as error:
            raise TemplateError(f"its expressions are nested more than {MOST_DEPTH} deep") from error
        for data in tree.find_all(nodes.TemplateData):
            data.data = text(data.data)
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = text(constant.value)
        _change_body(tree, "body")
        self._tree = tree
        self._code: CodeType | None = None

    def render(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        """The text that the template makes of messages.

        Raises:
            Exception: It refuses them, takes too long or does what it may not.
        """
        size = sum(len(message["content"]) for message in messages)
        beside = [variables.get("tools"), *(message.get("tool_calls") for message in messages)]
        size += sum(len(json.dumps(each)) for each in beside if each)
        budget = Budget(
            STEPS + STEPS_A_MESSAGE * len(messages), CHARACTERS + CHARACTERS_A_CHARACTER * (size + len(messages))
        )
        template = self._compiled(budget)
        return "".join(template.root_render_func(template.new_context({"messages": messages, **variables})))

    def _compiled(self, budget: Budget) -> Template:
        """The template with functions that spend ``budget``; its code is made once: it knows no budget."""
        environment = _environment(budget)
        try:
            self._code = self._code or environment.compile(self._tree)
            return Template.from_code(environment, self._code, environment.make_globals(None))
        except (SyntaxError, RecursionError, MemoryError) as error:  # Python's, of what jinja2 made of the template
            raise TemplateError(f"it is nested too deeply for Python ({error})") from error


class _Generation(Extension):
    """``{% generation %}``, which marks the assistant's own words for training: its body counts, nothing else."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _environment(budget: Budget) -> Environment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], optimized=False, cache_size=0
    )
    values = Values(budget)
    filters = Filters(values)
    functions = {**filters.filters(), **values.operators(), "a test": filters.holds}
    environment.filters = {name: _counted(budget, function) for name, function in functions.items()}
    environment.tests = {}
    environment.globals = dict(values.functions())
    return environment


def _counted(budget: Budget, function: Callable[..., Any]) -> Callable[..., Any]:
    """A step of the budget for each call; jinja2 computes no function of the context while it compiles."""

    @pass_context
    def counted(_: object, /, *args: Any, **kwargs: Any) -> Any:
        budget.spend()
        return function(*args, **kwargs)

    return counted


def _check(tree: nodes.Node) -> None:
    """Refuse what is not of the language, and what is nested too deeply; without recursion."""
    level: list[nodes.Node] = [tree]
    count = 0
    for _ in range(MOST_DEPTH):
        count += len(level)
        if count > MOST_NODES:
            raise TemplateError(f"it has more than {MOST_NODES:,} parts, which none needs")
        for node in level:
            if not isinstance(node, _STATEMENTS + _EXPRESSIONS) or getattr(node, "recursive", False):
                raise TemplateError(f"it uses {_name(node)} in line {node.lineno}, which chat templates may not")
            if isinstance(node, nodes.AssignBlock) and node.filter is not None:
                raise TemplateError(f"it filters a block in line {node.lineno}, which chat templates may not")
            if isinstance(node, nodes.Call | nodes.Filter | nodes.Test) and (node.dyn_args or node.dyn_kwargs):
                raise TemplateError(f"it uses * before arguments in line {node.lineno}, which chat templates may not")
            if isinstance(node, nodes.Const) and isinstance(node.value, int | float) and abs(node.value) >= 2**63:
                raise TemplateError(f"it has a number of more than 63 bits in line {node.lineno}")
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise TemplateError(f"its statements or expressions are nested more than {MOST_DEPTH} deep")


def _name(node: nodes.Node) -> str:
    names: dict[type[nodes.Node], str] = {
        nodes.CallBlock: "{% call %}",
        nodes.FilterBlock: "{% filter %}",
        nodes.For: "a recursive loop",
    }
    return names.get(type(node), f"{{% {type(node).__name__.lower()} %}}")


def _change_body(node: nodes.Node, *fields: str) -> None:
    for field in fields:
        for statement in getattr(node, field):
            _change_statement(statement)


def _change_statement(node: nodes.Node) -> None:
    """Let a statement's expressions do nothing but call our operations."""
    match node:
        case nodes.Output():
            node.nodes = [_operation("a write", _text(each)) for each in node.nodes]
        case nodes.If():
            node.test = _changed(node.test)
            _change_body(node, "body", "elif_", "else_")
        case nodes.For():
            weight = nodes.Const(_weight(node))
            node.iter = _operation("a loop", _changed(node.iter), weight)
            node.test = None if node.test is None else _changed(node.test)
            _change_body(node, "body", "else_")
        case nodes.Macro():
            node.defaults = [_changed(each) for each in node.defaults]
            weight = nodes.Const(_weight(node))
            _change_body(node, "body")
            node.body = [nodes.Output([_operation("a macro", weight)]), *node.body]
        case nodes.Assign():
            node.node = _changed(node.node)
        case nodes.With():
            node.values = [_changed(each) for each in node.values]
            _change_body(node, "body")
        case nodes.AssignBlock() | nodes.Scope():
            _change_body(node, "body")


def _text(node: nodes.Node) -> nodes.Expr:
    return nodes.Const(node.data) if isinstance(node, nodes.TemplateData) else _changed(node)


def _changed(node: nodes.Node) -> nodes.Expr:
    """An expression whose operations are calls of ours."""
    match node:
        case nodes.Getattr():
            return _operation("an attribute", _changed(node.node), nodes.Const(node.attr))
        case nodes.Getitem(arg=nodes.Slice() as part):
            bounds = (
                nodes.Const(None) if each is None else _changed(each) for each in (part.start, part.stop, part.step)
            )
            return _operation("a slice", _changed(node.node), *bounds)
        case nodes.Getitem():
            return _operation("an item", _changed(node.node), _changed(node.arg))
        case nodes.Call():
            return _operation("a call", _changed(node.node), *map(_changed, node.args), kwargs=_keywords(node))
        case nodes.Filter():
            given = [_changed(node.node), *map(_changed, node.args)] if node.node else []
            known = node.name in _KNOWN_FILTERS
            refusal = nodes.Const(f"the filter {node.name}")
            return _operation(node.name, *given, kwargs=_keywords(node)) if known else _operation("a refusal", refusal)
        case nodes.Test():
            name = nodes.Const(node.name)
            return _operation("a test", _changed(node.node), name, *map(_changed, node.args), kwargs=_keywords(node))
        case nodes.Compare():
            parts = [part for each in node.ops for part in (nodes.Const(each.op), _changed(each.expr))]
            return _operation("a comparison", _changed(node.expr), *parts)
        case nodes.Concat():
            return _operation("a concatenation", *map(_changed, node.nodes))
        case nodes.And() | nodes.Or():
            return type(node)(_changed(node.left), _changed(node.right))
        case nodes.Not() | nodes.Neg() | nodes.Pos():
            return type(node)(_changed(node.node))
        case nodes.BinExpr():
            return _operation("arithmetic", _changed(node.left), nodes.Const(node.operator), _changed(node.right))
        case nodes.CondExpr():
            other = None if node.expr2 is None else _changed(node.expr2)
            return nodes.CondExpr(_changed(node.test), _changed(node.expr1), other)
        case nodes.List():
            return nodes.List([*map(_changed, node.items)])
        case nodes.Tuple():
            return nodes.Tuple([*map(_changed, node.items)], node.ctx)
        case nodes.Dict():
            pairs = [nodes.Pair(_operation("a key", _changed(each.key)), _changed(each.value)) for each in node.items]
            return nodes.Dict(pairs)
        case nodes.Expr():
            return node
    raise TypeError(f"{node} is no expression")


_KNOWN_FILTERS = Filters(Values(Budget(0, 0))).filters().keys()


def _operation(name: str, *args: nodes.Expr, kwargs: list[nodes.Keyword] | None = None) -> nodes.Filter:
    node, *others = args
    return nodes.Filter(node, name, others, kwargs or [], None, None)


def _keywords(node: nodes.Call | nodes.Filter | nodes.Test) -> list[nodes.Keyword]:
    return [nodes.Keyword(each.key, _changed(each.value)) for each in node.kwargs]


def _weight(node: nodes.Node) -> int:
    """The steps that a body costs each time it runs, whichever way it takes."""
    return 1 + sum(1 for _ in _all_nodes(node)) // NODES_A_STEP


def _all_nodes(node: nodes.Node) -> Iterator[nodes.Node]:
    for child in node.iter_child_nodes():
        yield child
        yield from _all_nodes(child)
