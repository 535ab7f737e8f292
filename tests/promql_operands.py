"""What an alert compares, without the comparison: it has a value while nothing is wrong."""

from __future__ import annotations

from collections.abc import Iterator

import promql_parser

_COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}
_SET_OPERATORS = {"and", "or", "unless"}


def operands(expr: str) -> list[str]:
    """The parts of PromQL between which comparisons and set operators choose.

    Of a comparison with a number it is the other side. Of a comparison of two vectors it is their
    difference, which also needs labels that match. ``absent(x)`` has a value when x has none, so
    its operand is x. Example: ``a / b > 3 unless c < d`` gives ``a / b`` and ``(c) - (d)``.
    """
    return list(_operands(promql_parser.parse(expr)))


def _operands(node: promql_parser.Expr) -> Iterator[str]:
    if isinstance(node, promql_parser.ParenExpr):
        yield from _operands(node.expr)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in _SET_OPERATORS:
        yield from _operands(node.lhs)
        yield from _operands(node.rhs)
    elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in _COMPARISONS:
        if isinstance(node.rhs, promql_parser.NumberLiteral):
            yield from _operands(node.lhs)
        else:
            yield f"({node.lhs}) - ({node.rhs})"
    elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
        yield from _operands(node.args[0])
    else:
        yield str(node)
