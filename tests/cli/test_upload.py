"""``mlops upload``: what it prints where, what it exits with, and what a signal leaves behind."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result

from mlops import upload as upload_module
from mlops.errors import AuthorisationError, CloudConfigError, CloudUnavailableError, RequestRefusedError
from mlops.monasca.about import RUN_METRIC
from mlops.sinks import monasca as monasca_module
from mlops.sinks._cursor import Cursor
from mlops.store import RUNNING
from tests.cli.conftest import MLOPS
from tests.monasca.imitation import Imitation
from tests.monasca.scripted import SECRET, Reply, ScriptedCloud
from tests.sinks.durable import Row, WrittenRun, columns_of

Call = Callable[..., Result]
Wait = Callable[[Callable[[], object]], None]

ID = "20261122-232640-digits-0a1b2c"


class Api(Imitation):
    """An imitated API that a test can have refuse, lose or be away.

    Attributes:
        posts: how often it was sent something.
        troubles: raised by the next posts, one each; ``None`` among them for one that goes well.
        always: raised by every post and query, if it is set.
        refused: the name of a metric that it will not have.
        losing: how many of the next points it loses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.posts = 0
        self.troubles: list[BaseException | None] = []
        self.always: Exception | None = None
        self.refused = ""
        self.losing = 0

    def post_metrics(self, body: bytes) -> None:
        """Take them, or do what it was told to."""
        self.posts += 1
        trouble = self.troubles.pop(0) if self.troubles else self.always
        if trouble is not None:
            raise trouble
        batch = json.loads(body)
        if any(one["name"] == self.refused for one in batch):
            raise RequestRefusedError("POST was answered with 422: no", status=422, detail="no")
        lost = 0 if batch[0]["name"] == RUN_METRIC else min(self.losing, len(batch))
        self.losing -= lost
        self.post(batch[lost:])

    def points(self) -> int:
        """How many it has, but for those about runs."""
        return sum(len(rows) for (name, _), rows in self._series.items() if name != RUN_METRIC)


