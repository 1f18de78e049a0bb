"""The application's settings: where each comes from, and what is said of a wrong one."""

from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from sidestream.logfire import read_logfire_settings
from sidestream.settings import load_settings


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arguments_win_over_environment_over_file_over_defaults(elsewhere: Path) -> None:
    """Each source hides the ones behind it."""
    (elsewhere / "sidestream.toml").write_text(
        '[redis]\nurl = "redis://file"\n[publish]\nlinger_ms = 1\npartitions = 2\nservice = "file"\n'
    )
    environ = {"SIDESTREAM_LINGER_MS": "3", "SIDESTREAM_SERVICE": "environment", "LOGFIRE_ENVIRONMENT": "staging"}
    settings = load_settings({"service": "argument"}, environ)
    assert settings.redis_url == "redis://file"
    assert settings.publish.partitions == 2
    assert settings.publish.linger_ms == 3
    assert settings.publish.resource.service == "argument"
    assert settings.publish.resource.environment == "staging"
    assert settings.publish.buffer_events == 50_000
    assert settings.enabled


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("SIDESTREAM_LINGER_MS", "soon", "whole number"),
        ("SIDESTREAM_LINGER_MS", "-1", "from 0 to 10,000"),
        ("SIDESTREAM_PARTITIONS", "0", "from 1 to 1,024"),
        ("SIDESTREAM_BUFFER_EVENTS", "1", "from 100"),
        ("SIDESTREAM_CODEC", "xml", "mz or json"),
        ("SIDESTREAM_CLOSE_TIMEOUT_S", "nan", "seconds"),
        ("SIDESTREAM_ENABLED", "perhaps", "true or false"),
        ("SIDESTREAM_NAMESPACE", "Not This", "namespace"),
        ("SIDESTREAM_REDIS_URL", "http://user:hunter2@x", "redis://"),
        ("SIDESTREAM_REDIS_URI", "redis://x", "did you mean SIDESTREAM_REDIS_URL"),
        ("SIDESTREAM_APP_VERSION", "1", "did you mean APP_VERSION"),
        ("SIDESTREAM_FOO", "x", "there is no such setting; known are"),
        ("SIDESTREAM_CONFIG", "/nowhere/at/all.toml", "no file"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(elsewhere: Path, variable: str, value: str, word: str) -> None:
    """The message names the variable and what would be right, and shows no password."""
    with pytest.raises(SettingsError, match=word) as caught:
        load_settings({}, {variable: value})
    assert variable in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[publish]\nlingerms = 3", r"sidestream.toml: publish.lingerms"),
        ("[publish]\nlinger_ms = true", r"sidestream.toml: publish.linger_ms"),
        ("[publish]\npartitions = 5000", r"sidestream.toml: publish.partitions"),
        ("[redis]\nport = 3", r"sidestream.toml: redis.port"),
        ("[publsh]\n", r"no table \[publsh\]"),
        ("publish = 3", r"\[publish\] is not a table"),
        ("[publish", r"not valid TOML"),
    ],
)
def test_a_wrong_line_of_the_file_is_refused_by_its_place(elsewhere: Path, text: str, place: str) -> None:
    """The message names file, table and key."""
    (elsewhere / "sidestream.toml").write_text(text)
    with pytest.raises(SettingsError, match=place):
        load_settings({}, {})


def test_a_wrong_argument_is_refused_as_one(elsewhere: Path) -> None:
    """The message says that it was an argument of configure."""
    with pytest.raises(SettingsError, match=r"configure\(partitions=…\)"):
        load_settings({"partitions": 0}, {})


def test_variables_of_others_are_let_be(elsewhere: Path) -> None:
    """What Kubernetes writes for a service named sidestream, and what only workers read, is no mistake."""
    environ = {"SIDESTREAM_SERVICE_HOST": "10.0.0.1", "SIDESTREAM_PORT": "tcp://1", "SIDESTREAM_SERVER": "redis"}
    assert load_settings({}, environ).publish.resource.service == ""


