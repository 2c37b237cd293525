"""A notebook as it lies on the disk, judged before anything is run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlops.errors import MissingExtraError, NotebookError, NotebookNotFoundError, ParameterError
from mlops.notebook import parameters

__all__ = ["Document", "Step", "steps"]

_TAG: Final = "parameters"
_INJECTED: Final = "injected-parameters"
_TITLE: Final = 60
_TELLS_LITTLE: Final = ("import ", "from ", "try:", "%", '"""')
_OLDEST: Final = 3
"""The first version of the format (nbformat) that still can be read."""


@dataclass(frozen=True, slots=True)
class Step:
    """A cell of code, as people find it.

    Attributes:
        index: its place among all cells, from 0.
        number: the number that it gets in brackets when it runs, from 1.
        total: how many there are.
        title: the heading above it, or its first line.
    """

    index: int
    number: int
    total: int
    title: str

    def __str__(self) -> str:
        return f"cell {self.number} of {self.total} ({self.title})" if self.title else f"cell {self.number}"


class Document:
    """A notebook that was read and is one.

    Args:
        path: the file.

    Raises:
        NotebookNotFoundError: there is none, or the file is no notebook.
        MissingExtraError: papermill and what belongs to it is not installed.

    Attributes:
        path: the file.
        node: its content, an ``nbformat.NotebookNode`` of version 4.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.node = _read(path)

    def declared(self) -> dict[str, Any] | None:
        """The parameters it declares, with their defaults; ``None`` if that cannot be told.

        It cannot for another language than Python.
        """
        cells = [cell for cell in self.node.cells if _TAG in cell.metadata.get("tags", ())]
        if not cells:
            return {}
        if self.language != "python":
            return None
        try:
            return parameters.declared(cells[0].source)
        except SyntaxError:
            return None

    def check(self, given: Mapping[str, Any]) -> None:
        """Refuse parameters that it does not declare.

        Raises:
            ParameterError: there is one, or the notebook takes none at all.
        """
        if not given:
            return
        if not any(_TAG in cell.metadata.get("tags", ()) for cell in self.node.cells):
            raise ParameterError(
                f"{self.path} takes no parameters: none of its cells is tagged {_TAG!r}",
                remedy="Tag the cell that sets the defaults (JupyterLab: the gear at the top right, Cell Tags).",
            )
        known = self.declared()
        if known is not None:
            parameters.check(given, known, str(self.path))

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What its parameters will be: the given ones, else the defaults as far as these are literals."""
        known = self.declared() or {}
        return {**{name: value for name, value in known.items() if value is not ...}, **given}

    def kernel(self, name: str | None = None) -> str:
        """The name of the kernel to run it with.

        Args:
            name: instead of the one that the notebook names.

        Raises:
            NotebookError: no kernel of that name is installed here.
        """
        try:
            from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
        except ImportError:
            raise MissingExtraError("jupyter_client", "notebook") from None
        manager = KernelSpecManager()
        chosen: str = name or self.node.metadata.get("kernelspec", {}).get("name") or "python3"
        try:
            manager.get_kernel_spec(chosen)
        except NoSuchKernel:
            installed = sorted(manager.find_kernel_specs())
            near = difflib.get_close_matches(chosen, installed, 1) or installed[:1]
            hint = f"Name one that is: --kernel {near[0]}." if near else "Install one: pip install ipykernel."
            asked = "" if name else f", which {self.path} asks for,"
            error = NotebookError(
                f"The kernel {chosen!r}{asked} is not installed here",
                remedy=f"{hint} Installed: {', '.join(installed) or 'none'}.",
            )
            error.exit_code = 2  # nothing was run
            raise error from None
        return chosen

    @property
    def language(self) -> str:
        """What its code is written in, such as ``python``."""
        metadata = self.node.metadata
        named = metadata.get("kernelspec", {}).get("language") or metadata.get("language_info", {}).get("name")
        return str(named or "python").lower()


def steps(node: Any) -> list[Step]:
    """The cells of a notebook that will be executed, in their order."""
    found: list[tuple[int, str]] = []
    heading = ""
    for index, cell in enumerate(node.cells):
        if cell.cell_type == "markdown":
            heading = _heading(cell.source) or heading
        elif cell.cell_type == "code" and cell.source.strip() and "skip-execution" not in cell.metadata.get("tags", ()):
            found.append((index, _title(cell, heading)))
            heading = ""
    return [Step(index, number, len(found), title) for number, (index, title) in enumerate(found, 1)]


def _title(cell: Any, heading: str) -> str:
    tags = cell.metadata.get("tags", ())
    if _INJECTED in tags:
        return "parameters as given"
    if _TAG in tags:
        return _TAG
    if heading:
        return heading
    lines = [line.strip() for line in cell.source.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(_TELLS_LITTLE)]
    line = (telling or lines)[0]
    return _short(line.lstrip("#% ") or line if line.startswith("#") else line)


def _heading(source: str) -> str:
    headings = [line.lstrip("#").strip() for line in source.splitlines() if line.startswith("#")]
    return _short(headings[-1]) if headings else ""


def _short(text: str) -> str:
    return text if len(text) <= _TITLE else text[: _TITLE - 1] + "…"


def _read(path: Path) -> Any:
    try:
        import nbformat
        import nbformat.validator
    except ImportError:
        raise MissingExtraError("nbformat", "notebook") from None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotebookNotFoundError(f"There is no notebook {path}", remedy=_nearby(path)) from None
    except OSError as error:
        raise NotebookNotFoundError(
            f"Cannot read the notebook {path}: {error.strerror}", remedy="Name a file that can be read."
        ) from error
    except ValueError as error:
        raise NotebookNotFoundError(
            f"{path} is no notebook: it is not JSON ({error})",
            remedy="Name an .ipynb file; a script runs with mlops run.",
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("nbformat"), int) or content["nbformat"] < _OLDEST:
        raise NotebookNotFoundError(
            f"{path} is no notebook: it is JSON without the fields of one", remedy="Name an .ipynb file."
        )
    try:
        node = nbformat.convert(nbformat.reader.reads(json.dumps(content)), 4)  # type: ignore[no-untyped-call]
        _, node = nbformat.validator.normalize(node)
        nbformat.validate(node, relax_add_props=True)
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise NotebookNotFoundError(
            f"{path} is no valid notebook: {why}", remedy="Open and save it in JupyterLab, which mends what it can."
        ) from error
    return node


def _nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path()
    found = sorted({*folder.glob("*.ipynb"), *folder.glob("notebooks/*.ipynb")})
    by_name = {entry.name: entry for entry in found}
    near = [by_name[name] for name in difflib.get_close_matches(path.name, by_name, 1, 0.4)]
    if near:
        return f"Did you mean {near[0]}?"
    return f"The notebooks near there: {', '.join(map(str, found[:5]))}." if found else "Check the path."
