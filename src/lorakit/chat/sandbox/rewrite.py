"""What a template's source may hold, and the budget put into it.

A parsed template is checked against the list of Jinja's constructs that chat templates use, and
rewritten so that every operator, literal, slice and loop turn goes through this package: as filters
whose names no template can write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from lorakit.chat.sandbox import operators
from lorakit.chat.sandbox.budget import LimitError, check_integer
from lorakit.chat.sandbox.listed import forbidden

MAX_TOKENS = 20_000  # the longest templates in use have about 4,000
MAX_BLOCKS = 1_000  # tags that open a scope or a branch; the most in use are about 100
MAX_SYMBOLS = 200_000  # names times blocks, which is how often the compiler copies a name
MACRO, LOOP = 2_048, 1_024  # bytes of what each leaves in memory while something refers to it
_LISTED: tuple[type[nodes.Node], ...] = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.ExprStmt,
    nodes.For, nodes.If, nodes.Break, nodes.Continue, nodes.Scope, nodes.With,
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Assign, nodes.AssignBlock,
    nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair,
    nodes.Keyword, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Filter, nodes.Test,
    nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Concat, nodes.Not, nodes.And, nodes.Or,
    nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow,
    nodes.Neg, nodes.Pos,
)  # fmt: skip
_OPENING = (
    nodes.For, nodes.If, nodes.Scope, nodes.With, nodes.Macro, nodes.CallBlock, nodes.FilterBlock,
    nodes.AssignBlock,
)  # fmt: skip

HIDDEN: Mapping[str, Callable[..., Any]] = {
    " chained": operators.chained,
    " compare": operators.compare,
    " concatenate": operators.concatenate,
    " dict": operators.make_dict,
    " list": operators.make_list,
    " made": operators.made_once,
    " sliced": operators.sliced,
    " spread": operators.spread,
    " tick": operators.tick,
    " tuple": operators.make_tuple,
}


class GenerationTag(Extension):
    """Accepts transformers' {% generation %} block, which marks what the assistant wrote."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def check_listed(template: nodes.Template) -> None:
    """Raises ForbiddenError for a construct that is not listed, LimitError for too many."""
    blocks, names = 0, set()
    for node in template.find_all(nodes.Node):
        if not isinstance(node, _LISTED):
            raise forbidden(f"Jinja's {type(node).__name__.lower()} (line {node.lineno})")
        blocks += isinstance(node, _OPENING)
        if isinstance(node, nodes.Name):
            names.add(node.name)
        if isinstance(node, nodes.Const) and isinstance(node.value, int):
            check_integer(node.value.bit_length())
    if blocks > MAX_BLOCKS or blocks * len(names) > MAX_SYMBOLS:
        raise LimitError(f"a template of {blocks} blocks and {len(names)} names")


class Meter(NodeTransformer):
    """Puts the budget into a checked template."""

    def visit_Macro(self, node: nodes.Macro) -> list[nodes.Node]:  # noqa: N802
        return [_statement("made", MACRO, node.lineno), self._metered_body(node)]

    def visit_CallBlock(self, node: nodes.CallBlock) -> list[nodes.Node]:  # noqa: N802
        return [_statement("made", MACRO, node.lineno), self._metered_body(node)]

    def visit_For(self, node: nodes.For) -> list[nodes.Node]:  # noqa: N802
        kept = _keeps_loop(node)
        self._metered_body(node)
        if node.test is not None:
            tick = _hidden("tick", nodes.Const(_weight([node.test])), [])
            node.test = nodes.And(nodes.Not(tick), node.test)
        return [_statement("made", LOOP, node.lineno), node] if kept else [node]

    def _metered_body(self, node: Any) -> nodes.Node:
        tick = _statement("tick", _weight(node.body), node.lineno)
        self.generic_visit(node)
        node.body.insert(0, tick)
        return cast(nodes.Node, node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:  # noqa: N802
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _hidden("concatenate", node.nodes[0], node.nodes[1:])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        pairs = [(nodes.Const(operand.op), operand.expr) for operand in node.ops]
        name = "compare" if len(pairs) == 1 else "chained"
        return _hidden(name, node.expr, [part for pair in pairs for part in pair])

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = (node.arg.start, node.arg.stop, node.arg.step)
        return _hidden("sliced", node.node, [end or nodes.Const(None) for end in ends])

    def visit_List(self, node: nodes.List) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _hidden("list", nodes.Const(None), node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        constant = all(isinstance(item, nodes.Const) for item in node.items)
        if node.ctx != "load" or constant:
            return node
        return _hidden("tuple", nodes.Const(None), node.items)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = [part for pair in node.items for part in (pair.key, pair.value)]
        return _hidden("dict", nodes.Const(None), parts)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        return self._spread(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        return self._spread(node)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        return self._spread(node)

    def _spread(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _hidden("spread", node.dyn_args, [])
        if node.dyn_kwargs is not None:
            node.dyn_kwargs = _hidden("spread", node.dyn_kwargs, [])
        return cast(nodes.Node, node)


def _hidden(name: str, first: nodes.Expr, rest: list[nodes.Expr]) -> nodes.Filter:
    return nodes.Filter(first, f" {name}", rest, [], None, None, lineno=first.lineno)


def _keeps_loop(node: nodes.For) -> bool:
    """Whether `loop` itself is used as a value, and not only what it has."""
    asked = {
        id(part.node)
        for part in node.find_all((nodes.Getattr, nodes.Getitem, nodes.Call))
        if isinstance(part, nodes.Getattr | nodes.Getitem | nodes.Call)
    }
    return any(name.name == "loop" and id(name) not in asked for name in node.find_all(nodes.Name))


def _statement(name: str, amount: int, line: int) -> nodes.Node:
    return nodes.ExprStmt(_hidden(name, nodes.Const(amount, lineno=line), []), lineno=line)


def _weight(body: list[Any]) -> int:
    """Steps for what a body does beside operators and calls: names, assignments, branches."""
    return 1 + sum(1 for part in body for _ in part.find_all(nodes.Node)) // 32
