"""Keys: which are whose, and what each kind holds."""

import pytest

from pipeline.keys import Keys, kind_of

KEYS = Keys("app")
PARTITION = KEYS.partition(7)
UNIT = PARTITION.unit("metrics")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (KEYS.meta(), "meta"),
        (KEYS.presence_index(), "presence"),
        (KEYS.presence("ab"), "presence"),
        (KEYS.loss_window(3600), "presence"),
        (KEYS.workers(), "workers"),
        (KEYS.worker("host:1:ab"), "workers"),
        (KEYS.workers_of("v1:metrics"), "workers"),
        (KEYS.alert_states(), "alerts"),
        (KEYS.alert_lease(), "alerts"),
        (KEYS.housekeeping_lease(), "housekeeping"),
        (PARTITION.stream(), "streams"),
        (PARTITION.fence("ab"), "fences"),
        (PARTITION.counters(), "counters"),
        (PARTITION.handlers(), "declarations"),
        (PARTITION.ledger("20260101"), "ledgers"),
        (UNIT.cursor(), "cursors"),
        (UNIT.recipes(), "recipes"),
        (UNIT.dead_letters(), "dead letters"),
        (UNIT.lease(), "leases"),
        (UNIT.cells("20260101"), "cells"),
        (UNIT.window("1h", 3600), "windows"),
        (UNIT.marginal("session", "1h", 3600), "marginals"),
        (UNIT.ranking("session", "1h", 3600), "rankings"),
        (UNIT.slowest("1h", 3600), "slow operations"),
        ("{app:07}:v1:metrics:crystal", "other"),
        ("{app:07}:v1", "other"),
        ("{app:07}:moon", "other"),
        ("{app:07}", "other"),
        ("plain", "other"),
    ],
)
def test_every_key_has_a_kind(key: str, kind: str) -> None:
    """What this version does not know is other."""
    assert kind_of(key) == kind


def test_a_namespace_owns_its_keys_and_no_other_ones() -> None:
    """Also where its name is the beginning of another's."""
    others = [Keys(name) for name in ("app2", "app-staging", "app.x", "ap")]
    for keys in (KEYS, *others):
        mine = [keys.meta(), keys.presence("ab"), keys.partition(0).stream(), keys.partition(0).unit("cost").cursor()]
        assert all(keys.owns(key) for key in mine)
        assert not any(other.owns(key) for other in (KEYS, *others) if other != keys for key in mine)


def test_a_unit_owns_its_keys_and_no_other_ones() -> None:
    """Not those of another version, another handler, another partition."""
    others = [PARTITION.unit("metrics", 11), PARTITION.unit("metrics2"), KEYS.partition(70).unit("metrics")]
    assert UNIT.owns(UNIT.window("1m", 60))
    assert PARTITION.named_unit("v1:metrics") == UNIT
    assert not any(UNIT.owns(other.cursor()) or other.owns(UNIT.cursor()) for other in others)
