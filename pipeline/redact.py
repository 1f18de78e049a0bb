"""Take secrets out of text that was written for people: exception messages, addresses.

Keeps:
- What is returned has at most the asked number of characters, however long the text was.
- Only four times as many are looked at. Of a longer text nothing is shown that was not followed by as many as may be
  shown: no secret is shown in part because its end was not seen.
- Every quantifier of a built-in pattern is bounded, so that the time is linear in what is looked at. An added pattern
  is as quick as whoever wrote it made it.
- Each pattern looks at the text as it was: their order means nothing, and what one hides blinds no other.

A net, not a proof: an application must not put prompts or personal data in its exception messages.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HIDDEN: Final = "***"

READ_RATIO: Final = 4
"""Characters looked at for each that may be shown."""

MOST_PATTERNS: Final = 50
MOST_PATTERN_CHARS: Final = 1_000

_PROBES: Final = ("", "a", "0", " ", "-")
"""What a pattern that can match nothing gives itself away by; short, for a slow one is tried on them too."""

_QUOTE: Final = r"\\{0,3}[\"']"
_OPENS: Final = rf"\s{{0,4}}(?:[bu]?{_QUOTE})?"
_IS: Final = (
    rf"(?:(?:{_QUOTE})?\s{{0,4}}={{1,3}}>?{_OPENS}|{_QUOTE}\s{{0,4}}:{_OPENS}|{_QUOTE}\s{{0,4}},\s{{0,4}}[bu]?{_QUOTE})"
)
"""Between a name and its value where both are data: `x=1`, `x => 1`, `"x": "1"`, `('x', 'y')`, escaped or not."""

_SAYS: Final = rf"(?:{_IS}|\s{{0,4}}:{_OPENS})"
"""The same, or as people write: `x: 1`."""

_VALUE: Final = r"(?P<secret>(?<=\")(?:[^\"\\]|\\[^\"']){1,2000}|(?<=')(?:[^'\\]|\\[^\"']){1,2000}|[^\s\"',;&]{1,2000})"
"""To the closing quote where there was an opening one, else to the next blank or separator."""

_NO_WORD: Final = r"(?=[^\s\"']{0,80}?(?:\d|=|(?-i:[a-z][A-Z]))|[^\s\"']{24})"
"""What follows is no word of a sentence: it has a digit or a capital inside, or is very long."""

_NAME: Final = (
    r"(?:passwords?|passwd|passphrase|pwd|secrets?"
    r"|(?:api|access|secret|private|account|signing|encryption|auth|client|user)[\s_-]?keys?(?:[\s_-]?id)?)"
)
_BADGE: Final = r"(?:token|jwt|session[\s_-]?id)"


class Kind(NamedTuple):
    """One kind of secret: in lower case what a text that has one holds, any of it, and how it looks.

    The group `secret` is hidden where the pattern has one, else all that it matches.
    """

    hints: tuple[str, ...]
    pattern: re.Pattern[str]


def _kind(hints: str, pattern: str, flags: re.RegexFlag = re.IGNORECASE) -> Kind:
    return Kind(tuple(hints.split()), re.compile(pattern, flags))


BUILT_IN: Final[Mapping[str, Kind]] = {
    # redis://:pw@host, https://token@host: all before the @. A password may hold a slash; a port is followed by one.
    "credentials of a url": _kind(
        "://", r"(?<=://)(?:[^\s/?#\"'<>]{1,2000}|[^\s/?#:@\"'<>]{0,256}:(?!\d{1,5}[^\w@])[^\s@\"'<>]{1,256})(?=@)"
    ),
    # ?access_token=…&X-Amz-Signature=…
    "query of a url": _kind(
        "=",
        r"[?&#][\w.~%-]{0,60}?(?:token|key|secret|sig|signature|passw(?:or)?d|pwd|auth|credential|session(?:_?id)?|jwt)="
        r"(?P<secret>[^&#\s\"'<>]{1,2000})",
    ),
    "authorization": _kind("authorization", rf"authorization{_SAYS}(?P<secret>[^\r\n\"'\\]{{3,2000}})"),
    "bearer": _kind("bearer basic", rf"\b(?:bearer|basic)\s{{1,4}}{_NO_WORD}(?P<secret>[\w.~+/=-]{{8,2000}})"),
    "cookie": _kind("cookie", rf"cookies?{_SAYS}(?=[^\s=;,\"']{{1,128}}=)(?P<secret>[^\r\n\"'\\]{{3,2000}})"),
    # password=…; AccountKey=…, "api_key": "…"
    "named secret": _kind("pass pwd secret key", rf"{_NAME}{_SAYS}{_VALUE}"),
    # token=…, "token": "…"; but not "invalid token: the word behind it"
    "named token": _kind("token jwt session", rf"{_BADGE}{_IS}{_VALUE}"),
    "token after a colon": _kind(
        "token jwt session", rf"{_BADGE}\s{{0,4}}:\s{{0,4}}{_NO_WORD}(?P<secret>[^\s\"',;&]{{8,2000}})"
    ),
    # OPENAI_KEY=…, DB_PASS=…
    "variable of the environment": _kind(
        "_key _pass _pw _auth _creds",
        rf"\b[A-Z][A-Z0-9_]{{0,60}}_(?:KEY|PASS|PW|AUTH|CREDS){_IS}{_VALUE}",
        re.NOFLAG,
    ),
    # --password x, as a failed command is quoted
    "option of a command": _kind(
        "--",
        rf"(?<!-)--(?=\w)[\w-]{{0,40}}?(?:{_NAME}|{_BADGE})\s{{1,4}}(?:{_QUOTE})?(?P<secret>[^\s\"'-][^\s\"']{{0,2000}})",
    ),
    # Keys that say themselves what they are, by the beginnings that their providers give them.
    "key": _kind(
        "- _ . akia asia aroa aida aiza",
        r"(?<![A-Za-z0-9])(?:"
        r"sk-(?=[\w*-]{0,100}?[\d*]|[\w-]{24})[\w*-]{8,2000}"  # OpenAI, Anthropic, OpenRouter, DeepSeek, Langfuse
        r"|[prs]k_(?:live|test)_\w{8,2000}|whsec_[\w+/=]{16,2000}"  # Stripe
        r"|gh[oprsu]_[A-Za-z0-9]{16,2000}|github_pat_\w{16,2000}"
        r"|gl(?:agent|cbt|dt|ffct|ft|imt|oas|pat|ptt|rt|soat)-[\w-]{16,2000}"  # GitLab
        r"|xox[a-z]-[\w-]{8,2000}|xapp-[\w-]{8,2000}"  # Slack
        r"|pylf_[\w-]{12,2000}"  # Pydantic Logfire
        r"|(?:hf|npm|gsk|r8|shpat|dop_v1|dckr_pat|lsv2_[a-z]{2})_[A-Za-z0-9]{16,2000}"  # Hugging Face, Groq, Docker, …
        r"|(?:xai|tvly|pplx|nvapi|pypi)-(?=[\w-]{0,100}?\d)[\w-]{16,2000}"
        r"|hvs\.[\w-]{16,2000}|SG\.[\w-]{12,100}\.[\w-]{12,2000}|ya29\.[\w-]{16,2000}"  # Vault, SendGrid, Google
        r"|A(?:KIA|SIA|ROA|IDA)[A-Z0-9]{12,100}|AIza[\w-]{20,2000}"  # AWS, Google
        r")",
        re.NOFLAG,
    ),
    "json web token": _kind("eyj", r"(?<![A-Za-z0-9])eyJ[\w-]{12,2000}(?:\.[\w-]{0,2000}){0,4}", re.NOFLAG),
    "private key": _kind(
        "-----begin",
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[\s\S]{0,8000}?(?:-----END [A-Z0-9 ]{0,50}-----|\Z)",
        re.NOFLAG,
    ),
    # The first half passes over the credentials of a URL: the host behind them is no part of an address.
    "e-mail address": _kind(
        "@ %40",
        r"://[^\s/?#\"'<>]{1,2000}@"
        r"|(?<![\w.+-])(?P<secret>[\w.+-]{1,256}(?:@|%40)(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62})",
    ),
}
"""By what they find; numbers of payment cards beside them."""

CARD: Final = re.compile(r"(?:4\d|5[0-8]|6\d|3\d|2[2-7])(?<![\w.]\d\d)(?=(\d{2}(?:[ -]?\d){9,15}))")
"""Where such a number may begin, by the ranges of the schemes: times since 1970 begin with a 1."""

_LEAST_DIGITS: Final = 13
_MOST_DIGITS: Final = 19


@dataclass(frozen=True, slots=True)
class Redactor:
    """The built-in patterns, and those that an application adds.

    Args:
        patterns: Regular expressions, at most 50 of at most 1,000 characters. What one matches is hidden, or only its
            group named `secret` where it has one.

    Raises:
        ValueError: A pattern is none, or matches the empty string; the message says which.
    """

    patterns: tuple[str, ...] = ()
    _added: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.patterns) > MOST_PATTERNS:
            raise ValueError(f"{len(self.patterns)} patterns: use at most {MOST_PATTERNS}")
        added = tuple(_compiled(number, pattern) for number, pattern in enumerate(self.patterns))
        object.__setattr__(self, "_added", added)

    def redact(self, text: str, most_chars: int = 500) -> str:
        """Return `text` without what looks like a secret, cut to `most_chars` characters."""
        seen = text[: READ_RATIO * most_chars]
        end = len(seen) if len(seen) == len(text) else len(seen) - most_chars
        lower = seen.lower()
        hidden = list(_cards(seen))
        for kind in BUILT_IN.values():
            if any(hint in lower for hint in kind.hints):
                hidden += _marked(kind.pattern, seen)
        for pattern in self._added:
            hidden += _marked(pattern, seen)
        return _without(seen, end, sorted(hidden))[:most_chars]


def redact(text: str, most_chars: int = 500) -> str:
    """Return `text` without what the built-in patterns find, cut to `most_chars` characters."""
    return _BUILT_IN_ALONE.redact(text, most_chars)


def _compiled(number: int, text: object) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise ValueError(f"pattern [{number}] is no text")  # noqa: TRY004 - a wrong value like the others
    if len(text) > MOST_PATTERN_CHARS:
        raise ValueError(f"pattern [{number}] has {len(text):,} characters: use at most {MOST_PATTERN_CHARS:,}")
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern [{number}] is no regular expression: {error}") from None
    if any(not found[0] for probe in _PROBES for found in pattern.finditer(probe)):
        raise ValueError(f"pattern [{number}] matches the empty string: it would say nothing")
    return pattern


def _marked(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    group = pattern.groupindex.get("secret", 0)
    for found in pattern.finditer(text):
        start, end = found.span(group)
        if start >= 0:
            yield start, end


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Find numbers of payment cards: 13 to 19 digits, blanks or dashes among them, whose last digit checks them."""
    past = 0
    for found in CARD.finditer(text):
        start, longest = found.start(), found.end(1)
        if start < past:
            continue
        for end in range(longest, start + _LEAST_DIGITS - 1, -1):
            if text[end - 1].isdecimal() and not text[end : end + 1].isalnum() and _is_card(text[start:end]):
                yield start, end
                past = end
                break


def _is_card(text: str) -> bool:
    """Tell whether the digits of `text` are as many as a card has, and pass the check of Luhn.

    Source: ISO/IEC 7812-1, annex B.
    """
    digits = [int(sign) for sign in reversed(text) if sign.isdecimal()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return _LEAST_DIGITS <= len(digits) <= _MOST_DIGITS and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _without(text: str, end: int, hidden: Iterable[tuple[int, int]]) -> str:
    """Return the text up to `end`; each run of hidden spans, which are in order, is one mark."""
    parts: list[str] = []
    at = 0
    for start, stop in hidden:
        if start >= end:
            break
        if start > at or not parts:
            parts += (text[at:start], HIDDEN)
        at = max(at, stop)
    return "".join([*parts, text[at:end]])


_BUILT_IN_ALONE: Final = Redactor()
