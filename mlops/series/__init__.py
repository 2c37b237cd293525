r"""What may be measured: under which name, in which unit, with which dimensions.

Monasca's rules live here and nowhere else.  They are the union of what the parts on the way to a reader
refuse, die of, or mangle without a word.  Each was seen on the real part; ``benchmarks/fuzz.py`` looks for more:

* **names**: 1 to 255 characters, none of ``< > = { } , " \ ; & ( )`` and no space (monasca_common.validation);
  no ``:`` and no ``|`` (the agent cuts its lines there); no white space nor control character (a newline ends the
  persister; InfluxDB reads over a carriage return or a NUL in the API's query, which then fails); no lone surrogate
  (the persister drops the message); no DEL, C1 nor line separator, which only break lines of logs; not beginning with
  ``#`` (a comment to InfluxDB: lost in silence) nor ``_`` (``_e`` and ``_sc`` are no metrics to the agent;
  ``_series``, ``_tags`` and others are InfluxDB's own: one makes every listing of the project's metrics fail);
* **dimensions**: keys and values are strings of 1 to 255 characters, none of ``< > = { } , " \ ; &``
  (monasca_common.validation) nor ``|`` (the agent; an "or" in the API's queries), no control character and no lone
  surrogate as above, no space (the API lists ``a b`` as ``a\ b``, and then fails on its own listing, for the whole
  project), no white space at the ends; a key has no white space and no ``:`` (the API's queries cut it there: never
  found), does not begin with ``_`` (validation) and is not ``time`` in whatever case (ends the persister, or fails
  every listing), ``value`` or ``value_meta`` (InfluxDB's fields of a measurement: never found);
* **a series**: name and dimensions, with two bytes for each of these, take at most 2200 bytes of UTF-8: the persister
  writes up to 10,000 points at once, of which InfluxDB takes 25 MB or, with 413, ends the persister;
* **values**: finite numbers (validation); the sign of -0.0 gets lost;
* **times**: from 1970 to the end of 2261 (nanoseconds in an int64; beyond, the persister ends);
* **value_meta**: at most 16 texts, names of 1 to 255 characters, 2048 characters of JSON in all (validation), no lone
  surrogate.

One thing no rule can help: the API cannot list metrics over a span of time (``GET /metrics?start_time=``) where
of two series of one name one has all the dimensions of the other, whoever sent them.

What breaks a rule is refused where somebody can be told, and mended elsewhere; two series that mended
would be the same stay two (:class:`Mender`).

:data:`METRICS` is the one table of the names that mlops itself sends; everything that needs a
name, a unit or a description derives it from there: :func:`exposed` for Prometheus, :func:`tag` for
TensorBoard.
"""

from mlops.series._metrics import METRICS, SUMMARIES, Exposed, Metric, exposed, metric, tag
from mlops.series._rules import (
    MAX_BYTES,
    MAX_LENGTH,
    Mended,
    Mender,
    Series,
    check_dimensions,
    check_name,
    check_value_meta,
    mend_dimensions,
    mend_name,
)
from mlops.series._values import EARLIEST, LATEST, as_number, sendable

__all__ = [
    "EARLIEST",
    "LATEST",
    "MAX_BYTES",
    "MAX_LENGTH",
    "METRICS",
    "SUMMARIES",
    "Exposed",
    "Mended",
    "Mender",
    "Metric",
    "Series",
    "as_number",
    "check_dimensions",
    "check_name",
    "check_value_meta",
    "exposed",
    "mend_dimensions",
    "mend_name",
    "metric",
    "sendable",
    "tag",
]
