"""The settings of workers: what is kept for how long, from the file or the environment, and what a wrong one says."""

from pathlib import Path

import pytest

from consumers.runtime.housekeeping import HousekeepingSettings
from pipeline.errors import SettingsError
from sidestream.settings import load_settings
from sidestream.worker_settings import load_alert_options, load_housekeeping_settings

DAY_S = 86_400


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_day_is_kept_where_nobody_says_otherwise(elsewhere: Path) -> None:
    """And sinks hold three days, or a quarter of a gibibyte; the archive two weeks, or a whole one."""
    assert load_housekeeping_settings({}) == HousekeepingSettings(
        DAY_S, 3 * DAY_S, 256 << 20, archive_age_s=14 * DAY_S, archive_bytes=1 << 30, memory_bytes=0
    )


def test_every_setting_is_read_from_the_file(elsewhere: Path) -> None:
    """Beside the others of its table."""
    (elsewhere / "sidestream.toml").write_text(
        '[worker]\ngrace_s = 1\nretention = "2h"\nsink_age = "7d"\nsink_bytes = 5\nmemory_bytes = 2_000_000\n'
        'archive_age = "30d"\narchive_bytes = 6\n'
    )
    assert load_housekeeping_settings({}) == HousekeepingSettings(
        7_200, 7 * DAY_S, 5, archive_age_s=30 * DAY_S, archive_bytes=6, memory_bytes=2_000_000
    )
    assert load_alert_options({}).grace_s == 1


def test_the_environment_hides_the_file_and_an_empty_variable_says_nothing(elsewhere: Path) -> None:
    """The application, which has the same environment, lets them be."""
    (elsewhere / "sidestream.toml").write_text('[worker]\nretention = "2h"\nsink_age = "2h"\n')
    environ = {
        "SIDESTREAM_RETENTION": "0s",
        "SIDESTREAM_SINK_AGE": "",
        "SIDESTREAM_SINK_BYTES": "7",
        "SIDESTREAM_MEMORY_BYTES": "3000000",
    }
    assert load_housekeeping_settings(environ) == HousekeepingSettings(0, 7_200, 7, memory_bytes=3_000_000)
    assert load_settings({}, environ).enabled


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SIDESTREAM_RETENTION", "a day", "is no duration"),
        ("SIDESTREAM_RETENTION", "367d", "from 0s to 366d"),
        ("SIDESTREAM_SINK_AGE", "24", "is no duration"),
        ("SIDESTREAM_SINK_AGE", "9000h", "from 0s to 366d"),
        ("SIDESTREAM_SINK_BYTES", "lots", "whole number of bytes"),
        ("SIDESTREAM_SINK_BYTES", "-1", "use 0 to"),
        ("SIDESTREAM_MEMORY_BYTES", "1000", "1 MiB"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(elsewhere: Path, variable: str, value: str, sentence: str) -> None:
    """With what would be right."""
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_housekeeping_settings({variable: value})
    assert str(caught.value).startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("retention = 5", "worker.retention: 5 is no duration"),
        ('retention = "soon"', "worker.retention: 'soon' is no duration"),
        ("sink_bytes = true", "worker.sink_bytes: True is no whole number of bytes"),
        ("memory_bytes = 1.5", "worker.memory_bytes: 1.5 is no whole number"),
        ("retain = 1", "worker.retain: there is no such setting; known are archive_age, "),
    ],
)
def test_a_wrong_setting_of_the_file_is_refused_with_its_place(elsewhere: Path, text: str, sentence: str) -> None:
    """The message names the file and the key."""
    (elsewhere / "sidestream.toml").write_text(f"[worker]\n{text}\n")
    with pytest.raises(SettingsError) as caught:
        load_housekeeping_settings({})
    assert f"sidestream.toml: {sentence}" in str(caught.value)
