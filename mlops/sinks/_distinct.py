"""Names in another system's spelling, no two of ours under one of theirs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

__all__ = ["Distinct"]

K = TypeVar("K", bound=Hashable)


class Distinct(Generic[K]):
    """Gives each thing a name of its own: the first to come to a name has it, the next has a number behind it.

    Args:
        spell: the name that a thing would like to have.
        on_clash: called once for each thing that could not have it, with the thing, that name and its own.
        taken: names that nothing may have.
    """

    def __init__(
        self, spell: Callable[[K], str], on_clash: Callable[[K, str, str], object], taken: Collection[str] = ()
    ) -> None:
        self._spell = spell
        self._on_clash = on_clash
        self._taken = set(taken)
        self._given: dict[K, str] = {}
        self._next: dict[str, int] = {}

    def __call__(self, thing: K) -> str:
        """The thing's name, the same at each call."""
        name = self._given.get(thing)
        if name is None:
            name = self._given[thing] = self._free(thing)
        return name

    def _free(self, thing: K) -> str:
        name = wanted = self._spell(thing)
        while name in self._taken:
            number = self._next[wanted] = self._next.get(wanted, 1) + 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        if name != wanted:
            self._on_clash(thing, wanted, name)
        return name
