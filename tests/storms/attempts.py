"""A short storm on a busy machine may lack a fault, and so prove nothing: then another seed decides."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from storms.oracle import Check

ATTEMPTS: Final = 3


class Outcome(Protocol):
    """What every storm's outcome says."""

    @property
    def invalid(self) -> Sequence[str]: ...  # noqa: D102 - a protocol's attribute
    @property
    def failed(self) -> Sequence[Check]: ...  # noqa: D102 - a protocol's attribute


T = TypeVar("T", bound=Outcome)


def until_decided(run: Callable[[int], T], seed: int) -> T:
    """Return the first outcome in which a check failed, or enough has happened for none to fail."""
    return _first(run, seed, lambda outcome: bool(outcome.failed or not outcome.invalid))


def until_caught(run: Callable[[int], T], seed: int, by: frozenset[str]) -> T:
    """Return the first outcome in which one of the checks `by` failed, else the last one."""
    return _first(run, seed, lambda outcome: bool(names_of_failed(outcome) & by))


def names_of_failed(outcome: Outcome) -> set[str]:
    """Return the names of the checks that failed."""
    return {check.name for check in outcome.failed}


def _first(run: Callable[[int], T], seed: int, decided: Callable[[T], bool]) -> T:
    outcome = run(seed)
    for further in range(1, ATTEMPTS):
        if decided(outcome):
            break
        outcome = run(seed + further)
    return outcome