def test_tables_of_the_workers_are_let_be(elsewhere: Path) -> None:
    """One file serves application and workers."""
    (elsewhere / "sidestream.toml").write_text('[[alert]]\nname = "x"\n')
    assert load_settings({}, {}).redis_url is None


@pytest.mark.parametrize("variable", ["SIDESTREAM_FOO", "SIDESTREAM_DATA_DI", "SIDESTREAM_REDIS_URLS"])
def test_a_variable_that_nobody_reads_is_refused(elsewhere: Path, variable: str) -> None:
    """A misspelt setting would otherwise do nothing, and nobody would know."""
    with pytest.raises(SettingsError, match=f"{variable}: there is no such setting"):
        load_settings({}, {variable: "x"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LOGFIRE_CONSOLE", "maybe"), ("LOGFIRE_TRACE_SAMPLE_RATE", "10"), ("LOGFIRE_SEND_TO_LOGFIRE", "x")],
)
def test_a_wrong_variable_of_the_guide_is_refused_by_its_name(variable: str, value: str) -> None:
    """Logfire's variables are read as strictly as ours."""
    with pytest.raises(ValueError, match=variable):
        read_logfire_settings({variable: value})


@pytest.mark.parametrize(
    ("variable", "text", "left"),
    [
        (r"CUST-\d+", "CUST-12 acct-7 [0-9]", "*** acct-7 [0-9]"),
        (r'["CUST-\\d+", "acct-\\w+"]', "CUST-12 acct-7", "*** ***"),
        ("[1-7]", "x7", "x***"),
        ("[]", "x7", "x7"),
    ],
)
def test_a_variable_holds_one_pattern_or_a_json_array_of_them(
    elsewhere: Path, variable: str, text: str, left: str
) -> None:
    """A pattern may begin with a class of characters: what is no JSON is one pattern."""
    assert load_settings({}, {"SIDESTREAM_REDACT": variable}).publish.redact.redact(text) == left
    assert load_settings({}, {}).publish.redact.redact(text) == text


def test_patterns_stand_in_the_file_and_in_arguments_too(elsewhere: Path) -> None:
    """As a list; like any setting, arguments win."""
    (elsewhere / "sidestream.toml").write_text("[publish]\nredact = ['CUST-\\d+', 'acct-\\w+']\n")
    assert load_settings({}, {}).publish.redact.redact("CUST-12 acct-7") == "*** ***"
    assert load_settings({"redact": ["CUST"]}, {}).publish.redact.redact("CUST-12 acct-7") == "***-12 acct-7"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('["hush", "(b"]', r"pattern \[1\] is no regular expression: missing \)"),
        ('["hush\\d+"]', "begins like a JSON array, and is none: in JSON a backslash is written twice"),
        ("[" * 100_000 + '"hush', "pattern .0. has"),
        ("[1]", r"pattern \[0\] is no text"),
        ("(hush)*", r"pattern \[0\] matches the empty string"),
    ],
)
def test_a_wrong_pattern_is_refused_by_its_place_and_index(elsewhere: Path, value: str, words: str) -> None:
    """The message says what is wrong and does not show the pattern, which may name a customer."""
    with pytest.raises(SettingsError, match=rf"^SIDESTREAM_REDACT: .*{words}") as caught:
        load_settings({}, {"SIDESTREAM_REDACT": value})
    assert "hush" not in str(caught.value)


def test_patterns_that_are_no_list_are_refused_by_their_place(elsewhere: Path) -> None:
    """In the file and in an argument."""
    with pytest.raises(SettingsError, match=r"configure\(redact=…\): .*use a list of regular expressions"):
        load_settings({"redact": {"a": 1}}, {})
    (elsewhere / "sidestream.toml").write_text("[publish]\nredact = ['a', 3]\n")
    with pytest.raises(SettingsError, match=r"sidestream.toml: publish.redact: .*pattern \[1\] is no text"):
        load_settings({}, {})