@pytest.fixture(autouse=True)
def no_cloud_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """No OS_* variable reaches a test."""
    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long was waited; it costs no time."""
    made: list[float] = []

    class Clock:
        sleep = staticmethod(made.append)

        @staticmethod
        def monotonic() -> float:
            return 1000.0 + sum(made)

    monkeypatch.setattr(upload_module, "time", Clock)
    return made


@pytest.fixture
def apis(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> dict[str, Api]:
    """The imitated APIs of the clouds ``mine`` and ``theirs``; there is no other."""
    assert slept == []
    clouds = {"mine": Api(), "theirs": Api()}
    for name, api in clouds.items():
        monkeypatch.setattr(api, "destination", lambda name=name: f"imitated {name}")

    def connect(cloud: str) -> Imitation:
        if cloud not in clouds:
            raise CloudConfigError(f"There is no cloud {cloud!r}", remedy="The clouds there: 'mine', 'theirs'.")
        return clouds[cloud]

    monkeypatch.setattr(monasca_module, "_connect", connect)
    return clouds


@pytest.fixture
def api(apis: dict[str, Api], monkeypatch: pytest.MonkeyPatch) -> Api:
    """That of ``mine``, which OS_CLOUD names."""
    monkeypatch.setenv("OS_CLOUD", "mine")
    return apis["mine"]


def rows(count: int) -> list[Row]:
    """Points of three series, a hundredth of a second apart."""
    return [(number % 3, number * 0.01, float(number)) for number in range(count)]


def written(runs_dir: Path, tail: str = "0a1b2c", *, count: int = 12, **info: Any) -> WrittenRun:
    """A run that ended well, with so many points."""
    run = WrittenRun(runs_dir, tail, **info)
    run.whole([rows(count)])
    return run


def damage(run: WrittenRun) -> None:
    """Three blocks of five points, the middle one of them broken, and a file that is gone."""
    path = run.whole([rows(5), rows(5), rows(5)])
    run.info.notes["points"] = {path.name: 15, "node-9-9-0.points": 77}
    run.folder.write_info(run.info)
    raw = bytearray(path.read_bytes())
    blocks = [found.start() for found in re.finditer(b"MLPB", raw)]
    raw[blocks[3] + 40] ^= 0xFF  # the first two say who wrote it and name the series
    path.write_bytes(raw)


def table(result: Result) -> list[list[str]]:
    """The rows of the table that was printed, its heading among them."""
    return [line.split() for line in result.stdout.splitlines() if line.startswith(("RUN", "2026"))]


# -- what it says ------------------------------------------------------------------------------------


def test_what_was_done_is_a_table_and_a_sentence(call: Call, api: Api, runs_dir: Path) -> None:
    """On standard output what became of it, on standard error how it went; a second call finds nothing to do."""
    written(runs_dir, count=1200)
    first = call("upload")
    assert first.exit_code == 0
    assert first.stdout.splitlines() == [
        "RUN                             SENT  BEFORE  DROPPED  LEFT",
        f"{ID}  1,200       0        0     0",
        "1,200 points of 1 run sent to monasca://mine. monasca://mine has confirmed that it has all points of 1 run.",
    ]
    assert first.stderr.splitlines() == [
        "mlops: sending 1 run to monasca://mine",
        f"mlops: {ID}: 1,200 points sent, confirmed",
    ]
    assert api.points() == 1200
    posts = api.posts
    again = call("upload")
    assert again.exit_code == 0
    assert table(again)[1] == [ID, "0", "1,200", "0", "0"]
    assert "0 points of 1 run sent to monasca://mine." in again.stdout
    assert again.stderr.splitlines()[1] == f"mlops: {ID}: 0 points sent, 1,200 had been sent before"
    assert api.posts == posts


def test_no_runs_are_no_failure(call: Call, api: Api, runs_dir: Path) -> None:
    """It is said where there are none, so that a wrong folder is seen."""
    found = call("upload")
    assert (found.exit_code, found.stdout, found.stderr) == (0, f"No runs in {runs_dir}.\n", "")
    assert api.posts == 0


@pytest.mark.usefixtures("api")
def test_some_runs_of_many(call: Call, runs_dir: Path) -> None:
    """By id, its beginning, name, folder or the word last; one that is named twice is sent once."""
    for tail in ("0a1b2c", "beef00", "ffffff"):
        written(runs_dir, tail, count=3)
    found = call("upload", ID, ID[:-3], "last", str(runs_dir / ID))
    assert found.exit_code == 0
    assert [row[0] for row in table(found)[1:]] == [ID, ID.replace("0a1b2c", "ffffff")]
    assert "6 points of 2 runs sent" in found.stdout
    rest = call("upload")
    assert [row[1] for row in table(rest)[1:]] == ["0", "3", "0"]
    missing = call("upload", "nobody")
    assert missing.exit_code != 0
    assert "nobody" in missing.stderr
    assert missing.stdout == ""


def test_damage_is_named_and_the_exit_code_is_one(call: Call, api: Api, runs_dir: Path) -> None:
    """What is whole is delivered; what is missing stands beneath the table, and the last words are an error's."""
    damage(damaged := WrittenRun(runs_dir))
    written(runs_dir, "beef00", count=3)
    found = call("upload")
    assert found.exit_code == 1
    assert [row[1] for row in table(found)[1:]] == ["10", "3"]
    assert api.points() == 13
    gone, bad, lacking = [line for line in found.stdout.splitlines() if line.startswith("! ")]
    assert gone == f"! {damaged.folder.id}: node-9-9-0.points: the file is missing, and 77 points with it"
    assert re.fullmatch(rf"! {ID}: node-1-1-0.points: .* damaged and were passed over.*", bad)
    assert "blocks 3 to 3 are missing" in lacking
    assert found.stderr.splitlines()[-2:] == [
        "error: Not all of 1 run could be sent, for the reasons above",
        "  What was whole is delivered.",
    ]
    assert not json.loads(call("upload", "-o", "json").stdout)["ok"], "a file that is gone stays gone"


