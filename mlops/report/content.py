"""What a page says: every text that comes from a run cleaned, shortened where it must be, and said to be so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlops.report import words
from mlops.report.cells import HEADLINES, Cell, Limits, Table, as_text
from mlops.report.comparison import comparison
from mlops.report.energy import MeterEnergy, Reached, lower_is_better, milestones, reach
from mlops.report.meters import method_in_words
from mlops.report.overview import Summary
from mlops.report.subjects import Subject, common_metric
from mlops.report.tables import Epoch, Epochs
from mlops.report.terminal import losses

__all__ = ["document"]

_MARKS: Final = {"finished": "✓", "failed": "✗", "killed": "✗", "interrupted": "■", "cancelled": "■", "running": "…"}
_JOULES_PER_WH: Final = 3600.0
_HEAD: Final = 3


def document(subjects: Sequence[Subject], limits: Limits, targets: Sequence[float]) -> dict[str, Any]:
    """All that the template shows beside the figures."""
    many = len(subjects) > 1
    metric = common_metric(subjects)
    runs = [_run(subject, limits, metric, targets) for subject in subjects]
    title = f"{len(subjects)} runs side by side" if many else runs[0]["name"]
    return {
        "title": title,
        "many": many,
        "runs": runs,
        "comparison": comparison(subjects, limits, metric, targets) if many else None,
        "generator": f"mlops {_version()}",
    }


def _version() -> str:
    import mlops

    return mlops.__version__


# -- one run ------------------------------------------------------------------------------------


def _run(subject: Subject, limits: Limits, metric: str | None, targets: Sequence[float]) -> dict[str, Any]:
    facts = subject.facts
    return {
        "label": subject.label,
        "name": words.shorten(facts.name or facts.id, 120),
        "id": words.shorten(facts.id, 120),
        "outcome": HEADLINES.get(facts.outcome, words.shorten(facts.outcome, 40)),
        "mark": _MARKS.get(facts.outcome, "?"),
        "lead": _lead(subject),
        "reason": words.shorten(facts.reason, max(limits.letters, 200)),
        "tiles": _tiles(facts),
        "where": _where(facts),
        "epochs": _epoch_table(subject.table, facts, limits),
        "remarks": list(facts.remarks),
        "meters": _meter_table(facts),
        "energy_sentences": _energy_sentences(subject),
        "targets": _target_table(subject, metric, targets),
        "lists": _lists(facts, limits),
        "complete": _complete(facts),
        "losses": losses(facts),
    }


def _lead(subject: Subject) -> str:
    """What came of it, in the words of a colleague."""
    facts = subject.facts
    parts = []
    if facts.epochs:
        parts.append(_kept(f"after {words.count(facts.epochs, 'epoch')}"))
    if facts.seconds is not None:
        parts.append(f"{'in' if parts else 'after'} {_kept(words.duration(facts.seconds))}")
    sentence = " ".join(parts)
    if facts.best is not None:
        where = f" in epoch {facts.best.epoch}" if facts.best.epoch else ""
        value = _kept(words.metric_value(facts.best.metric, facts.best.value))
        name = words.shorten(facts.best.metric, 40).replace("_", " ")
        sentence += f", with a best {name} of {value}{where}"
    if facts.energy.joules is not None:
        sentence += f", for {_kept(words.energy(facts.energy.joules))}"
    elif sentence:
        sentence += ", its energy not metered"
    return sentence + "." if sentence else "."


def _kept(text: str) -> str:
    """A number and its unit, which no line break shall part."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _tiles(facts: Summary) -> list[tuple[str, str, str]]:
    """The numbers worth large type: what, value, a word on it."""
    tiles = []
    if facts.best is not None:
        where = f"in epoch {facts.best.epoch}" if facts.best.epoch else ""
        name = words.shorten(facts.best.metric, 24).replace("_", " ")
        tiles.append((f"best {name}", words.metric_value(facts.best.metric, facts.best.value), where))
    elif facts.valid_loss is not None:
        tiles.append(("validation loss", words.number(facts.valid_loss), "at the end"))
    elif facts.train_loss is not None:
        tiles.append(
            ("training loss", words.number(facts.train_loss), "mean of the last epoch" if facts.epochs else "mean")
        )
    tiles.append(
        ("duration", words.duration(facts.seconds), words.count(facts.epochs, "epoch") if facts.epochs else "")
    )
    if facts.energy.joules is not None:
        hours = f"{words.number(facts.energy.joules / _JOULES_PER_WH, 3)} Wh"
        tiles.append(("energy", words.energy(facts.energy.joules), hours))
        tiles.append(("mean power", words.power(facts.energy.watts), facts.energy.method))
    if facts.samples_per_second is not None:
        tiles.append(("throughput", words.number(facts.samples_per_second, 3), "samples per second"))
    return [(what, value, words.shorten(word, 40)) for what, value, word in tiles]


