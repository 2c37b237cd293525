"""Every error that mlops raises, as one tree.

::

    MlopsError
    ├── SettingsError        a setting, a dimension or a URL cannot be understood
    │   └── SinkURLError     the URL of a sink: unknown scheme, unparsable, missing host
    ├── SeriesError          a metric name, dimension or value that Monasca would refuse
    ├── StoreError           the record on disk cannot be written or read
    │   └── RunNotFoundError no run of that id, prefix or path
    ├── RunError             a run is used in a way it does not allow
    │   └── CommandError     the command that a run shall record cannot be started
    ├── SinkError            a sink cannot take or deliver points
    │   ├── SinkUnavailableError   not now; nothing is lost, it is tried again
    │   └── SpoolBusyError         another process is delivering the same points
    ├── CloudError           a cloud cannot be used as asked
    │   ├── CloudConfigError       clouds.yaml or the OS_* variables (also a SettingsError)
    │   ├── AuthorisationError     the cloud refuses the credentials, or the role
    │   ├── CloudUnavailableError  the cloud does not answer, or asks to come back later
    │   └── RequestRefusedError    a service of the cloud will never take this request
    ├── AlarmError           an alarm's definition cannot be understood, or not be changed into what is asked
    ├── DeviceError          a device cannot be opened or read
    ├── ReportError          a report, a figure or an export cannot be made
    ├── NotebookError        a notebook did not run to its end
    │   ├── NotebookNotFoundError  there is no notebook of that path, or what is there is none
    │   ├── NotebookTimeoutError   a cell ran longer than it was given
    │   └── ParameterError   a parameter that the notebook does not declare
    └── MissingExtraError    an optional dependency is not installed (also an ImportError)

Each one says what happened and where in its first sentence and what to do about it in
:attr:`MlopsError.remedy`; ``str()`` gives both.  None of them ever leaves a training loop: the
recording side turns them into one warning each.
"""

from __future__ import annotations

__all__ = [
    "AlarmError",
    "AuthorisationError",
    "CloudConfigError",
    "CloudError",
    "CloudUnavailableError",
    "CommandError",
    "DeviceError",
    "MissingExtraError",
    "MlopsError",
    "NotebookError",
    "NotebookNotFoundError",
    "NotebookTimeoutError",
    "ParameterError",
    "ReportError",
    "RequestRefusedError",
    "RunError",
    "RunNotFoundError",
    "SeriesError",
    "SettingsError",
    "SinkError",
    "SinkURLError",
    "SinkUnavailableError",
    "SpoolBusyError",
    "StoreError",
]


class MlopsError(Exception):
    """What happened and where, with a remedy.

    Args:
        what: one sentence, what happened and where.
        remedy: one sentence, what to do about it; may be empty.

    Attributes:
        exit_code: what the command line exits with (1 failed, 2 usage, 4 not authorised, 5 the work itself
            failed, 124 timed out, 126 and 127 as shells give them for a command that cannot be started).
    """

    exit_code: int = 1

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        if not self.remedy:
            return self.what
        first = self.what if self.what.endswith((".", "!", "?")) else f"{self.what}."
        return f"{first} {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.remedy, self.__dict__)


def _rebuild(cls: type[MlopsError], what: str, remedy: str, state: dict[str, object]) -> MlopsError:
    error = cls.__new__(cls)
    MlopsError.__init__(error, what, remedy=remedy)
    error.__dict__.update(state)
    return error


class SettingsError(MlopsError):
    """A setting cannot be understood: which one, where it came from, what is allowed."""

    exit_code = 2


class SinkURLError(SettingsError):
    """The URL of a sink has an unknown scheme, cannot be parsed, or lacks a part."""


