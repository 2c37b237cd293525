"""The error tree: what a caller may rely on."""

from __future__ import annotations

import pickle

import pytest

from mlops import errors


def _leaves() -> list[type[errors.MlopsError]]:
    return [kind for name in errors.__all__ if issubclass(kind := getattr(errors, name), errors.MlopsError)]


@pytest.mark.parametrize("kind", _leaves(), ids=lambda kind: kind.__name__)
def test_every_error_is_one_tree_drawn_in_the_docstring(kind: type[errors.MlopsError]) -> None:
    """Every public error derives from MlopsError and stands in the drawing."""
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__
    assert kind.exit_code in {1, 2, 4, 5, 124, 127}


def test_text_is_what_happened_and_then_the_remedy() -> None:
    """``str`` joins both sentences with one full stop."""
    assert str(errors.StoreError("The disk is full", remedy="Free space.")) == "The disk is full. Free space."
    assert str(errors.StoreError("Is it full?", remedy="Look.")) == "Is it full? Look."
    assert str(errors.StoreError("The disk is full")) == "The disk is full"


@pytest.mark.parametrize(
    "error",
    [
        errors.SettingsError("a", remedy="b"),
        errors.SeriesError("a", remedy="b", mended="c"),
        errors.MissingExtraError("papermill", "notebook"),
        errors.SinkUnavailableError("a", remedy="b", retry_after=3.0),
        errors.CloudUnavailableError("a", retry_after=3.0),
        errors.RequestRefusedError("a", status=422, detail="c"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: errors.MlopsError) -> None:
    """An error that comes out of a worker process keeps its type, text and fields."""
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__


def test_a_missing_extra_is_an_import_error_that_names_the_command() -> None:
    """Code that guards an import with ImportError keeps working, and the message can be pasted."""
    error = errors.MissingExtraError("papermill", "notebook")
    assert isinstance(error, ImportError)
    assert "pip install 'mlops[notebook]'" in str(error)