def test_beside_another_upload_it_says_who_is_at_it(call: Call, api: Api, runs_dir: Path) -> None:
    """Nothing of that run is sent, all of the others is; exit code 1."""
    run = written(runs_dir)
    written(runs_dir, "beef00", count=3)
    cursor = Cursor(run.folder.points_files()[0], api.destination())
    found = call("upload")
    cursor.close()
    assert found.exit_code == 1
    assert [row[1] for row in table(found)[1:]] == ["0", "3"]
    (busy,) = [line for line in found.stdout.splitlines() if line.startswith("! ")]
    assert busy.startswith(f"! {ID}: ")
    assert f"process {os.getpid()} on" in busy
    assert "is sending node-1-1-0.points at this moment" in busy
    assert "Not all of 1 run could be sent" in found.stderr
    assert call("upload").exit_code == 0
    assert api.points() == 15


def test_what_was_dropped_is_told_apart(call: Call, api: Api, runs_dir: Path) -> None:
    """What Monasca cannot keep, and what it refused: both counted, and no failure."""
    run = WrittenRun(runs_dir)
    run.whole([[*rows(12), (0, 1.0, math.nan), (0, 1.0, math.inf)]])
    api.refused = "metric.1"
    found = call("upload")
    assert found.exit_code == 0
    assert table(found)[1] == [ID, "8", "0", "6", "0"]
    assert f"– {ID}: 6 points dropped: 2 nan, infinite or of an impossible time, 4 refused\n" in found.stdout
    assert "6 dropped (2 nan, infinite or of an impossible time, 4 refused), confirmed" in found.stderr
    assert "warning: monasca://mine will not take metric.1 (422: no)." in found.stderr
    assert json.loads(call("upload", "-o", "json").stdout)["total"] == {
        "sent": 0,
        "before": 8,
        "dropped": 6,
        "refused": 4,
        "missing": 0,
        "left": 0,
    }


def test_of_a_run_that_goes_on_the_rest_is_promised(call: Call, api: Api, runs_dir: Path) -> None:
    """It is sent as far as it is recorded; that more will come is said, and is no failure."""
    run = WrittenRun(runs_dir, outcome=RUNNING, ended=None, host="elsewhere")
    writer = run.process(host="elsewhere")
    writer.write_points(columns_of(rows(7)), 0)
    found = call("upload")
    writer.close()
    assert found.exit_code == 0
    assert api.points() == 7
    assert f"– {ID}: its training goes on; what it records from now on is sent by it, or by the next upload" in (
        found.stdout
    )
    assert f"mlops: {ID}: 7 points sent, its training goes on" in found.stderr
    assert "confirmed" not in found.stdout


def test_a_role_that_may_only_send_is_told_that_nothing_is_confirmed(call: Call, api: Api, runs_dir: Path) -> None:
    """Delivered all the same: exit code 0."""
    written(runs_dir)
    api.trouble = [AuthorisationError("This role may not read") for _ in range(3)]
    found = call("upload")
    assert found.exit_code == 0
    assert f"– {ID}: delivered, not confirmed, since this role may not read: This role may not read" in found.stdout
    assert "has confirmed" not in found.stdout


def test_without_confirmation_the_cloud_is_not_asked(call: Call, api: Api, runs_dir: Path) -> None:
    """It is asked by the next upload that may."""
    written(runs_dir)
    found = call("upload", "--no-confirm")
    assert (found.exit_code, api.asked) == (0, [])
    assert "confirmed" not in found.output
    assert "monasca://mine has confirmed" in call("upload").stdout


def test_what_was_sent_again_is_said(call: Call, api: Api, runs_dir: Path) -> None:
    """What got lost behind the API is no failure once it is there."""
    written(runs_dir)
    api.losing = 5
    found = call("upload")
    assert (found.exit_code, api.points()) == (0, 12)
    assert f"– {ID}: 5 points had been taken by the cloud and lost, and were sent again" in found.stdout
    assert "has confirmed that it has all points of 1 run" in found.stdout


def test_what_never_arrives_is_a_failure(call: Call, api: Api, runs_dir: Path) -> None:
    """A cloud that takes points and keeps none: exit code 1, and whose matter it is."""
    written(runs_dir)
    api.losing = 1000
    found = call("upload")
    assert found.exit_code == 1
    assert f"! {ID}: 12 points were taken by the cloud and did not get into its database" in found.stdout
    assert "has confirmed" not in found.stdout


