"""``mlops report`` and ``mlops export``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

Call = Callable[..., Result]
Record = Callable[..., Path]

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
def test_a_page_goes_to_the_runs_folder_and_its_path_is_printed(call: Call, recorded: Record, tmp_path: Path) -> None:
    """``mlops report`` makes report.html of the newest run and prints where it is, from here."""
    folder = recorded()
    found = call("report")
    assert found.exit_code == 0, found.stderr
    assert found.stdout == f"{folder.relative_to(tmp_path)}/report.html\n"
    page = (folder / "report.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert folder.name in page
    assert (folder / "report.html").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_the_files_ending_tells_the_format(call: Call, recorded: Record, tmp_path: Path) -> None:
    """``--file x.png`` is a picture, ``-o png`` one in the run's folder; ``-`` is standard output."""
    folder = recorded()
    assert call("report", "digits", "--file", "x.png").stdout == "x.png\n"
    assert (tmp_path / "x.png").read_bytes().startswith(PNG)
    assert call("report", "last", "-o", "png").stdout.endswith("report.png\n")
    assert (folder / "report.png").read_bytes().startswith(PNG)
    assert call("report", "-o", "png", "--file", "-").stdout_bytes.startswith(PNG)
    assert call("report", "last", "--file", "t.json").stdout == "t.json\n"
    assert json.loads((tmp_path / "t.json").read_text())[0]["summary"]["name"] == "digits"


@pytest.mark.slow
def test_several_runs_side_by_side(call: Call, recorded: Record, tmp_path: Path) -> None:
    """A page about several runs is written here, and names each."""
    runs = [recorded("base"), recorded("tuned")]
    assert call("report", "base", "tuned").stdout == "report.html\n"
    page = (tmp_path / "report.html").read_text("utf-8")
    assert all(run.name in page for run in runs)


def test_tables_are_printed(call: Call, recorded: Record) -> None:
    """``-o table`` prints the epochs and what else there is to say, of each run."""
    recorded("base", epochs=2)
    recorded("tuned", epochs=4, outcome="interrupted")
    shown = call("report", "base", "tuned", "-o", "table", "--target", "0.75", "--target", "0.99").stdout
    assert shown.count("train loss") == 2
    assert "finished after" in shown
    assert "interrupted after" in shown
    assert "accuracy 0.75 was reached in epoch 2, after 1.0 s." in shown
    assert "accuracy 0.99 was not reached." in shown


def test_json_and_yaml_have_a_run_each(call: Call, recorded: Record) -> None:
    """A list, one entry a run: its summary, its epochs, and what the targets took."""
    recorded("base", epochs=2)
    text = call("report", "last", "-o", "json", "--target", "0.75").stdout
    (entry,) = json.loads(text)
    assert entry["summary"]["epochs"] == 2
    assert [row["epoch"] for row in entry["epochs"]["rows"]] == [1, 2]
    assert entry["reached"][0]["epoch"] == 2
    assert yaml.safe_load(call("report", "last", "-o", "yaml", "--target", "0.75").stdout) == [entry]


@pytest.mark.parametrize("words", [("report", "nosuch"), ("export", "nosuch"), ("report", "./nosuch")])
def test_a_run_that_does_not_exist(call: Call, recorded: Record, words: tuple[str, str]) -> None:
    """It is told with a way on, and exit code 2."""
    recorded()
    found = call(*words)
    assert found.exit_code == 2
    assert "There is no run" in found.stderr
    assert "mlops runs" in found.stderr


def test_runs_are_named_in_every_way(call: Call, recorded: Record) -> None:
    """An id, its beginning, a name, a folder and the word last mean the run."""
    folder = recorded("digits")
    for word in (folder.name, folder.name[:-2], "digits", str(folder), "last"):
        (entry,) = json.loads(call("report", word, "-o", "json").stdout)
        assert entry["summary"]["id"] == folder.name


def test_an_unwritable_place_is_told(call: Call, recorded: Record) -> None:
    """The file that cannot be written is named."""
    recorded()
    found = call("report", "last", "-o", "table", "--file", "/nosuch/x.txt")
    assert found.exit_code == 1
    assert "/nosuch/x.txt" in found.stderr
    assert call("export", "last", "--file", "/nosuch/x.csv").exit_code == 1


def test_csv_goes_to_standard_output(call: Call, recorded: Record, tmp_path: Path) -> None:
    """A row a point, nothing else on stdout; ``--file`` takes the same bytes."""
    recorded(epochs=2)
    found = call("export", "last")
    rows = list(csv.DictReader(io.StringIO(found.stdout)))
    assert [row["value"] for row in rows if row["name"] == "train.epoch"] == ["1.0", "2.0"]
    assert json.loads(rows[0]["dimensions"]) == {"team": "vision"}
    assert call("export", "last", "--file", "points.csv").stdout == "points.csv\n"
    assert (tmp_path / "points.csv").read_text() == found.stdout


@pytest.mark.slow
def test_parquet_goes_to_a_file_or_a_pipe(call: Call, recorded: Record, tmp_path: Path) -> None:
    """The ending says parquet; in a pipe it is the same file."""
    from pyarrow import parquet

    recorded(epochs=2)
    assert call("export", "last", "--file", "p.parquet").exit_code == 0
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["time", "name", "value", "dimensions", "step"]
    piped = call("export", "last", "--format", "parquet").stdout_bytes
    assert parquet.read_table(io.BytesIO(piped)).equals(table)
