"""Names of another system's, one for each of ours."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlops.sinks._distinct import Distinct


def test_who_comes_first_has_the_name_and_the_next_a_number() -> None:
    """What came to a name keeps it; what would have it too is given one that nothing else has, and it is said once."""
    said: list[tuple[str, str, str]] = []
    names = Distinct[str](str.lower, lambda *clash: said.append(clash), ["taken"])
    things = ("a", "A", "a", "A", "taken", "b_2", "b", "B")
    assert [names(thing) for thing in things] == ["a", "a_2", "a", "a_2", "taken_2", "b_2", "b", "b_3"]
    assert said == [("A", "a", "a_2"), ("taken", "taken", "taken_2"), ("B", "b", "b_3")]


@given(st.lists(st.text("aA_2", max_size=4)))
def test_no_two_things_have_one_name(things: list[str]) -> None:
    """Whatever comes in whatever order, there are as many names as things."""
    names = Distinct[str](str.lower, lambda *_: None)
    assert len({names(thing) for thing in things}) == len(set(things))