# -- for programs ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("api")
def test_programs_get_json_and_yaml(call: Call, runs_dir: Path) -> None:
    """The same facts in both, alone on standard output, and complete."""
    written(runs_dir)
    first = call("upload", "-o", "json")
    found = json.loads(first.stdout)
    assert (found["ok"], found["dry_run"], found["errors"]) == (True, False, [])
    assert found["total"] == {"sent": 12, "before": 0, "dropped": 0, "refused": 0, "missing": 0, "left": 0}
    assert found["runs"] == [
        {
            "to": "monasca://mine",
            "run": ID,
            "sent": 12,
            "before": 0,
            "dropped": 0,
            "refused": 0,
            "left": 0,
            "problems": [],
            "notes": [],
            "again": 0,
            "missing": 0,
            "confirmed": True,
            "busy": False,
            "running": False,
        }
    ]
    assert f"mlops: {ID}: 12 points sent, confirmed" in first.stderr
    assert json.loads(call("upload", "-o", "json").stdout) == yaml.safe_load(call("upload", "-o", "yaml").stdout)


def test_programs_are_told_of_failures_too(call: Call, apis: dict[str, Api], runs_dir: Path) -> None:
    """What went wrong stands in what they read; the exit code and standard error say it as well."""
    written(runs_dir)
    written(runs_dir, "beef00")
    apis["mine"].always = CloudUnavailableError("It is away", remedy="Look at it.")
    done = call("upload", "--to", "monasca://mine", "--patience", "1", "-o", "json")
    assert done.exit_code == 124
    found = json.loads(done.stdout)
    assert not found["ok"]
    assert found["total"]["left"] == 12
    (error,) = found["errors"]
    assert (error["to"], error["unbegun"]) == ("monasca://mine", 1)
    assert "It is away" in error["what"]
    assert "error: " in done.stderr


def test_a_dry_run_tells_what_is_left_and_sends_nothing(call: Call, api: Api, runs_dir: Path) -> None:
    """No file is written either; damage is told, and is no failure of looking."""
    run = written(runs_dir)
    before = sorted(entry.name for entry in run.folder.path.iterdir())
    found = call("upload", "--dry-run")
    assert found.exit_code == 0
    assert found.stdout.splitlines() == [
        "RUN                            BEFORE  DROPPED  LEFT",
        f"{ID}       0        0    12",
        "Nothing was sent. 12 points of 1 run are left for monasca://mine.",
    ]
    assert (found.stderr, api.posts) == ("", 0)
    assert sorted(entry.name for entry in run.folder.path.iterdir()) == before
    as_json = json.loads(call("upload", "--dry-run", "-o", "json").stdout)
    assert (as_json["dry_run"], as_json["total"]["left"], api.posts) == (True, 12, 0)
    call("upload")
    assert "0 points of 1 run are left" in call("upload", "--dry-run").stdout
    damage(WrittenRun(runs_dir, "beef00"))
    damaged = call("upload", "--dry-run")
    assert damaged.exit_code == 0
    assert "10 points of 2 runs are left" in damaged.stdout
    assert "damaged and were passed over" in damaged.stdout


# -- where to ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("apis")
def test_without_a_cloud_it_says_how_to_name_one(call: Call, runs_dir: Path) -> None:
    """Sinks that take points of now are none to upload to. Exit code 2, before anything is looked at."""
    written(runs_dir)
    for env in ({}, {"MLOPS_SINKS": "statsd://localhost:8125,memory:"}):
        found = call("upload", env={"MLOPS_RUNS_DIR": str(runs_dir), **env})
        assert found.exit_code == 2
        assert "No cloud is named to send to. Name one of clouds.yaml with --to monasca://CLOUD" in found.stderr
        assert "See: mlops upload --help" in found.stderr
        assert found.stdout == ""


@pytest.mark.usefixtures("apis")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mine", "'mine' is no URL. For a cloud of clouds.yaml write --to monasca://mine."),
        ("statsd://localhost:8125", "takes points of now, not those of the past. Write --to monasca://CLOUD."),
        ("memory:", "takes points of now"),
        ("monasca://mine/path", "has a port or a path"),
        ("monasca://mine?bach=5", "there is no option 'bach'"),
        ("monasca://min", "There is no cloud 'min'"),
        ("kafka://mine", "There is no sink of scheme 'kafka'"),
        (f"monasca://me:{SECRET}@mine", "holds a user name or password"),
    ],
)
def test_a_destination_that_is_none(call: Call, runs_dir: Path, url: str, said: str) -> None:
    """It is said what to write; exit code 2, nothing is sent, and what may be a password is not repeated."""
    run = written(runs_dir)
    found = call("upload", "--to", url)
    assert found.exit_code == 2
    assert said in found.stderr
    assert SECRET not in found.output
    assert not list(run.folder.path.glob("*.cursor"))


