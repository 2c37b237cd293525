"""``mlops upload``."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import click

from mlops.cli import output
from mlops.cli.options import Documented, Seconds, format_option, run_argument, runs_dir_option, settings
from mlops.cli.sending import counted, display, why_dropped
from mlops.errors import AuthorisationError, CloudUnavailableError, MlopsError, SinkUnavailableError

if TYPE_CHECKING:
    from mlops.cli.sending import Display
    from mlops.settings import Settings
    from mlops.sinks import DurableSink
    from mlops.store import RunFolder
    from mlops.upload import Upload

__all__ = ["command"]

_PATIENCE: Final = 300
_CLOSE_SECONDS: Final = 5.0
_TIMED_OUT: Final = 124
_COLUMNS: Final = {
    "run": "RUN",
    "sent": "SENT",
    "before": "BEFORE",
    "dropped": "DROPPED",
    "missing": "MISSING",
    "left": "LEFT",
}
_EXIT_CODES: Final = (
    "Exit codes: 0 all that is recorded is delivered (what Monasca cannot keep, such as nan, is counted); 1 something "
    "is damaged, missing or being sent by another upload, and all the rest is delivered; 2 no cloud is named, or there "
    "is none of that name; 4 the cloud refuses the credentials or the role; 124 it took nothing for longer than "
    "--patience; 130 Ctrl-C; 143 SIGTERM. After each of them the same call goes on where this one stopped."
)
_AGAIN: Final = (
    "How far a run has got to a cloud is kept in its folder, in files that end in .cursor. To send everything again, "
    "remove them: what is there already stays as it is."
)


@dataclass(slots=True)
class _Sending:
    """What became of all runs on their way to one destination.

    Attributes:
        url: the destination.
        uploads: each run's, in the order in which they were sent.
        error: what ended it before its end.
        unbegun: runs that it had not come to by then.
    """

    url: str
    uploads: list[Upload] = field(default_factory=list)
    error: MlopsError | None = None
    unbegun: int = 0

    def total(self, name: str) -> int:
        """The sum of a number of all runs."""
        return sum(getattr(upload, name) for upload in self.uploads)


@click.command(
    "upload",
    cls=Documented,
    examples=[
        ("mlops upload", "what is left of all runs, to the clouds of the settings"),
        ("mlops upload last --to monasca://mycloud", ""),
        ("mlops upload --dry-run", "what would be sent?"),
        ("mlops upload --patience 2h -o json | jq .total.sent", ""),
    ],
    notes=[_EXIT_CODES, _AGAIN],
)
@run_argument("which", several=True)
@click.option(
    "--to",
    "url",
    metavar="URL",
    help="Where to, such as monasca://CLOUD; else the monasca:// entries of the sinks in the settings, else the cloud "
    "of OS_CLOUD or OS_AUTH_URL.",
)
@click.option(
    "--patience",
    type=Seconds(),
    default=_PATIENCE,
    help="How long the cloud may take nothing at all before this gives up: 90s, 15m, 2h. [default: 5m]",
)
@click.option(
    "--confirm/--no-confirm",
    default=True,
    help="Whether the cloud is asked, once a run is delivered, how many of its points have reached its database; what "
    "got lost on the way there is sent again. [default: confirm]",
)
@click.option("--dry-run", is_flag=True, help="Only say what is left to be sent.")
@runs_dir_option
@format_option("table", "json", "yaml", default="table")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    which: tuple[str, ...],
    url: str | None,
    patience: int,
    confirm: bool,
    dry_run: bool,
    runs_dir: Path | None,
    form: str,
) -> None:
    """Send to Monasca what is left of the runs: every point, once, with its own time.

    It goes on where the training's own sink or an upload before it stopped, on any machine that sees the folder of
    runs. A cloud that is away is waited for. Sending twice changes nothing. Without RUN all runs are sent; one whose
    training goes on is sent as far as it is recorded.
    """
    given = settings(runs_dir=runs_dir)
    urls = [url] if url else _destinations(given)
    runs = _chosen(which, given)
    sinks = [_opened(one, given) for one in urls]
    show = None if dry_run else display()
    sendings = [_Sending(one) for one in urls]
    interrupted = 0
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        for sending, sink in zip(sendings, sinks, strict=True):
            _work(sending, runs, sink, patience, show, confirm=confirm)
    except KeyboardInterrupt as error:
        interrupted = signal.SIGTERM if isinstance(error, _TerminatedError) else signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
        if show is not None:
            show.close()
    if interrupted:
        sent = sum(sending.total("sent") for sending in sendings)
        click.echo(f"mlops: interrupted; {counted(sent)} sent; run it again to go on", err=True)
        ctx.exit(128 + interrupted)
    if form == "table":
        _show(sendings, given.runs_dir, dry_run=dry_run)
    else:
        output.structured(_as_json(sendings, dry_run=dry_run), form)
    errors = [sending.error for sending in sendings if sending.error is not None]
    if errors:
        raise errors[0]
    bad = {upload.run for sending in sendings for upload in sending.uploads if upload.problems}
    if bad and not dry_run:
        raise MlopsError(
            f"Not all of {_counted_runs(len(bad))} could be sent, for the reasons above",
            remedy="What was whole is delivered.",
        )


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends it as Ctrl-C does."""