class SeriesError(MlopsError, ValueError):
    """A metric name, a dimension or a value that Monasca would refuse.

    Attributes:
        mended: the nearest spelling that is allowed, or ``None`` where there is none.
    """

    exit_code = 2

    def __init__(self, what: str, *, remedy: str = "", mended: str | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.mended = mended


class StoreError(MlopsError):
    """The record of a run cannot be written or read."""


class RunNotFoundError(StoreError):
    """No run of that id, prefix or path exists."""

    exit_code = 2


class RunError(MlopsError):
    """A run is used in a way it does not allow."""


class CommandError(RunError):
    """The command that a run shall record cannot be started: not found, or not a program.

    Args:
        exit_code: 127 if it is not there, 126 if it is there and cannot be executed.
    """

    exit_code = 127

    def __init__(self, what: str, *, remedy: str = "", exit_code: int = 127) -> None:
        super().__init__(what, remedy=remedy)
        self.exit_code = exit_code


class SinkError(MlopsError):
    """A sink cannot take or deliver points."""


class SinkUnavailableError(SinkError):
    """A durable sink cannot take points now; it has taken none of them, and shall be asked again.

    Attributes:
        retry_after: seconds after which its destination asked to be tried again, if it did.
    """

    def __init__(self, what: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


class SpoolBusyError(SinkError):
    """Another process is delivering the same points file to the same destination.

    Attributes:
        host, pid: that process; empty and 0 where it is not known.
    """

    def __init__(self, what: str, *, remedy: str = "", host: str = "", pid: int = 0) -> None:
        super().__init__(what, remedy=remedy)
        self.host = host
        self.pid = pid


class CloudError(MlopsError):
    """A cloud cannot be used as asked: there is no such service in it, or it is none."""


class CloudConfigError(CloudError, SettingsError):
    """What clouds.yaml or the OS_* variables say of a cloud is missing or cannot be understood."""

    exit_code = 2


class AuthorisationError(CloudError):
    """The cloud knows us not, or not in a role that may do this."""

    exit_code = 4


class CloudUnavailableError(CloudError):
    """The cloud does not answer, answers that it cannot now, or asks to come back later.

    Attributes:
        retry_after: seconds after which it asked to be tried again, if it did.
    """

    def __init__(self, what: str, *, remedy: str = "", retry_after: float | None = None) -> None:
        super().__init__(what, remedy=remedy)
        self.retry_after = retry_after


class RequestRefusedError(CloudError):
    """A service has looked at a request and will not take it, now or later.

    Attributes:
        status: of the answer: 400, 404, 409, 413 or 422.
        detail: what the service said about it.
    """

    def __init__(self, what: str, *, remedy: str = "", status: int = 400, detail: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.status = status
        self.detail = detail


class AlarmError(MlopsError):
    """An alarm's definition cannot be understood, or what is in force cannot be changed into it."""

    exit_code = 2


class DeviceError(MlopsError):
    """A device cannot be opened or read."""


class ReportError(MlopsError):
    """A report, a figure or an export cannot be made."""


class NotebookError(MlopsError):
    """A notebook did not run to its end: which cell, and why."""

    exit_code = 5


class NotebookNotFoundError(NotebookError):
    """There is no notebook of that path, or what is there is none."""

    exit_code = 2


class NotebookTimeoutError(NotebookError, TimeoutError):
    """A cell ran longer than it was given, or the kernel did not start in time."""

    exit_code = 124


class ParameterError(NotebookError):
    """A parameter that the notebook's ``parameters`` cell does not declare, or that cannot be parsed."""

    exit_code = 2


class MissingExtraError(MlopsError, ImportError):
    """An optional dependency is not installed.

    Args:
        module: the module that could not be imported.
        extra: the extra of mlops that brings it.
    """

    exit_code = 2

    def __init__(self, module: str, extra: str) -> None:
        MlopsError.__init__(
            self,
            f"The Python package {module!r} is not installed in this environment",
            remedy=f"Install it with: pip install 'mlops[{extra}]'",
        )
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtraError, (self.module, self.extra)