@pytest.mark.parametrize("cloud", ["mine", "a cloud/of ours", "100%?#"])
def test_the_cloud_is_that_of_the_environment(call: Call, apis: dict[str, Api], runs_dir: Path, cloud: str) -> None:
    """OS_CLOUD, whatever stands in it, where no sink of the settings leads to a cloud; and --to before all."""
    apis[cloud] = apis["mine"]
    written(runs_dir, count=3)
    env = {"MLOPS_RUNS_DIR": str(runs_dir), "OS_CLOUD": cloud, "MLOPS_SINKS": "statsd://localhost:8125"}
    assert call("upload", env=env).exit_code == 0
    assert apis["mine"].points() == 3
    env["MLOPS_SINKS"] = "monasca://theirs"
    assert call("upload", env=env).exit_code == 0
    assert apis["theirs"].points() == 3
    assert "3 had been sent before" in call("upload", "--to", "monasca://mine", env=env).stderr


def test_without_a_clouds_yaml_the_variables_describe_one(call: Call, apis: dict[str, Api], runs_dir: Path) -> None:
    """OS_AUTH_URL alone says that the other OS_* variables mean a cloud."""
    apis[""] = Api()
    written(runs_dir, count=3)
    found = call("upload", env={"MLOPS_RUNS_DIR": str(runs_dir), "OS_AUTH_URL": "https://keystone/v3"})
    assert (found.exit_code, apis[""].points()) == (0, 3)
    assert "sent to monasca:" in found.stdout


def test_each_of_several_destinations_has_its_turn(call: Call, apis: dict[str, Api], runs_dir: Path) -> None:
    """One that is away does not keep the next from being sent to; each has its table, the exit code is the first's."""
    written(runs_dir)
    env = {"MLOPS_RUNS_DIR": str(runs_dir), "MLOPS_SINKS": "monasca://mine,statsd://localhost:8125,monasca://theirs"}
    apis["mine"].always = CloudUnavailableError("It is away")
    first = call("upload", "--patience", "2s", env=env)
    assert first.exit_code == 124
    assert apis["theirs"].points() == 12
    lines = first.stdout.splitlines()
    assert lines.index("monasca://mine") < lines.index("monasca://theirs")
    assert "It is away" in first.stderr
    apis["mine"].always = None
    again = call("upload", "-o", "json", env=env)
    assert again.exit_code == 0
    assert [(one["to"], one["sent"]) for one in json.loads(again.stdout)["runs"]] == [
        ("monasca://mine", 12),
        ("monasca://theirs", 0),
    ]


# -- what goes wrong on the way ----------------------------------------------------------------------


def test_a_cloud_that_is_away_is_waited_for(call: Call, api: Api, runs_dir: Path, slept: list[float]) -> None:
    """One line says what for, however long it takes; then all is sent."""
    written(runs_dir)
    api.troubles = [CloudUnavailableError("It is away.") for _ in range(5)]
    found = call("upload")
    assert (found.exit_code, api.points(), len(slept)) == (0, 12, 5)
    assert found.stderr.splitlines()[1:] == [
        "mlops: waiting: It is away, trying again",
        f"mlops: {ID}: 12 points sent, confirmed",
    ]