def _terminated(_number: int, _frame: object) -> None:
    raise _TerminatedError


# -- what to send, and where to --------------------------------------------------------------------


def _destinations(given: Settings) -> list[str]:
    from mlops.sinks import DurableSink, SinkURL
    from mlops.sinks.base import kind_of

    found = [url for url in given.sinks if issubclass(kind_of(SinkURL.parse(url)), DurableSink)]
    if found:
        return found
    if cloud := os.environ.get("OS_CLOUD"):
        return [f"monasca://{quote(cloud, safe='')}"]
    if os.environ.get("OS_AUTH_URL"):
        return ["monasca:"]
    raise click.UsageError(
        "No cloud is named to send to. Name one of clouds.yaml with --to monasca://CLOUD, with "
        "MLOPS_SINKS=monasca://CLOUD or with OS_CLOUD=CLOUD, or set OS_AUTH_URL and the other OS_* variables."
    )


def _opened(url: str, given: Settings) -> DurableSink:
    from mlops.sinks import DurableSink, SinkURL, open_sink
    from mlops.sinks.base import kind_of

    if ":" not in url:
        raise click.UsageError(f"{url!r} is no URL. For a cloud of clouds.yaml write --to monasca://{url}.")
    if not issubclass(kind_of(SinkURL.parse(url)), DurableSink):
        raise click.UsageError(
            f"{SinkURL.parse(url)} takes points of now, not those of the past. Write --to monasca://CLOUD."
        )
    sink = open_sink(url, given)
    assert isinstance(sink, DurableSink)  # noqa: S101 - its class is one
    return sink


def _chosen(which: Sequence[str], given: Settings) -> list[RunFolder]:
    from mlops.store import list_runs, open_run

    if not which:
        return list_runs(given.runs_dir)
    found = [open_run(one, given.runs_dir) for one in which]
    return list({run.path.resolve(): run for run in found}.values())


def _work(
    sending: _Sending,
    runs: Sequence[RunFolder],
    sink: DurableSink,
    patience: int,
    show: Display | None,
    *,
    confirm: bool,
) -> None:
    """Send the runs, or look at them; an error that ends it is kept, so that the next destination has its turn."""
    from mlops.upload import look, upload

    def end(result: Upload) -> None:
        sending.uploads.append(result)
        if show is not None:
            show.end(result)

    try:
        if show is None:
            sending.uploads = look(runs, sink)
            return
        if runs:
            show.begin(len(runs), sending.url)
        upload(runs, sink, on_progress=show.update, on_run=end, patience=patience, confirm=confirm)
    except MlopsError as error:
        sending.error = error if show is None else _explained(error, sending, patience)
        sending.unbegun = len(runs) - len(sending.uploads)
    finally:
        order = [run.id for run in runs]
        sending.uploads.sort(key=lambda result: order.index(result.run))  # they do not end in it
        sink.close(_CLOSE_SECONDS)


