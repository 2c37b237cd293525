"""The table per epoch and the summary as plain text, for terminals, logs and notebooks' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlops.record import Record
from mlops.report import words
from mlops.report.meters import curves, method_in_words
from mlops.report.overview import Summary, summary_with
from mlops.report.tables import Epoch, Epochs, epochs_with
from mlops.report.view import View

__all__ = ["OUTCOME_WORDS", "render_table"]

OUTCOME_WORDS: Final = {
    "running": "still running when this was read",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    "cancelled": "stopped early by the training itself",
    "killed": "ended without a word",
}
_MANY: Final = 60
_HEAD: Final = 5


def render_table(record: Record | View, *, rows: int | None = _MANY) -> str:
    """The table per epoch and what else there is to say of a run, as plain text.

    Args:
        record: the run.
        rows: how many epochs at most; of more, the first five and the last are shown. ``None``: all.
    """
    view = View.of(record)
    meters = curves(view)
    table = epochs_with(view, meters)
    facts = summary_with(view, table, meters)
    return "\n".join([*_grid(table, rows), *([""] if table.rows else []), *sentences(facts, table)])


def columns(table: Epochs) -> list[str]:
    """The heads of the table's columns, without those that nothing is known for."""
    rows = table.rows
    heads = ["run" if table.whole_run else "epoch", "train loss"]
    if any(row.valid_loss is not None for row in rows):
        heads.append("valid loss")
    heads += [words.shorten(name, 40) for name in table.metrics]
    heads.append("seconds")
    if any(row.joules is not None for row in rows):
        heads += ["joules", "mean watts"]
    if any(row.samples_per_second is not None for row in rows):
        heads.append("samples/s")
    return heads


def cells(row: Epoch, table: Epochs, heads: Sequence[str]) -> list[str]:
    """One row's cells under these heads."""
    label = "whole" if row.epoch is None else f"{row.epoch}"
    texts = [f"{row.process}: {label}" if row.process else label, words.number(row.train_loss)]
    if "valid loss" in heads:
        texts.append(words.number(row.valid_loss))
    texts += [words.number(row.metrics.get(name)) for name in table.metrics]
    texts.append(words.number(row.seconds, 3))
    if "joules" in heads:
        texts += [words.number(row.joules), words.number(row.watts)]
    if "samples/s" in heads:
        texts.append(words.number(row.samples_per_second))
    return texts


def _grid(table: Epochs, most: int | None) -> list[str]:
    if not table.rows:
        return []
    heads = columns(table)
    chosen = list(table.rows)
    left_out = 0
    if most is not None and len(chosen) > most:
        tail = max(1, most - _HEAD)
        left_out = len(chosen) - _HEAD - tail
        chosen = chosen[:_HEAD] + chosen[-tail:]
    lines = [cells(row, table, heads) for row in chosen]
    widths = [max(len(line[place]) for line in [heads, *lines]) for place in range(len(heads))]
    drawn = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in [heads, *lines]]
    drawn.insert(1, "  ".join("─" * width for width in widths))
    if left_out:
        drawn.insert(2 + _HEAD, f"… {words.count(left_out, 'epoch')} not shown …")
    return drawn


def sentences(facts: Summary, table: Epochs) -> list[str]:
    """What a reader must know beside the table, a line each."""
    lines = [headline(facts)]
    if facts.energy.joules is not None:
        how = "; ".join(dict.fromkeys(method_in_words(meter.method) for meter in facts.energy.meters))
        lines.append(
            f"Energy: {words.energy(facts.energy.joules)}, {words.power(facts.energy.watts)} on average, "
            f"measured by {how}."
        )
    reasons = facts.energy.not_metered or table.not_metered
    if reasons:
        lines.append(words.not_metered(reasons))
    lines += list(facts.remarks)
    lines += losses(facts)
    return lines


def headline(facts: Summary) -> str:
    """How the run went, in one sentence."""
    outcome = OUTCOME_WORDS.get(facts.outcome, facts.outcome)
    sentence = f"{words.clean(facts.id)}: {outcome}"
    if facts.seconds is not None:
        sentence += f" after {words.duration(facts.seconds)}"
    if facts.epochs:
        sentence += f" and {words.count(facts.epochs, 'epoch')}"
    if facts.reason:
        sentence += f" ({words.shorten(facts.reason, 300)})"
    if facts.best is not None:
        where = f" in epoch {facts.best.epoch}" if facts.best.epoch else ""
        value = words.metric_value(facts.best.metric, facts.best.value)
        sentence += f"; best {words.clean(facts.best.metric)} {value}{where}"
    return sentence + "."


def losses(facts: Summary) -> list[str]:
    """What is not in the record, a sentence each; none where it is complete."""
    lines = []
    if facts.dropped:
        lines.append(f"{words.count(facts.dropped, 'point')} dropped, because the buffer was full or the disk refused.")
    if facts.refused:
        lines.append(f"{words.count(facts.refused, 'value')} refused: no number, or logged after the end.")
    if facts.not_finite:
        lines.append(f"{words.count(facts.not_finite, 'point')} recorded as nan or infinite (not sent to Monasca).")
    lines += [f"Gap in the record: {gap}." for gap in facts.gaps]
    return lines
