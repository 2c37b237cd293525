"""One file of points: every bit of every point comes back."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import math
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops import report
from mlops.blocks import Columns
from mlops.errors import MissingExtraError, ReportError
from mlops.series import Series
from tests.report.written import BEGAN, GPU, P, Written, digits

numbers = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -0.0, 5e-324, 2.0**53 + 1]))
times = st.floats(min_value=float(1 << 23), max_value=9.2e9)
dimensions = st.dictionaries(
    st.sampled_from(["uuid", "method"]), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


def _bits(value: float) -> bytes:
    return b"nan" if math.isnan(value) else struct.pack("<d", value)


def _time_of(text: str) -> float:
    """A csv time as the float64 that was recorded."""
    whole, _, digits_ = text.removesuffix("Z").partition(".")
    moment = dt.datetime.fromisoformat(f"{whole}+00:00")
    seconds = (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    return seconds + int(digits_) / 1e9


def _read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@st.composite
def runs(draw: st.DrawFn) -> tuple[Columns, dict[int, Series]]:
    """Points of any series, value, step and time of this century and the next."""
    series = draw(st.lists(st.tuples(names, dimensions), min_size=1, max_size=4))
    count = draw(st.integers(1, 20))

    def column(strategy: st.SearchStrategy[Any], kind: type) -> Any:
        return np.array(draw(st.lists(strategy, min_size=count, max_size=count)), kind)

    columns = Columns(
        column(times, np.float64),
        column(numbers, np.float64),
        column(st.integers(0, len(series) - 1), np.uint32),
        column(st.integers(0, 2**32 - 1), np.uint32),
    )
    return columns, {number: Series.of(name, inside) for number, (name, inside) in enumerate(series)}


@settings(max_examples=30, deadline=None)
@given(runs())
def test_every_point_comes_back_from_both_formats(run: tuple[Columns, dict[int, Series]]) -> None:
    """Time, name, value, dimensions and step, bit for bit, whatever they were."""
    columns, series = run
    with TemporaryDirectory() as folder:
        written = Written(Path(folder), dimensions={"team": 'a,"b"\n'})
        written.columns(columns, series)
        record = written.read()
        rows = io.StringIO()
        report.export(record, rows)
        report.export(record, Path(folder) / "a.parquet", "parquet")
        table = pyarrow.parquet.read_table(Path(folder) / "a.parquet").to_pydict()
        stamps = pyarrow.parquet.read_table(Path(folder) / "a.parquet")["time"].cast("int64").to_pylist()
    header, *lines = _read_csv(rows.getvalue())
    assert header == ["time", "name", "value", "dimensions", "step"]
    assert len(lines) == len(columns) == len(table["name"])
    for place, line in enumerate(lines):
        meant = series[int(columns.series[place])]
        step = int(columns.step[place])
        assert _time_of(line[0]) == columns.time[place]
        assert line[1] == table["name"][place] == meant.name
        assert _bits(float(line[2])) == _bits(table["value"][place]) == _bits(float(columns.value[place]))
        assert json.loads(line[3]) == json.loads(table["dimensions"][place])
        assert json.loads(line[3]) == {"team": 'a,"b"\n', **dict(meant.dimensions)}
        assert line[4] == (str(step - 1) if step else "")
        assert table["step"][place] == (step - 1 if step else None)
        whole, nanoseconds = divmod(stamps[place], 10**9)
        assert whole + nanoseconds / 1e9 == columns.time[place]


def test_a_line_is_what_it_says(runs_dir: Path) -> None:
    """One row, letter by letter."""
    run = Written(runs_dir, dimensions={"team": "vision"})
    run.process([P(0.25, "gpu.power_watts", 231.5, {"uuid": GPU}, 7)])
    out = io.StringIO()
    report.export(run.read(), out)
    assert out.getvalue() == (
        "time,name,value,dimensions,step\n"
        '2026-11-22T23:26:40.250000000Z,gpu.power_watts,231.5,"{""team"": ""vision"", ""uuid"": ""' + GPU + '""}",7\n'
    )


def test_times_of_no_calendar_are_kept_as_they_are(runs_dir: Path) -> None:
    """A clock in the wrong century or none at all: the number itself in csv, null in parquet."""
    odd = [math.nan, -1e300, 1e30, 1e10]
    run = Written(runs_dir)
    run.columns(
        Columns(np.array(odd), np.zeros(4), np.zeros(4, np.uint32), np.zeros(4, np.uint32)), {0: Series("train.loss")}
    )
    out = io.StringIO()
    report.export(run.read(), out)
    assert [line[0] for line in _read_csv(out.getvalue())[1:]] == ["nan", "-1e+300", "1e+30", "10000000000.0"]
    report.export(run.read(), runs_dir / "a.parquet", "parquet")
    assert pyarrow.parquet.read_table(runs_dir / "a.parquet")["time"].null_count == 4


def test_times_before_1970_are_times(runs_dir: Path) -> None:
    """A clock that began in 1869, or in 1970: to the nanosecond; milliseconds end in zeros."""
    odd = [-3187296000.5, 0.1, 1795390000.221]
    run = Written(runs_dir)
    run.columns(
        Columns(np.array(odd), np.zeros(3), np.zeros(3, np.uint32), np.zeros(3, np.uint32)), {0: Series("train.loss")}
    )
    out = io.StringIO()
    report.export(run.read(), out)
    assert [line[0] for line in _read_csv(out.getvalue())[1:]] == [
        "1868-12-30T23:59:59.500000000Z",
        "1970-01-01T00:00:00.100000000Z",
        "2026-11-22T23:26:40.221000000Z",
    ]


def test_rows_go_to_a_stream_a_block_at_a_time(runs_dir: Path) -> None:
    """An export to standard output does not hold the whole text; binary streams are served too."""
    count = 200_000
    run = Written(runs_dir)
    run.columns(
        Columns(
            np.arange(BEGAN, BEGAN + count), np.ones(count), np.zeros(count, np.uint32), np.zeros(count, np.uint32)
        ),
        {0: Series("train.loss")},
    )

    written: list[int] = []

    class Pipe(io.BytesIO):
        def write(self, data: Any) -> int:
            written.append(len(data))
            return len(data)

    report.export(run.read(), Pipe())
    assert len(written) == 1 + -(-count // (1 << 16))
    assert max(written) < sum(written) / 2


def test_an_export_of_no_points_has_its_header(runs_dir: Path) -> None:
    """Both formats can be read even then."""
    record = Written(runs_dir).read()
    for name in ("a.csv", "a.parquet"):
        report.export(record, runs_dir / name, name.rpartition(".")[2])
    assert (runs_dir / "a.csv").read_text() == "time,name,value,dimensions,step\n"
    assert pyarrow.parquet.read_table(runs_dir / "a.parquet").num_rows == 0


def test_pandas_reads_what_was_written(runs_dir: Path) -> None:
    """The columns have the types that one expects."""
    import pandas as pd

    report.export(digits(runs_dir).read(), runs_dir / "a.parquet", "parquet")
    frame = pd.read_parquet(runs_dir / "a.parquet")
    assert str(frame["time"].dtype) == "datetime64[ns, UTC]"
    accuracy = frame[frame["name"] == "valid.accuracy"]
    assert len(accuracy) == 12
    assert accuracy["step"].tolist() == list(range(1, 13))


def test_a_file_appears_whole_or_not_at_all(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays when an export fails; what is written is ours alone."""
    record = digits(runs_dir).read()
    target = runs_dir / "a.csv"
    report.export(record, target)
    before = target.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlops.report.rows._write_csv", full)
    with pytest.raises(ReportError, match="No space left on device"):
        report.export(record, target)
    assert target.read_bytes() == before
    assert [path.name for path in runs_dir.iterdir() if path.is_file()] == ["a.csv"]


def test_an_unknown_format_and_a_missing_package_are_told(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about each."""
    record = digits(runs_dir).read()
    with pytest.raises(ReportError, match="csv, parquet"):
        report.export(record, runs_dir / "a.json", "json")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"mlops\[parquet\]"):
        report.export(record, runs_dir / "a.parquet", "parquet")
    assert not (runs_dir / "a.parquet").exists()