def _explained(error: MlopsError, sending: _Sending, patience: int) -> MlopsError:
    """What ended an upload before its end, and what has been achieved by then."""
    sent = f"{counted(sending.total('sent'))} sent until then"
    if isinstance(error, AuthorisationError):
        error.remedy = f"{error.remedy} Then call it again; it goes on where this one stopped ({sent}).".lstrip()
        return error
    if not isinstance(error, SinkUnavailableError | CloudUnavailableError):
        return error
    after = error.retry_after or 0.0
    asks = f" It asks to be left alone for {output.duration(after)}." if after > patience else ""
    gave_up = SinkUnavailableError(
        f"{sending.url} took nothing for {output.duration(patience)}, and this gives up; {sent}. The last answer: "
        f"{error.what}",
        remedy=f"{error.remedy}{asks} Call it again: it goes on where this one stopped.".strip(),
    )
    gave_up.exit_code = _TIMED_OUT
    return gave_up


# -- what became of them ---------------------------------------------------------------------------


def _as_json(sendings: Sequence[_Sending], *, dry_run: bool) -> dict[str, Any]:
    runs = [{"to": sending.url, **asdict(upload)} for sending in sendings for upload in sending.uploads]
    names = ("sent", "before", "dropped", "refused", "missing", "left")
    return {
        "ok": not any(sending.error for sending in sendings) and not any(run["problems"] for run in runs),
        "dry_run": dry_run,
        "total": {name: sum(sending.total(name) for sending in sendings) for name in names},
        "runs": runs,
        "errors": [
            {"to": sending.url, "what": sending.error.what, "remedy": sending.error.remedy, "unbegun": sending.unbegun}
            for sending in sendings
            if sending.error is not None
        ],
    }


def _show(sendings: Sequence[_Sending], runs_dir: Path, *, dry_run: bool) -> None:
    columns = _columns(sendings, dry_run=dry_run)
    for sending in sendings:
        if len(sendings) > 1:
            click.echo(click.style(sending.url, bold=True))
        if not sending.uploads and sending.error is None:
            click.echo(f"No runs in {runs_dir.absolute()}.")
        if sending.uploads:
            rows = [
                {key: upload.run if key == "run" else f"{getattr(upload, key):,}" for key in columns}
                for upload in sending.uploads
            ]
            output.table(columns, rows, right=[key for key in columns if key != "run"])
        for upload in sending.uploads:
            for mark, texts in (("!", upload.problems), ("–", _notes(upload))):
                for text in texts:
                    output.hanging(f"{click.style(mark, fg='red' if mark == '!' else None)} {upload.run}: ", text)
        if sending.uploads:
            output.hanging("", _summary(sending, dry_run=dry_run))


def _columns(sendings: Sequence[_Sending], *, dry_run: bool) -> dict[str, str]:
    columns = dict(_COLUMNS)
    if dry_run:
        del columns["sent"]
    if not any(upload.missing for sending in sendings for upload in sending.uploads):
        del columns["missing"]
    return columns


def _notes(upload: Upload) -> list[str]:
    running = ["its training goes on; what it records from now on is sent by it, or by the next upload"]
    dropped = [f"{counted(upload.dropped)} dropped: {why_dropped(upload)}"] if upload.dropped else []
    if upload.again:
        dropped.append(
            f"{counted(upload.again)} had been taken by the cloud and lost, and {_were(upload.again)} sent again"
        )
    return [*dropped, *upload.notes, *(running if upload.running and not upload.busy else [])]


def _summary(sending: _Sending, *, dry_run: bool) -> str:
    runs = _counted_runs(len(sending.uploads))
    if dry_run:
        left = sending.total("left")
        return f"Nothing was sent. {counted(left)} of {runs} {'are' if left != 1 else 'is'} left for {sending.url}."
    unbegun = f" It did not come to {_counted_runs(sending.unbegun)} more." if sending.unbegun else ""
    done = [upload for upload in sending.uploads if upload.is_whole]
    confirmed = f" {sending.url} has confirmed that it has all points of {_counted_runs(len(done))}." if done else ""
    return f"{counted(sending.total('sent'))} of {runs} sent to {sending.url}.{confirmed}{unbegun}"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _counted_runs(runs: int) -> str:
    """A number of runs."""
    return f"{runs:,} run{'s' if runs != 1 else ''}"
