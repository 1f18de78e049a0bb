"""Where the archive is, from the file or the environment, and what a wrong setting says."""

from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from sidestream.archive_settings import ArchiveSettings, load_archive_settings
from sidestream.settings import load_settings

DAY_S = 86_400


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_no_archive_where_nobody_names_a_place(elsewhere: Path) -> None:
    """And the rest has its defaults."""
    assert load_archive_settings({}) == ArchiveSettings("", 8 << 20, 300, 400 * DAY_S), elsewhere


def test_the_environment_stands_over_the_file(elsewhere: Path) -> None:
    """Setting by setting; the application, which has the same environment, lets them be."""
    (elsewhere / "sidestream.toml").write_text(
        '[archive]\nurl = "s3://bucket/prefix"\nsegment_bytes = 4096\nsegment_age = "30s"\nkeep = "2d"\n'
    )
    assert load_archive_settings({}) == ArchiveSettings("s3://bucket/prefix", 4096, 30, 2 * DAY_S)
    environ = {
        "SIDESTREAM_ARCHIVE_URL": "/data/archive",
        "SIDESTREAM_ARCHIVE_KEEP": "",
        "SIDESTREAM_ARCHIVE_SEGMENT_AGE": "1m",
    }
    assert load_archive_settings(environ) == ArchiveSettings("file:///data/archive", 4096, 60, 2 * DAY_S)
    assert load_settings({}, environ).enabled


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SIDESTREAM_ARCHIVE_URL", "data/archive", "neither a url nor an absolute path"),
        ("SIDESTREAM_ARCHIVE_SEGMENT_BYTES", "lots", "from 1024 to 2^30"),
        ("SIDESTREAM_ARCHIVE_SEGMENT_BYTES", "12", "from 1024 to 2^30"),
        ("SIDESTREAM_ARCHIVE_SEGMENT_AGE", "0s", "above 0s"),
        ("SIDESTREAM_ARCHIVE_KEEP", "for ever", "write a whole number"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(elsewhere: Path, variable: str, value: str, sentence: str) -> None:
    """With what would be right."""
    with pytest.raises(SettingsError, match=sentence.replace("^", r"\^")) as caught:
        load_archive_settings({variable: value})
    assert str(caught.value).startswith(f"{variable}: "), elsewhere


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[archive]\nurl = 5", "archive.url: 5 is no url"),
        ("[archive]\nsegment_bytes = true", "archive.segment_bytes: True is no number of bytes"),
        ("[archive]\nkeep = 400", "archive.keep: 400 is no duration"),
        ("[archive]\nuri = '/x'", "archive.uri: there is no such setting; known are keep, "),
        ("archive = 1", r"[archive] is not a table"),
    ],
)
def test_a_wrong_setting_of_the_file_is_refused_with_its_place(elsewhere: Path, text: str, sentence: str) -> None:
    """The file, and where in it."""
    (elsewhere / "sidestream.toml").write_text(f"{text}\n")
    with pytest.raises(SettingsError) as caught:
        load_archive_settings({})
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("sidestream.toml: ")