def _where(facts: Summary) -> str:
    span = words.utc(facts.started)
    if facts.ended is not None:
        end = words.utc(facts.ended)
        same_day = end[:10] == span[:10]
        span = f"{span.removesuffix(' UTC')} to {end[11:] if same_day else end}"
    products = dict.fromkeys(meter.name for meter in facts.energy.meters if meter.name)
    counts = {name: sum(meter.name == name for meter in facts.energy.meters) for name in products}
    devices = [f"{number} × {name}" if number > 1 else name for name, number in counts.items()]
    on = f" on {words.shorten(facts.host, 80)}" if facts.host else ""
    with_devices = f" with {words.shorten(words.listed(devices), 120)}" if devices else ""
    return f"{span}{on}{with_devices}"


def _epoch_table(table: Epochs, facts: Summary, limits: Limits) -> Table | None:
    if not table.rows:
        return None
    names = table.metrics[: limits.metrics]
    rows = _chosen_rows(table, facts, limits.rows)
    has_valid = any(row.valid_loss is not None for row in table.rows)
    has_energy = any(row.joules is not None for row in table.rows)
    has_rate = any(row.samples_per_second is not None for row in table.rows)
    heads = ["Epoch" if not table.whole_run else "Run", "Training loss"]
    heads += ["Validation loss"] * has_valid
    heads += [words.shorten(name, 40).replace("_", " ").capitalize() for name in names]
    heads += ["Time (s)", *(["Energy (J)", "Mean power (W)"] * has_energy), *(["Samples/s"] * has_rate)]
    lines = []
    for row in rows:
        label = "whole run" if row.epoch is None else f"{row.epoch}"
        cells = [Cell(f"{row.process}: {label}" if row.process else label), Cell(words.number(row.train_loss))]
        cells += [Cell(words.number(row.valid_loss))] * has_valid
        cells += [_metric_cell(row, name, facts) for name in names]
        cells.append(Cell(words.number(row.seconds, 3)))
        cells += [Cell(words.number(row.joules)), Cell(words.number(row.watts))] * has_energy
        cells += [Cell(words.number(row.samples_per_second, 3))] * has_rate
        lines.append(tuple(cells))
    notes = []
    if len(rows) < len(table.rows):
        notes.append(
            f"{len(rows)} of {len(table.rows):,} epochs are shown: the first, the last, the best and some between."
        )
    if len(names) < len(table.metrics):
        notes.append(f"{len(table.metrics) - len(names)} more metrics are not shown.")
    if notes:
        notes.append("mlops export gives every point.")
    caption = "The whole run in numbers" if table.whole_run else "The epochs in numbers"
    return Table(caption, tuple(heads), tuple(lines), " ".join(notes))


def _metric_cell(row: Epoch, name: str, facts: Summary) -> Cell:
    value = row.metrics.get(name)
    best = facts.best
    tag = "best" if best and best.metric == name and best.epoch == row.epoch and best.value == value else ""
    return Cell(words.number(value), tag if row.epoch is not None else "")


def _chosen_rows(table: Epochs, facts: Summary, most: int) -> list[Epoch]:
    """The rows to show: all of them, or the first, the last, the best and some between."""
    count = len(table.rows)
    if count <= most:
        return list(table.rows)
    kept = {*range(_HEAD), *range(count - _HEAD, count)}
    if facts.best is not None:
        kept.update(place for place, row in enumerate(table.rows) if row.epoch == facts.best.epoch)
    between = max(1, most - len(kept))
    kept.update(round(place * (count - 1) / between) for place in range(between))
    return [table.rows[place] for place in sorted(kept)]


