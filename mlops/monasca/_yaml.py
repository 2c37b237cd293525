"""YAML whose mappings know their line, and in which no key stands twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlops.errors import AlarmError, MissingExtraError

__all__ = ["Table", "load"]

_EXTRA: Final = "monasca"


class Table(dict[str, Any]):
    """A mapping of a file.

    Attributes:
        line: on which it begins, from 1.
    """

    def __init__(self, line: int, content: Mapping[str, Any] | None = None) -> None:
        super().__init__(content or {})
        self.line = line


def load(raw: bytes, source: str) -> object:
    """What a YAML file holds; each mapping is a :class:`Table`.

    Args:
        raw: its bytes.
        source: what messages call it.

    Raises:
        AlarmError: it is no YAML, or has a key twice.
        MissingExtraError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("yaml", _EXTRA) from None

    class Loader(yaml.SafeLoader):
        """A loader of this file alone, so that the class of PyYAML's own stays as it is."""

    def table(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[Table]:
        found = Table(node.start_mark.line + 1)
        yield found
        met: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in met and key != "<<":
                what = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
            met.add(key)
        found.update({str(key): value for key, value in loader.construct_mapping(node, deep=True).items()})

    Loader.add_constructor("tag:yaml.org,2002:map", table)
    try:
        return yaml.load(raw, Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise AlarmError(
            f"{source}{where}: this is no YAML: {error.problem or error.context}",
            remedy="Texts that hold a colon, a brace or a quotation mark stand in quotes.",
        ) from error
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())[:200]
        raise AlarmError(f"{source} is no YAML: {text}", remedy="It is a text file in UTF-8.") from error
