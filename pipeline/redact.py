"""Take secrets out of text that was written for people: exception messages, addresses.

Keeps:
- What is returned has at most the asked number of characters, however long the text was.
- The time taken is bounded: only a few times the asked characters are looked at, by patterns that do not backtrack
  over more than one word.

A net, not a proof: an application must not put prompts or personal data in its exception messages.
"""

import re

HIDDEN = "***"

_READ_RATIO = 4
"""Enough that a secret which begins inside the kept part is seen whole."""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ of any address
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s:/@]{0,100}):[^\s@]{1,500}@", re.IGNORECASE), rf"\1:{HIDDEN}@"),
    # Authorization: Bearer xyz, Basic xyz
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # password=…, "api_key": "…", token: …
    (
        re.compile(
            r"\b([\w-]{0,40}(?:password|passwd|secret|token|api[_-]?key|apikey|access[_-]?key|authorization|cookie))"
            r"(\"?'?\s{0,4}[:=]\s{0,4}\"?'?)[^\s\"',;&}]{3,}",
            re.IGNORECASE,
        ),
        rf"\1\2{HIDDEN}",
    ),
    # keys that say themselves what they are: sk-…, pk_…, ghp_…, xoxb-…, pylf_…, AKIA…, AIza…
    (re.compile(r"\b(?:sk|pk|rk|ghp|gho|ghs|xox[abprs]|pylf|hf|glpat)[-_][A-Za-z0-9_-]{8,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[A-Za-z0-9_-]{20,}"), HIDDEN),
    # JSON web tokens
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
)


def redact(text: str, most_chars: int = 500) -> str:
    """Return `text` without what looks like a secret, cut to `most_chars` characters."""
    seen = text[: _READ_RATIO * most_chars]
    for pattern, replacement in _PATTERNS:
        seen = pattern.sub(replacement, seen)
    return seen[:most_chars]
