"""Which cell of a notebook is running: one that is run again begins anew, so what its last time left open has ended."""

from __future__ import annotations

import contextlib
import sys
import threading
from dataclasses import dataclass
from typing import Any

__all__ = ["Cell", "running"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that runs.

    Attributes:
        id: the notebook's name for it, else its code.
        count: its number in square brackets: of one cell, a new one each time.
    """

    id: str
    count: int

    def runs_again_after(self, earlier: Cell | None) -> bool:
        """Whether this is an earlier one's next time."""
        return earlier is not None and earlier.id == self.id and earlier.count != self.count


def running() -> Cell | None:
    """The cell that runs on the main thread of a Jupyter kernel; ``None`` elsewhere.

    JupyterLab and VS Code name a cell in the metadata of their requests (``cellId``), so that it is known again when
    its code has changed.
    """
    ipython: Any = sys.modules.get("IPython")
    if ipython is None or threading.current_thread() is not threading.main_thread():
        return None
    with contextlib.suppress(Exception):  # whatever stands in for a kernel
        shell = ipython.get_ipython()
        request = shell.get_parent()
        identity = request.get("metadata", {}).get("cellId") or request["content"]["code"]
        return Cell(str(identity), int(shell.execution_count))
    return None
