"""The circuit breaker: pure, so time and chance are whatever the test says."""

import pytest

from pipeline.retry import OPEN_AFTER, Backoff, Breaker


def test_a_closed_circuit_paces_and_an_open_one_probes() -> None:
    """A failure or two only delay the next try; from the third on one waits, and then sends as little as possible."""
    breaker = Breaker(Backoff(first_s=1.0, most_s=8.0))
    assert (breaker.state(0.0), breaker.pause_s(0.0)) == ("closed", 0.0)
    for number in range(1, OPEN_AFTER):
        breaker.failed(0.0, draw=1.0)
        assert breaker.pause_s(0.0) == 2 ** (number - 1)
        assert not breaker.probing
    breaker.failed(0.0, draw=1.0)
    assert breaker.probing
    assert (breaker.state(3.9), breaker.state(4.0)) == ("open", "half_open")


def test_a_probe_that_succeeds_closes_the_circuit() -> None:
    """After a success everything is as at the beginning; after a failed probe one waits longer, up to a limit."""
    breaker = Breaker(Backoff(first_s=1.0, most_s=8.0))
    for _ in range(9):
        breaker.failed(0.0, draw=1.0)
    assert breaker.pause_s(0.0) == 8.0
    breaker.succeeded()
    assert (breaker.failures, breaker.probing, breaker.pause_s(0.0)) == (0, False, 0.0)
    breaker.failed(0.0, draw=0.0)
    assert breaker.pause_s(0.0) == 0.5


def test_who_is_in_a_hurry_waits_less_and_who_was_refused_waits_more() -> None:
    """A pause may be capped while someone waits, and has a least length where only a person can help."""
    breaker = Breaker(Backoff(first_s=1.0, most_s=8.0))
    breaker.failed(10.0, draw=1.0, least_s=5.0)
    assert breaker.pause_s(10.0) == 5.0
    assert breaker.pause_s(10.0, most_s=0.1) == pytest.approx(0.1)
    assert breaker.pause_s(10.2, most_s=0.1) == 0.0