def test_patience_that_runs_out_is_exit_code_124(call: Call, api: Api, runs_dir: Path, slept: list[float]) -> None:
    """With what was sent until then, the cloud's last words and what to do; the next call goes on."""
    written(runs_dir, count=1500)
    written(runs_dir, "beef00", count=3)
    api.troubles = [None]
    api.always = CloudUnavailableError("It is away", remedy="Look at its address.")
    found = call("upload", "--patience", "90s")
    assert found.exit_code == 124
    assert sum(slept) == pytest.approx(90)  # the last wait is as long as patience lasts
    assert table(found)[1] == [ID, "1,000", "0", "0", "500"]
    assert "It did not come to 1 run more." in found.stdout
    assert found.stderr.splitlines()[-2:] == [
        (
            "error: monasca://mine took nothing for 1 min 30 s, and this gives up; 1,000 points sent until then. "
            "The last answer: It is away"
        ),
        "  Look at its address. Call it again: it goes on where this one stopped.",
    ]
    api.always = None
    again = call("upload")
    assert again.exit_code == 0
    assert [row[1:3] for row in table(again)[1:]] == [["500", "1,000"], ["3", "0"]]


def test_a_cloud_that_wants_to_be_left_alone_for_longer_is_not_waited_for(
    call: Call, api: Api, runs_dir: Path, slept: list[float]
) -> None:
    """It is said how long it asked for."""
    written(runs_dir)
    api.always = CloudUnavailableError("It is busy", retry_after=600.0)
    found = call("upload", "--patience", "1m")
    assert (found.exit_code, slept) == (124, [])
    assert "It asks to be left alone for 10 min 0 s. Call it again" in found.stderr


def test_credentials_that_are_refused_are_exit_code_4(call: Call, api: Api, runs_dir: Path) -> None:
    """With what to mend, and that the next call goes on."""
    written(runs_dir, count=1500)
    api.troubles = [None]
    api.always = AuthorisationError("Not you", remedy="Ask for a role.")
    found = call("upload")
    assert found.exit_code == 4
    assert found.stderr.splitlines()[-2:] == [
        "error: Not you",
        "  Ask for a role. Then call it again; it goes on where this one stopped (1,000 points sent until then).",
    ]
    api.always = None
    assert call("upload").exit_code == 0
    assert api.points() == 1500


def test_an_api_that_refuses_everything_is_waited_for_like_one_that_is_away(
    call: Call, api: Api, runs_dir: Path
) -> None:
    """Nothing is given up for it: exit code 124, and later all arrives."""
    written(runs_dir)
    api.always = RequestRefusedError("POST was answered with 422: no", status=422, detail="no")
    found = call("upload", "--patience", "5s")
    assert found.exit_code == 124
    assert table(found)[1] == [ID, "0", "0", "0", "12"]
    assert "refuses everything, also what it must take" in found.stderr
    api.always = None
    assert call("upload").exit_code == 0
    assert api.points() == 12


def test_ctrl_c_says_what_was_sent(call: Call, api: Api, runs_dir: Path) -> None:
    """Exit code 130, no traceback; the next call goes on where it stopped."""
    written(runs_dir, count=1500)
    api.troubles = [None, KeyboardInterrupt()]
    found = call("upload")
    assert found.exit_code == 130
    assert found.stderr.splitlines()[-1] == "mlops: interrupted; 1,000 points sent; run it again to go on"
    again = call("upload")
    assert table(again)[1] == [ID, "500", "1,000", "0", "0"]
    assert api.points() == 1500


# -- as a process of its own -------------------------------------------------------------------------


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedCloud]:
    """A cloud that answers what it is told to, named by OS_CLOUD."""
    with ScriptedCloud() as running:
        monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(running.clouds_file(tmp_path)))
        monkeypatch.setenv("OS_CLOUD", "scripted")
        yield running


