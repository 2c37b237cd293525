"""papermill's engine with our eyes in it: each cell is told of, each ending is noted as what it was.

Three things are done otherwise than papermill does them.  A cell whose kernel died or that ran too
long is marked failed, not completed, and those after it stay pending.  A cell that is tagged
``raises-exception`` may raise.  Nothing is started once the execution is being stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from jupyter_core.utils import ensure_event_loop, run_sync
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.exceptions import PapermillExecutionError
from papermill.execute import prepare_notebook_metadata, raise_for_execution_errors, remove_error_markers
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from mlops.notebook.document import Document
from mlops.notebook.execution import KERNEL_DIED, START_SECONDS, TIMED_OUT, Execution

__all__ = ["execute", "prepare"]

_SETTLE_SECONDS: Final = 10
"""What an interrupted cell may take to run its ``finally``."""
_SHUTDOWN_SECONDS: Final = 40.0
"""What the kernel may take to end by itself, twice: first until SIGTERM, then until SIGKILL. A run that closes in an
exit handler may wait for its sinks."""

_quiet = logging.getLogger("mlops.notebook.papermill")
_quiet.setLevel(logging.CRITICAL + 1)


def prepare(document: Document, output: Path, parameters: Mapping[str, Any], kernel: str) -> Any:
    """The notebook as it will be executed, the given parameters written into a cell of its own."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL + 1)
    node = load_notebook_node(str(document.path))
    if parameters:
        node = parameterize_notebook(node, dict(parameters), kernel_name=kernel, language=document.language)
    return remove_error_markers(prepare_notebook_metadata(node, str(document.path), str(output)))


def execute(node: Any, execution: Execution, log: IO[bytes]) -> None:
    """Execute the notebook; what went wrong in a cell is noted in the execution.

    Raises:
        Exception: what went wrong outside of cells, as nbclient or the system said it.
    """
    output = str(execution.output)
    manager = _Manager(node, output_path=output, progress_bar=False)
    client = _Client(
        manager,
        execution=execution,
        kernel_name=execution.kernel,
        timeout=execution.cell_timeout,
        startup_timeout=START_SECONDS,
        iopub_timeout=_SETTLE_SECONDS,
        interrupt_on_timeout=True,
        error_on_timeout={"ename": TIMED_OUT, "evalue": "", "traceback": []},
        log=_quiet,
    )
    environ = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", **execution.environ}
    manager.notebook_start()
    try:
        client.execute(env=environ, cwd=str(execution.folder), stdout=log, stderr=log)
    finally:
        execution.kernel_ended()
        _close_loop()
        manager.notebook_complete()
        if execution.failure is not None:
            with contextlib.suppress(PapermillExecutionError):
                raise_for_execution_errors(node, output)  # papermill's signpost to the cell that failed


def _close_loop() -> None:
    """Close the event loop of this thread, which nbclient opened and leaves open."""
    loop = ensure_event_loop()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class _Manager(NotebookExecutionManager):  # type: ignore[misc]  # papermill says nothing about its types
    """Keeps the notebook's file; papermill's own says in the end that pending cells were completed."""

    def notebook_complete(self, **_: Any) -> None:
        """Write the notebook for the last time."""
        pending = [cell for cell in self.nb.cells if cell.metadata.papermill["status"] == self.PENDING]
        super().notebook_complete()
        for cell in pending:
            cell.metadata.papermill["status"] = self.PENDING
        self.save()


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill says nothing about its types
    """Tells the execution of each cell, and stops when it is told to."""

    def __init__(self, nb_man: NotebookExecutionManager, *, execution: Execution, **traits: Any) -> None:
        super().__init__(nb_man, **traits)
        self._execution = execution
        self._timed_out = False
        self.on_cell_error = self._note_error

    def create_kernel_manager(self) -> Any:
        """A manager that gives the kernel time for its exit handlers."""
        manager = super().create_kernel_manager()
        manager.shutdown_wait_time = _SHUTDOWN_SECONDS
        return manager

    async def async_start_new_kernel(self, **options: Any) -> None:
        """As nbclient's, without ipykernel's word on its sockets: its log is kept for what ends it."""
        if self.km.ipykernel:
            self.extra_arguments = [*self.extra_arguments, "--log-level=ERROR"]  # type: ignore[has-type]  # a trait
        await super().async_start_new_kernel(**options)

    start_new_kernel = run_sync(async_start_new_kernel)

    async def async_start_new_kernel_client(self) -> Any:
        """As nbclient's, with the execution told first, so that it can end a kernel that never gets ready."""
        self._execution.kernel_started(asyncio.get_running_loop(), self.km)
        return await super().async_start_new_kernel_client()

    start_new_kernel_client = run_sync(async_start_new_kernel_client)

    def papermill_execute_cells(self) -> None:
        """Execute cell after cell, until one fails."""
        for index, cell in enumerate(self.nb.cells):
            if self._execution.stopping:
                return
            if not self._execute(index, cell):
                return

    def _execute(self, index: int, cell: Any) -> bool:
        """Whether the cell ended well."""
        self.nb_man.cell_start(cell, index)
        step = self._execution.begin(index)
        failure: tuple[str, str] | None = None
        try:
            self.execute_cell(cell, index)
            if self._timed_out:
                failure = TIMED_OUT, ""
        except CellExecutionError as error:
            failure = error.ename, error.evalue
        except CellTimeoutError:
            self.shutdown_kernel = "immediate"
            failure = TIMED_OUT, ""
            raise
        except DeadKernelError:
            failure = KERNEL_DIED, self._how_it_died()
            raise
        except BaseException as error:
            failure = type(error).__name__, str(error)
            raise
        finally:
            if failure is not None:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index)
            self._execution.end(step, failure)
            self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
        return failure is None

    def _note_error(self, *, execute_reply: Mapping[str, Any], **_: Any) -> None:
        self._timed_out = execute_reply["content"].get("ename") == TIMED_OUT

    def _how_it_died(self) -> str:
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        status = process.poll() if process is not None else None
        if status is None:
            return "it answers no more"
        if status == -signal.SIGKILL:
            return "killed by SIGKILL, from someone or from the system for want of memory"
        if status < 0:
            return f"ended by {signal.Signals(-status).name} ({signal.strsignal(-status)})"
        return f"it exited with status {status}"
