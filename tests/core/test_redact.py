"""What messages of errors lose before they are stored, what they keep, and how long a look at them may take."""

import re
from typing import Self

import pytest

from pipeline.redact import BUILT_IN, HIDDEN, MOST_PATTERNS, READ_RATIO, Redactor, redact

# Where a key is planted it is written in two parts: scanners of repositories take it for a real one.
EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "credentials of a url": [
        ("redis://:hunter2@cache:6379/0", "redis://***@cache:6379/0"),
        ("rediss://default:p@ss@cache.example.com:6379", "rediss://***@cache.example.com:6379"),
        ("postgres://app:pa/ss@db/decks refused", "postgres://***@db/decks refused"),
        ("cannot clone https://a1b2c3@github.com/x.git", "cannot clone https://***@github.com/x.git"),
        ("dsn https://0f9e8d@o1.ingest.sentry.io/4", "dsn https://***@o1.ingest.sentry.io/4"),
        ("mongodb+srv://ann@example.com:pw@h/", "mongodb+srv://***@h/"),
    ],
    "query of a url": [
        ("GET https://x.io/a?page=2&token=abc&n=1 failed", "GET https://x.io/a?page=2&token=***&n=1 failed"),
        ("for url 'https://x.io/v1?key=abc'", "for url 'https://x.io/v1?key=***'"),
        ("?X-Amz-Credential=A%2Fb&X-Amz-Signature=00ff", "?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("https://x.blob.core.windows.net/c?sv=2024&sig=a%2Bb%3D", "https://x.blob.core.windows.net/c?sv=2024&sig=***"),
        ("https://x.io/callback#access_token=abc&state=1", "https://x.io/callback#access_token=***&state=1"),
    ],
    "authorization": [
        ("Authorization: Bearer abc", "Authorization: ***"),
        ("{'authorization': 'Basic YTpi', 'accept': '*/*'}", "{'authorization': '***', 'accept': '*/*'}"),
        ("[(b'Authorization', b'Token abc'), (b'x', b'y')]", "[(b'Authorization', b'***'), (b'x', b'y')]"),
        (r"{\"Authorization\": \"Digest username=a, response=b\"}", r"{\"Authorization\": \"***\"}"),
        ("proxy-authorization: Negotiate YII\nhost: x", "proxy-authorization: ***\nhost: x"),
    ],
    "bearer": [
        ("sent Bearer 0a1b2c3d4e to it", "sent Bearer *** to it"),
        ("header was Basic dXNlcjpwYXNz", "header was Basic ***"),
    ],
    "cookie": [
        ("Cookie: sid=abc; theme=dark\nhost: x", "Cookie: ***\nhost: x"),
        ("{'set-cookie': 'sid=abc; Path=/', 'x': 'y'}", "{'set-cookie': '***', 'x': 'y'}"),
    ],
    "named secret": [
        ("Server=db;User=app;Password=hunter2;", "Server=db;User=app;Password=***;"),
        (
            "DefaultEndpointsProtocol=https;AccountKey=a+b/c==;Suffix=x",
            "DefaultEndpointsProtocol=https;AccountKey=***;Suffix=x",
        ),
        ('{"client_secret": "two words", "id": 7}', '{"client_secret": "***", "id": 7}'),
        ("{'password': \"it's\", 'id': 7}", "{'password': \"***\", 'id': 7}"),
        ("api_key=abc, model=x", "api_key=***, model=x"),
        ("X-API-Key: abc", "X-API-Key: ***"),
        ("dbname=decks password='two words' host=db", "dbname=decks password='***' host=db"),
        ("passphrase => open", "passphrase => ***"),
        ("Command '['psql', '--password', 'abc']' returned 1", "Command '['psql', '--password', '***']' returned 1"),
        ("AWS_SECRET_ACCESS_KEY=ab/cd", "AWS_SECRET_ACCESS_KEY=***"),
    ],
    "named token": [
        ("retry with token=abc", "retry with token=***"),
        ("{'access_token': 'abc', 'n': 1}", "{'access_token': '***', 'n': 1}"),
        ('"session_id":"abc"', '"session_id":"***"'),
    ],
    "token after a colon": [("bad refresh token: a1b2c3d4e5", "bad refresh token: ***")],
    "variable of the environment": [
        ("DECK_KEY=abc OTHER=1", "DECK_KEY=*** OTHER=1"),
        ("DB_PASS='a b'", "DB_PASS='***'"),
    ],
    "option of a command": [
        ("run --api-token abc --verbose", "run --api-token *** --verbose"),
    ],
    "key": [
        (f"no access for {begins}{rest} here", "no access for *** here")
        for begins, rest in [
            ("sk-", "abcdefgh12345678"),
            ("sk-proj-", "aBcDeFgHiJkLmNoPqRsTuVwX"),
            ("sk-ant-", "api03-0123456789-abcdef_XY"),
            ("sk-or-", "v1-0123456789abcdef"),
            ("sk-svcacct-", "********************abcd"),
            ("sk_live_", "0123456789abcdef"),
            ("rk_test_", "0123456789abcdef"),
            ("whsec_", "0123456789abcdefXYZ="),
            ("AIza", "SyA0123456789abcdefghijklmnopqrstuv"),
            ("AKIA", "IOSFODNN7EXAMPLE"),
            ("ASIA", "IOSFODNN7EXAMPLE"),
            ("ghp_", "0123456789abcdefghijklmnopqrstuvwxyz"),
            ("github_pat_", "11ABCDEFG0abcdefghij_klmnop"),
            ("glpat-", "0123456789abcdefghij"),
            ("xoxb-", "123456789012-abcdefghijkl"),
            ("xapp-", "1-A0123456789-abcdef"),
            ("hf_", "abcdefghijklmnopqrstuvwxyzabcdefgh"),
            ("pylf_", "v1_us_0123456789abcdefghij"),
            ("gsk_", "0123456789abcdefghijklmnop"),
            ("r8_", "0123456789abcdefghijklmnopqrstuvwxyz0"),
            ("npm_", "0123456789abcdefghijklmnopqrstuvwxyz"),
            ("pypi-", "AgEIcHlwaS5vcmcCJDAwMDAwMDAw"),
            ("xai-", "0123456789abcdefghij"),
            ("hvs.", "CAESI0123456789abcdef"),
            ("SG.", "0123456789abcdef.0123456789abcdef"),
            ("ya29.", "a0AfH6SMBx0123456789"),
        ]
    ],
    "json web token": [("jwt is eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmVk now", "jwt is *** now")],
    "private key": [
        (
            "read -----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAb/+=\n-----END RSA PRIVATE KEY----- from x",
            "read *** from x",
        ),
        (r"'-----BEGIN PRIVATE KEY-----\nMIIE", "'***"),
    ],
    "e-mail address": [
        ("no account for ann.smith+decks@mail.example.co.uk.", "no account for ***."),
        ("<bob@example.com> bounced; mailto:ann%40example.com", "<***> bounced; mailto:***"),
    ],
}

