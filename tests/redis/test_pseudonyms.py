"""Users' ids under a key: no byte of them reaches Redis, and sums by user stay right."""

import uuid
from pathlib import Path

import pytest

from pipeline.connection import AsyncServer
from pipeline.errors import SettingsError
from pipeline.keys import Keys
from pipeline.stream import read_after
from pipeline.wire import FrameDecoder
from producers.pseudonyms import Pseudonyms
from producers.settings import PublishSettings
from producers.telemetry import Telemetry
from sidestream.settings import load_settings

KEY = "a-secret-of-this-application"
USER = "ann.smith@example.com"


async def users(server: AsyncServer, keys: Keys) -> list[str]:
    """Return whom the events on the streams are about."""
    found: list[str] = []
    for number in range(4):
        for stored in await read_after(server, keys.partition(number), "-", inclusive=True, most=1000):
            found += [event.user for event in FrameDecoder().decode(stored.parse()).events if event is not None]
    return found


def in_files(folder: Path) -> bool:
    """Return whether the user's id stands in any file of a folder."""
    return any(USER.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("codec", ["mz", "json"])
async def test_no_event_carries_a_user_s_id(
    redis_url: str, server: AsyncServer, keys: Keys, tmp_path: Path, codec: str
) -> None:
    """Whichever way it is reported, and in the spool too; the same user is the same pseudonym for every process."""
    number = uuid.uuid4()
    for _ in range(2):
        settings = PublishSettings(namespace="test", user_key=KEY, codec=codec, spool_dir=str(tmp_path))  # pyright: ignore[reportArgumentType]
        telemetry = Telemetry(settings, lambda: redis_url)
        with telemetry.session_context("s", USER, state="draft"):
            telemetry.usage("a", "m", 1)
            telemetry.track_state_transition("draft", "done")
            telemetry.error("ValueError", "no")
            telemetry.operation_done("render", duration_us=1)
        telemetry.usage("a", "m", user=USER)
        telemetry.usage("a", "m", user=number)  # pyright: ignore[reportArgumentType] - what applications pass
        assert telemetry.flush(10)
        assert not in_files(tmp_path)
        assert telemetry.close(5)
    found = await users(server, keys)
    pseudonyms = Pseudonyms(KEY)
    assert sorted(found) == sorted([pseudonyms.of(USER)] * 10 + [pseudonyms.of(str(number))] * 2)
    for key in await server.call("KEYS", "*"):
        assert USER.encode() not in await server.call("DUMP", key)


def test_a_pseudonym_depends_on_the_key() -> None:
    """Another key gives another pseudonym; nobody stays nobody; a lone surrogate is hashed like anything else."""
    assert Pseudonyms(KEY).of(USER) != Pseudonyms(KEY + "!").of(USER)
    assert len(Pseudonyms(KEY).of("\ud800")) == 32
    assert Pseudonyms(KEY).of("") == ""


def test_a_wrong_key_is_refused_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too short, or not text: the message names the setting and its place, and not the value."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"SIDESTREAM_USER_KEY: user_key has 6 characters") as short:
        load_settings({}, {"SIDESTREAM_USER_KEY": "hush-1"})
    with pytest.raises(SettingsError, match="SIDESTREAM_USER_KEY") as odd:
        load_settings({}, {"SIDESTREAM_USER_KEY": "hush-1\x00" * 9})
    assert "hush" not in str(short.value) + str(odd.value) + repr(PublishSettings(user_key="hush" * 9))