def _sent(scripted: ScriptedCloud) -> list[int]:
    """Points of each POST that it was sent, but for those about runs."""
    batches = [json.loads(body) for method, _, _, body in scripted.requests if method == "POST"]
    return [len(batch) for batch in batches if batch[0]["name"] != RUN_METRIC]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_midst_loses_nothing(
    scripted: ScriptedCloud, runs_dir: Path, wait_until: Wait, number: signal.Signals, code: int
) -> None:
    """While it waits for a cloud that is away: it ends at once, and what is left is sent by the next call."""
    written(runs_dir, count=2500)
    scripted.reply(Reply(), Reply())
    scripted.usual = Reply(503)
    command = [MLOPS, "upload", "--no-confirm", "--runs-dir", str(runs_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_until(lambda: len(scripted.requests) > 3)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == code
    assert "Traceback" not in err
    assert out == ""
    assert err.splitlines()[-1] == "mlops: interrupted; 2,000 points sent; run it again to go on"
    assert not list(runs_dir.rglob("*.tmp"))
    scripted.requests.clear()
    scripted.usual = Reply()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert _sent(scripted) == [500]
    assert "2,000" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_a_bar_comes_and_goes(scripted: ScriptedCloud, runs_dir: Path, number: int) -> None:
    """It tells the points, their number and what is waited for; afterwards the cursor is there again."""
    written(runs_dir, count=2500)
    scripted.reply(Reply(), Reply(503), Reply(503), Reply(503))
    if number:
        scripted.usual = Reply(503)
    leader, follower = pty.openpty()
    environ = {**os.environ, "COLUMNS": "150", "LINES": "40", "TERM": "xterm-256color"}
    command = [MLOPS, "upload", "--no-confirm", "--runs-dir", str(runs_dir)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, stdin=follower, text=True, env=environ)
    os.close(follower)
    shown = _read(leader, until="trying again")
    if number:
        running.send_signal(number)
    shown += _read(leader)
    out = running.communicate(timeout=60)[0]
    os.close(leader)
    assert "1/1" in shown
    assert ID in shown
    assert "1,000/2,500 points" in shown
    assert "waiting: POST " in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0, "the terminal's cursor stayed hidden"
    if not number:
        assert running.returncode == 0
        assert "2,500 points of 1 run sent to monasca://scripted." in out
        assert "\x1b" not in out, "what is piped has no colours"


def _read(leader: int, until: str = "\0") -> str:
    """What is shown on a terminal until a text comes, or nobody shows anything any more."""
    shown = ""
    deadline = time.monotonic() + 30
    while until not in shown:
        assert time.monotonic() < deadline
        if select.select([leader], [], [], 1.0)[0]:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            shown += chunk.decode(errors="replace")
    return shown


@pytest.mark.slow
def test_a_pipe_that_is_closed_costs_nothing(scripted: ScriptedCloud, runs_dir: Path) -> None:
    """``| head`` on what it prints: everything was delivered all the same."""
    written(runs_dir, count=2500)
    command = [MLOPS, "upload", "--no-confirm", "--runs-dir", str(runs_dir)]
    read, write = os.pipe()
    os.close(read)
    running = subprocess.Popen(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, err = running.communicate(timeout=60)
    assert "Traceback" not in err
    assert sum(_sent(scripted)) == 2500


# -- its manual --------------------------------------------------------------------------------------


def test_its_help_tells_all_there_is_to_know(call: Call) -> None:
    """Every option with its default, each exit code, how to send all again, and examples to type."""
    found = call("upload", "--help", env={"COLUMNS": "100"})
    assert found.exit_code == 0
    text = " ".join(found.stdout.split())
    for word in (
        "--to URL",
        "--patience TIME",
        "[default: 5m]",
        "--confirm / --no-confirm",
        "--dry-run",
        "--runs-dir DIR",
    ):
        assert word in text
    assert "-o, --format [table|json|yaml]" in text
    codes = re.search(r"Exit codes: (.*?) After each of them", text)
    assert codes is not None
    assert re.findall(r"(?:^|; )(\d+) ", codes[1]) == ["0", "1", "2", "4", "124", "130", "143"]
    assert "To send everything again, remove them" in text
    examples = found.stdout.partition("Examples")[2]
    typed = [line.strip() for line in examples.splitlines() if line.strip().startswith("mlops ")]
    assert len(typed) >= 4
    for line in typed:
        words = line.partition("|")[0].split()[1:]
        assert call(*words, "--help").exit_code == 0, line


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--patience", "soon"], "'soon' is no span of time; write 90s, 15m or 2h."),
        (["--patience", "0"], "'0' is no span of time"),
        (["-o", "csv"], "'csv' is not one of"),
        (["-o", "out.json"], "redirect the output to a file"),
        (["--too", "monasca://mine"], "No such option"),
    ],
)
def test_what_is_not_understood(call: Call, runs_dir: Path, words: Sequence[str], said: str) -> None:
    """Exit code 2 and what to write; nothing is sent."""
    run = written(runs_dir)
    found = call("upload", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert not list(run.folder.path.glob("*.cursor"))