CARDS = [
    ("4111111111111111", HIDDEN),
    ("card 4111 1111 1111 1111 200 declined", "card *** 200 declined"),
    ("order 42 5500-0000-0000-0004, again", "order 42 ***, again"),
    ("1234-4111-1111-1111-1111", "1234-***"),
    ("amex 3782 822463 10005; diners 30569309025904", "amex ***; diners ***"),
    ("old 4222222222222; long 6304000000000000000; jcb=3530111333300000", "old ***; long ***; jcb=***"),
]

REAL = [
    "Error 111 connecting to localhost:6379. Connection refused.",
    "Error -2 connecting to no.such.host.invalid:6379. Name or service not known.",
    "Error 2 connecting to /nowhere. No such file or directory.",
    "Redis URL must specify one of the following schemes (redis://, rediss://, unix://)",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "NOAUTH Authentication required.",
    (
        "AUTH <password> called without any password configured for the default user. Are you sure your"
        " configuration is correct?"
    ),
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MOVED 3999 127.0.0.1:6381",
    "Timeout reading from redis.internal:6379",
    "[Errno 111] Connection refused",
    "Request URL is missing an 'http://' or 'https://' protocol.",
    (
        "Client error '404 Not Found' for url 'https://api.example.com/v1/decks/42?page=2'\nFor more information check:"
        " https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/404"
    ),
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1006)",
    "peer closed connection without sending complete message body (incomplete chunked read)",
    (
        "Missing credentials. Please pass an `api_key`, `workload_identity`, `admin_api_key`, or set the"
        " `OPENAI_API_KEY` or `OPENAI_ADMIN_KEY` environment variable."
    ),
    (
        '"Could not resolve authentication method. Expected one of api_key, auth_token, or credentials to be set. Or'
        ' for the `Authorization` header to be explicitly omitted"'
    ),
    (
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 10000 tokens. Please"
        " reduce the length of the messages."
    ),
    "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens for claude-3-5-sonnet-20241022",
    "Rate limit reached for gpt-4o in organization org-a1B2c3D4e5 on tokens per min (TPM): Limit 30000, Used 29000.",
    "Unknown model: nosuch:model",
    (
        "Exceeded the total_tokens_limit of 1 (total_tokens=55). Consider raising the limit, or see the docs on usage"
        " limits for budget-aware patterns: https://pydantic.dev/docs/ai/core-concepts/agent/#usage-limits"
    ),
    "Exceeded maximum output retries (1)",
    "Tool 'find_slides' exceeded max retries count of 1",
    "An asyncio.Future, a coroutine or an awaitable is required",
    "[Errno 111] Connect call failed ('127.0.0.1', 6379)",
    "2 bytes read on a total of 5 expected bytes",
    "Task was destroyed but it is pending!",
    "<asyncio.locks.Event object at 0x7f2a4111111111> is bound to a different event loop",
    "Expecting value: line 1 column 7 (char 6)",
    "invalid literal for int() with base 10: '12a'",
    "'NoneType' object has no attribute 'token'",
    "<lambda>() missing 1 required keyword-only argument: 'token'",
    "hf_hub_download() got an unexpected keyword argument 'use_auth_token'",
    "Command '['sleep', '5']' timed out after 0.009964006000018344 seconds",
    'duplicate key value violates unique constraint "pk_users_email"\nDETAIL:  Key (id)=(42) already exists.',
    "('invalid_grant: Token has been expired or revoked.', 'invalid_token: The access token expired')",
    "Bearer authentication is required; basic authentication failed; OAuth token refresh failed",
    "Cannot connect to host api.example.com:443 ssl:default [Connect call failed ('93.184.216.34', 443)]",
    "run 01a209e1-08bd-7139-a3c8-47d2f915793c of session 1763922500123456 ended 2026-11-23 18:28:20.123456+00:00",
    "event 1763922500123-0 at 1763922500123456789 ns: 0.41111111111111111 of 4111111111111112, sha 4111111111111111a",
    "no global-configuration-of-decks.yaml, and no sk-learn-or-other-package, task-1234567890abcdef1234567890",
    "No module named 'react@18.2.0'; see https://medium.com/@user/post or http://localhost:8000/@vite/client",
]
"""What libraries said, and what has digits, keys and signs as secrets have."""