def _meter_table(facts: Summary) -> Table | None:
    if not facts.energy.meters:
        return None
    checked = any(meter.check_joules is not None for meter in facts.energy.meters)
    heads = ("Device", "Method", "Energy (J)", "Mean power (W)", *(["Power integrated (J)"] * checked))
    rows = [_meter_row(meter, checked=checked) for meter in facts.energy.meters]
    if len(rows) > 1:
        total = [
            Cell("all together"),
            Cell("–"),
            Cell(words.number(facts.energy.joules, 5)),
            Cell(words.number(facts.energy.watts)),
        ]
        rows.append((*total, *([Cell("–")] * checked)))
    note = (
        "Power integrated is a cross-check: the power readings of the same time, integrated by the trapezoid rule. "
        "The counter is what counts."
    )
    return Table("Energy by device", heads, tuple(rows), note if checked else "")


def _meter_row(meter: MeterEnergy, *, checked: bool) -> tuple[Cell, ...]:
    cells = [
        Cell(words.shorten(meter.name or meter.device, 60), below=words.shorten(meter.id, 60)),
        Cell(words.shorten(meter.method, 40) or "–"),
        Cell(words.number(meter.joules, 5)),
        Cell(words.number(meter.watts)),
    ]
    if checked:
        share = meter.check_share
        off = "" if share is None else f" ({100 * share:+.1f} %)".replace("-", "−")
        cells.append(Cell(f"{words.number(meter.check_joules, 5)}{off}"))
    return tuple(cells)


def _energy_sentences(subject: Subject) -> list[str]:
    found = []
    methods = dict.fromkeys(method_in_words(meter.method) for meter in subject.facts.energy.meters)
    if methods:
        found.append(f"Measured by {words.clean(words.listed(list(methods)))}.")
    if subject.facts.energy.not_metered:
        found.append(words.not_metered(subject.facts.energy.not_metered))
    return found


def _target_table(subject: Subject, metric: str | None, targets: Sequence[float]) -> Table | None:
    course = subject.spent(metric) if metric is not None else None
    if course is None or metric is None:
        return None
    wanted = [float(target) for target in targets if math.isfinite(target)] or milestones(course)
    if not wanted:
        return None
    rows = [_target_row(reach(course, subject.view, target)) for target in wanted]
    name = words.shorten(metric, 40).replace("_", " ")
    how = "at most" if lower_is_better(metric) else "at least"
    return Table(
        f"What it took to reach an {name}" if name[:1] in "aeiou" else f"What it took to reach a {name}",
        (f"{name.capitalize()} of {how}", "Epoch", "Time training", "Energy"),
        tuple(rows),
        "" if course.metered else "Energy was not metered.",
    )


def _target_row(found: Reached) -> tuple[Cell, ...]:
    target = Cell(words.metric_value(found.metric, found.target))
    if not found.reached:
        best = f"not reached (best {words.metric_value(found.metric, found.value)})" if found.value is not None else "–"
        return target, Cell(best), Cell("–"), Cell("–")
    epoch = Cell(f"{found.epoch}" if found.epoch else "–")
    return target, epoch, Cell(words.duration(found.seconds)), Cell(words.energy(found.joules))


def _lists(facts: Summary, limits: Limits) -> list[dict[str, Any]]:
    surroundings = {**facts.versions}
    if facts.git_commit:
        changed = facts.git_commit.endswith("+")
        surroundings["git commit"] = facts.git_commit.removesuffix("+") + (" with changes" if changed else "")
    if facts.host:
        surroundings["host"] = facts.host
    groups = (("Parameters", facts.parameters), ("Dimensions", facts.dimensions), ("Surroundings", surroundings))
    return [_list(title, entries, limits) for title, entries in groups if entries]


def _list(title: str, entries: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    shown = list(entries.items())[: limits.entries]
    left = len(entries) - len(shown)
    return {
        "title": title,
        "entries": [(words.shorten(key, 80), words.shorten(as_text(value), limits.letters)) for key, value in shown],
        "note": f"and {words.count(left, 'more entry', 'more entries')}" if left else "",
    }


def _complete(facts: Summary) -> str:
    if facts.complete:
        return f"The record is complete: {words.count(facts.points, 'point')}, none dropped, no gap."
    missing = f", {words.count(facts.missing, 'point')} known to be missing" if facts.missing else ""
    return f"The record is not complete: {words.count(facts.points, 'point')} are there{missing}."
