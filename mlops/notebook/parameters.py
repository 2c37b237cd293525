"""A notebook's parameters: which it declares, and what was given for them.

papermill only warns of a parameter that the notebook does not know, and runs it with the default.
Here it is an error, before any kernel is started.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlops.errors import MissingExtraError, ParameterError

__all__ = ["check", "declared", "read_file", "typed"]

_SHOWN: Final = 12
_WORDS: Final[Mapping[str, bool | None]] = {"True": True, "False": False, "None": None}


def typed(text: str) -> bool | int | float | str | None:
    """The value that a text on a command line means, by papermill's rules: True, False, None, int, float, text."""
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_file(path: Path) -> dict[str, Any]:
    """Parameters from a YAML or JSON file.

    Raises:
        ParameterError: it cannot be read, or is no table of names and values.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("yaml", "notebook") from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ParameterError(
            f"Cannot read the parameters in {path}: {why}", remedy="It must be YAML or JSON."
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ParameterError(
            f"{path} is no table of parameters", remedy="Write a name, a colon and a value on each line: epochs: 5."
        )
    return content


def declared(source: str) -> dict[str, Any]:
    """The names that a Python ``parameters`` cell assigns, with their values where these are literals.

    Values that are computed are ``...``.

    Raises:
        SyntaxError: the cell is no Python.
    """
    tree = ast.parse("\n".join(_without_magic(line) for line in source.splitlines()))
    names: dict[str, Any] = {}
    for statement in _statements(tree):
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = list(statement.targets)
        elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
            targets = [statement.target]
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name):
                names[target.id] = _literal(statement.value)
            else:
                names.update({node.id: ... for node in ast.walk(target) if isinstance(node, ast.Name)})
    return names


def check(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Refuse parameters that a notebook does not declare.

    Raises:
        ParameterError: there is one; the message names the known ones and the nearest.
    """
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, 1)
        listed = ", ".join(list(known)[:_SHOWN]) + (", …" if len(known) > _SHOWN else "")
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ParameterError(f"{where} has no parameter {name!r}", remedy=f"{hint}Its parameters: {listed or 'none'}.")


def _without_magic(line: str) -> str:
    """A blank line in place of one that is IPython's and not Python's."""
    return "" if line.lstrip().startswith(("%", "!")) else line


def _statements(tree: ast.AST) -> list[ast.stmt]:
    """The statements that run in the cell's own scope, those inside if, with, try and loops included."""
    found: list[ast.stmt] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.stmt):
            found.append(node)
        if isinstance(node, ast.stmt | ast.excepthandler):
            found.extend(_statements(node))
    return found


def _literal(value: ast.expr | None) -> Any:
    if value is None:
        return ...
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ...
