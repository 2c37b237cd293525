"""One notebook on its way through a kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Literal

from mlops.errors import MissingExtraError, MlopsError, NotebookError, NotebookTimeoutError
from mlops.notebook.document import Document, Step, steps

__all__ = ["Execution", "Progress", "Verdict"]

_FILE_MODE: Final = 0o600
_TAIL: Final = 2000
START_SECONDS: Final = 60
"""What a kernel may take to get ready."""
_BUSY_SECONDS: Final = 0.3
"""An idle kernel ignores interrupts; so long it may take from the request to the cell's first line."""


@dataclass(frozen=True, slots=True)
class Progress:
    """News of one cell.

    Attributes:
        step: the cell.
        state: ``started``, ``finished`` or ``failed``.
        seconds: how long it ran.
    """

    step: Step
    state: Literal["started", "finished", "failed"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a notebook went.

    Attributes:
        outcome: one of :data:`mlops.store.OUTCOMES`.
        reason: one sentence on why it ended so; empty when it went well.
        error: what to raise where it failed.
    """

    outcome: str
    reason: str = ""
    error: MlopsError | None = None


@dataclass(slots=True)
class Failure:
    """What went wrong in a cell: the exception's name and text, or one of the marks below."""

    step: Step | None
    name: str
    text: str


TIMED_OUT: Final = "mlops.CellTimedOut"
"""The name of the error that a cell is given which ran too long; no exception of Python's has a dot in it."""
KERNEL_DIED: Final = "mlops.KernelDied"


class Execution:
    """Runs a notebook on a thread of its own; judged once it has ended.

    Args:
        document: the notebook.
        output: where the executed notebook is written, cell by cell.
        parameters: checked already (see :meth:`Document.check`).
        kernel: the kernel's name, as :meth:`Document.kernel` gave it.
        cell_timeout: seconds that one cell may run; ``None`` for any time.
        environ: the kernel's environment.
        folder: the kernel's working folder; this process's if not given.
        log: file that takes what the kernel's process writes outside of cells; removed if it stays empty.

    Attributes:
        news: what happens to the cells, in order.
        steps: the cells that are executed; known once it has begun.
        finished: how many of them have run well so far.
    """

    def __init__(
        self,
        document: Document,
        output: Path,
        *,
        parameters: Mapping[str, Any] | None = None,
        kernel: str = "python3",
        cell_timeout: int | None = None,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
        log: Path | None = None,
    ) -> None:
        self.document = document
        self.output = output.absolute()
        self.parameters = dict(parameters or {})
        self.kernel = kernel
        self.cell_timeout = cell_timeout
        self.environ = dict(os.environ if environ is None else environ)
        self.folder = folder or Path.cwd()
        self.news: SimpleQueue[Progress] = SimpleQueue()
        self.steps: list[Step] = []
        self.finished = 0
        self.failure: Failure | None = None
        self._log = log or Path(os.devnull)
        self._error: BaseException | None = None
        self._interrupted = ""
        self._busy = False
        self._begun = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._manager: Any = None
        self._asked: list[asyncio.Task[None]] = []  # a loop holds its tasks but weakly
        self._thread = threading.Thread(target=self._work, name="mlops-notebook", daemon=True)

    # -- for who started it ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin.

        Raises:
            NotebookError: the output cannot be written.
        """
        try:
            for path in (self.output, self._log):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _FILE_MODE))
        except OSError as error:
            failure = NotebookError(
                f"Cannot write {error.filename}: {error.strerror}",
                remedy="Name another file for the executed notebook.",
            )
            failure.exit_code = 1  # nothing was run
            raise failure from error
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def interrupt(self, why: str) -> None:
        """Interrupt the cell that is running, as Ctrl-C would, and begin no other.

        ``finally`` and what is registered with atexit run in the kernel.  Returns at once; a cell
        that heeds no interrupt has to be ended with :meth:`kill`.

        Args:
            why: a word for the verdict, such as ``SIGTERM``.
        """
        self._interrupted = self._interrupted or why
        self._in_loop(self._interrupt)

    def kill(self) -> None:
        """End the kernel at once."""
        self._in_loop(self._kill)
        process = getattr(getattr(self._manager, "provisioner", None), "process", None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)

    def verdict(self) -> Verdict:
        """How it went; to be asked once it has ended."""
        left_out = len(self.steps) - self.finished
        if self._interrupted and (left_out or self._error or not self.steps):
            return Verdict("interrupted", self._interrupted)
        if self.failure is not None:
            return _of_failure(self.failure, left_out, self)
        if self._error is not None:
            return _of_error(self._error, self)
        if left_out:
            what = f"{left_out} of {len(self.steps)} cells of {self.document.path.name} did not run"
            return Verdict("failed", what, NotebookError(what, remedy=f"What there is, is in {self.output}."))
        return Verdict("finished")

    def kernel_said(self) -> str:
        """The last line that the kernel's process wrote outside of cells; empty if none."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip() if lines else ""

    # -- for the client, on its thread ----------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Whether no further cell may begin."""
        return bool(self._interrupted)

    def kernel_started(self, loop: asyncio.AbstractEventLoop, manager: Any) -> None:
        """Told the kernel's manager and the event loop that it is used in."""
        self._loop, self._manager = loop, manager

    def kernel_ended(self) -> None:
        """Told that there is no kernel any more."""
        self._loop = self._manager = None

    def begin(self, index: int) -> Step | None:
        """A cell begins; the step that it is, if it is executed at all."""
        step = next((step for step in self.steps if step.index == index), None)
        if step is not None:
            self._begun = time.monotonic()
            self._busy = True
            self.news.put(Progress(step, "started"))
        return step

    def end(self, step: Step | None, failure: tuple[str, str] | None = None) -> None:
        """A cell has ended, with the name and text of an error if it raised one."""
        self._busy = False
        if step is None:
            return
        if failure is None:
            self.finished += 1
        else:
            self.failure = Failure(step, *failure)
        self.news.put(Progress(step, "finished" if failure is None else "failed", time.monotonic() - self._begun))

    def _work(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - the verdict says what it was
            self._error = error
        finally:
            self._busy = False
            with contextlib.suppress(OSError):
                if self._log.is_file() and not self._log.stat().st_size:
                    self._log.unlink()

    def _run(self) -> None:
        try:
            from mlops.notebook import _papermill
        except ImportError as error:
            raise MissingExtraError(error.name or "papermill", "notebook") from error
        node = _papermill.prepare(self.document, self.output, self.parameters, self.kernel)
        self.steps = steps(node)
        with self._log.open("ab") as log:
            _papermill.execute(node, self, log)

    def _in_loop(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done where the kernel's manager lives; nothing if there is no kernel yet, or no more."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: self._asked.append(loop.create_task(what())))

    async def _interrupt(self) -> None:
        early = _BUSY_SECONDS - (time.monotonic() - self._begun)
        if self._busy and early > 0:
            await asyncio.sleep(early)
        manager = self._manager
        if self._busy and manager is not None:
            with contextlib.suppress(Exception):
                await manager.interrupt_kernel()

    async def _kill(self) -> None:
        manager = self._manager
        if manager is not None and manager.provisioner is not None:
            with contextlib.suppress(Exception):
                await manager.provisioner.kill()


def _of_failure(failure: Failure, left_out: int, execution: Execution) -> Verdict:
    """The verdict on a cell that did not end well."""
    output = execution.output
    cell = str(failure.step)[:1].upper() + str(failure.step)[1:] if failure.step else "The notebook"
    others = left_out - 1
    behind = f"; {'the cell' if others == 1 else f'{others} cells'} after it did not run" if others > 0 else ""
    if failure.name == TIMED_OUT:
        what = f"{cell} ran longer than {execution.cell_timeout} s and was interrupted"
        error: NotebookError = NotebookTimeoutError(
            what, remedy=f"Give it more time with --timeout; what it had done by then is in {output}."
        )
        return Verdict("failed", what, error)
    if failure.name == KERNEL_DIED:
        where = f"in {failure.step}" if failure.step else "after the last cell"
        what = f"The kernel died {where}: {failure.text}"
        said = execution.kernel_said()
        error = NotebookError(what, remedy=f"{f'It said: {said} ' if said else ''}The output so far is in {output}.")
        return Verdict("failed", what, error)
    if failure.name == "SystemExit":
        what = f"{cell} called sys.exit({failure.text}){behind}"
        remedy = f"A notebook ends with its last cell: take the call out. The output so far is in {output}."
        return Verdict("failed", what, NotebookError(what, remedy=remedy))
    text = " ".join(failure.text.split())
    what = f"{cell} raised {failure.name}{f': {text}' if text else ''}"
    return Verdict("failed", what, NotebookError(what, remedy=f"The traceback is in {output}."))


def _of_error(error: BaseException, execution: Execution) -> Verdict:
    """The verdict on what went wrong outside of cells."""
    if isinstance(error, MlopsError):
        return Verdict("failed", error.what, error)
    kernel = f"The kernel {execution.kernel}"
    said = execution.kernel_said()
    hint = f"It said: {said}" if said else f"Try: jupyter console --kernel {execution.kernel}"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        what = f"Cannot write {error.filename or execution.output}: {error.strerror or error}"
        return Verdict("failed", what, NotebookError(what, remedy="Free space there, or name another file."))
    if isinstance(error, RuntimeError | TimeoutError) and "respond in" in str(error):
        what = f"{kernel} did not start within {START_SECONDS} s"
        return Verdict("failed", what, NotebookTimeoutError(what, remedy=hint))
    if isinstance(error, RuntimeError) and "Kernel died" in str(error):
        what = f"{kernel} ended before it was ready"
        return Verdict("failed", what, NotebookError(what, remedy=hint))
    text = (str(error).strip().splitlines() or [""])[0]
    what = f"{execution.document.path.name} could not be run: {type(error).__name__}: {text}"
    failure = NotebookError(what, remedy=hint)
    failure.__cause__ = error
    return Verdict("failed", what, failure)