class Counted(str):
    """A text that counts how many of its characters are looked at."""

    __slots__ = ("looked_at",)

    def __new__(cls, text: str) -> Self:
        """Return a text that nobody has looked at."""
        made = super().__new__(cls, text)
        made.looked_at = 0
        return made

    def __getitem__(self, index: object) -> str:
        """Hand out a part."""
        part = str(self)[index]  # pyright: ignore[reportArgumentType, reportCallIssue, reportUnknownVariableType]
        self.looked_at += len(part)
        return part


@pytest.mark.parametrize(("text", "left"), [*(pair for examples in EXAMPLES.values() for pair in examples), *CARDS])
def test_a_secret_is_hidden_and_what_stands_around_it_is_not(text: str, left: str) -> None:
    """Each kind, as it is met; and what was redacted once stays as it is."""
    assert redact(text) == left
    assert redact(left) == left


def test_each_built_in_pattern_has_an_example() -> None:
    """A pattern that nobody shows at work may do nothing."""
    assert EXAMPLES.keys() == BUILT_IN.keys()
    for kind, examples in EXAMPLES.items():
        for text, _ in examples:
            assert any(hint in text.lower() for hint in BUILT_IN[kind].hints), text
            assert BUILT_IN[kind].pattern.search(text), text


@pytest.mark.parametrize("text", REAL)
def test_an_ordinary_message_is_unchanged(text: str) -> None:
    """What libraries say of keys, tokens, passwords and numbers is no secret."""
    assert redact(text) == text


