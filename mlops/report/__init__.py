"""Reading runs back: tables, energy, figures, one page, one file of points.

::

    from mlops import report

    record = report.read("last")  # or read("last", source="monasca")
    print(report.render_table(record))
    report.write_page(record, "report.html")
    report.energy_to_reach(record, "accuracy", 0.97).joules

Importing this package loads neither matplotlib nor jinja2 nor pyarrow; the functions that need
them (the extras ``report`` and ``parquet``) do.
"""

from mlops.report.energy import Energy, MeterEnergy, Reached, energy_to_reach, energy_used
from mlops.report.figures import figure, write_png
from mlops.report.overview import Best, Summary, summary
from mlops.report.page import write_page
from mlops.report.reading import Arrival, read
from mlops.report.rows import export
from mlops.report.tables import Epoch, Epochs, epochs
from mlops.report.terminal import render_table

__all__ = [
    "Arrival",
    "Best",
    "Energy",
    "Epoch",
    "Epochs",
    "MeterEnergy",
    "Reached",
    "Summary",
    "energy_to_reach",
    "energy_used",
    "epochs",
    "export",
    "figure",
    "read",
    "render_table",
    "summary",
    "write_page",
    "write_png",
]
