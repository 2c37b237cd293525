"""What a PromQL expression names, as a real parser reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import promql_parser

from tests.k8s.files import NAMES

__all__ = ["Named", "chosen", "named"]


@dataclass
class Named:
    """What an expression names.

    Attributes:
        metrics: each metric, with the labels by which it is selected.
        by: the labels that what comes out has.
    """

    metrics: dict[str, set[str]] = field(default_factory=dict)
    by: set[str] = field(default_factory=set)


def chosen(text: str, choices: Mapping[str, str]) -> str:
    """A text with Grafana's variables put in.

    Raises:
        KeyError: one of them is not among the choices.
    """
    for name in sorted(set(NAMES.findall(text)), key=len, reverse=True):
        text = text.replace(f"${{{name}}}", choices[name]).replace(f"${name}", choices[name])
    return text


def named(expression: str) -> Named:
    """What it names.

    Raises:
        ValueError: it is no PromQL.
    """
    found = Named()
    for node in _nodes(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            labels = {matcher.name for matcher in node.matchers.matchers}
            found.metrics.setdefault(str(node.name), set()).update(labels)
        elif isinstance(node, promql_parser.AggregateExpr):
            found.by |= set(node.modifier.labels if node.modifier else ())
    return found


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(node, name, None)) is not None:
            yield from _nodes(inner)
    for inner in getattr(node, "args", ()):
        yield from _nodes(inner)