@pytest.mark.parametrize("kind", BUILT_IN)
def test_of_a_hostile_megabyte_a_few_thousand_characters_are_looked_at(kind: str) -> None:
    """However a text repeats what begins like a secret, and however often."""
    for text, _ in EXAMPLES[kind]:
        for piece in (text, text[:-1], text[: len(text) // 2], text[0], text[-1] * 3):
            hostile = Counted(piece * (1_000_000 // len(piece)))
            assert len(redact(hostile)) <= 500
            assert hostile.looked_at == 500 * READ_RATIO


@pytest.mark.parametrize("kind", BUILT_IN)
def test_no_built_in_pattern_repeats_without_bound(kind: str) -> None:
    """Every quantifier has a largest number: what a pattern does from one place on is bounded."""
    skeleton = re.sub(r"\\.|\[[^\]]+\]", "x", BUILT_IN[kind].pattern.pattern)
    assert not re.search(r"[*+]|\{\d*,\}", skeleton)


def test_no_part_of_a_secret_is_shown_because_its_end_was_not_seen() -> None:
    """Neither at the end of what is shown nor at the end of what is looked at, wherever in the text it begins."""
    secret = "sk-" + "0a1b2c3d" * 10
    for before in range(0, 2_100, 7):
        shown = redact("x " * (before // 2) + secret + " y" * 2_000)
        assert "0a1" not in shown
        assert "0a1" not in redact("password=" + "z" * before + " " + secret + " y" * 2_000)
        assert "secret-of" not in redact("x " * (before // 2) + "redis://:secret-of-mine@h" + " y" * 2_000)


@pytest.mark.parametrize(
    "begins",
    ["password=", "token=", "Authorization: Bearer ", "Cookie: a=", "?sig=", "https://", "eyJ", "sk-", "ya29."],
)
def test_a_secret_that_fills_all_that_is_looked_at_is_hidden(begins: str) -> None:
    """Tokens and cookies of two thousand characters are no rarity."""
    assert "0a1b" not in redact(f"it sent {begins}{'0a1b2c3d' * 235}@x.io and failed")


def test_what_is_returned_is_cut() -> None:
    """To the number that was asked for."""
    assert redact("a" * 700) == "a" * 500
    assert redact("a" * 700, 10) == "a" * 10
    assert redact("") == ""


def test_spans_that_overlap_are_hidden_as_one() -> None:
    """Whichever patterns find them, and in whichever order they stand."""
    for patterns in [("bcd", "cde"), ("cde", "bcd"), ("c", "bcde"), ("bc", "de")]:
        assert Redactor(patterns).redact("abcdef") == "a***f"


def test_an_added_pattern_hides_its_matches_or_its_group_alone() -> None:
    """Beside the built-in ones, which see the text as it was."""
    redactor = Redactor((r"CUST-\d+", r"deck (?P<secret>\w+)"))
    assert redactor.redact("CUST-12 has deck blue, token=abc") == "*** has deck ***, token=***"
    assert Redactor((r"\d{6}",)).redact("4111111111111111") == HIDDEN
    assert Redactor((r"(?i)x(?=y)|(?!.)$x",)).redact("Xy") == "***y"


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("a", "(b"), r"pattern \[1\] is no regular expression: missing \), unterminated subpattern at position 0"),
        (("a*",), r"pattern \[0\] matches the empty string"),
        (("a", "b", r"\b"), r"pattern \[2\] matches the empty string"),
        (("(?=a)",), r"pattern \[0\] matches the empty string"),
        (("a" * 1_001,), r"pattern \[0\] has 1,001 characters: use at most 1,000"),
        (("a",) * (MOST_PATTERNS + 1), "51 patterns: use at most 50"),
        ((3,), r"pattern \[0\] is no text"),
    ],
)
def test_a_wrong_pattern_is_refused_by_its_index(patterns: tuple[str, ...], words: str) -> None:
    """The message says which, and what is wrong with it."""
    with pytest.raises(ValueError, match=words):
        Redactor(patterns)
