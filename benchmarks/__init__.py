"""What mlops costs, measured: ``make bench`` runs all, ``make bench ONLY=name`` one.

Each module here whose name does not begin with ``_`` is a benchmark: it has ``run()``, which
prints what it likes and returns :class:`~benchmarks._figures.Figure` objects.
"""
