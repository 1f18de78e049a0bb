"""A short storm over replay: whatever is killed, frozen or put back, the version computed anew is the live one."""

import pytest
from storms.attempts import until_decided
from storms.replaying import report, run

pytestmark = pytest.mark.one_server


def test_a_replay_survives_what_happens_to_it() -> None:
    """Workers, replays and the server are killed, frozen and rolled back while history is computed anew."""
    outcome = until_decided(lambda seed: run(seed, 6), seed=3)
    assert outcome.code == 0, report(outcome)
