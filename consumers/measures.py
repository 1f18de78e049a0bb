"""The names of measures as they are stored (docs/state.md); one place for those who write and those who read.

`<name>.<bucket>` beside a measure of time or money are the buckets of its histogram.
"""

from typing import Final

REQUESTS: Final = "rq"
INPUT: Final = "ti"
OUTPUT: Final = "to"
REQUEST_US: Final = "rd"
TTFT_US: Final = "ft"
RUNS: Final = "ru"
RUN_US: Final = "ud"
TOOLS: Final = "tl"
TOOL_US: Final = "td"
STEPS: Final = "st"
STEP_US: Final = "sd"
TRANSITIONS: Final = "tr"
VISIT_US: Final = "vd"
VISITS_UNKNOWN: Final = "vu"
ERRORS: Final = "er"
TOKENS: Final = "tk"
"""Input and output tokens together, of a marginal."""

BACKFILLED: Final = "bf"
"""Events of a cell that were backfilled, among all it counts."""

BACKFILLED_TOKENS: Final = "bt"
"""Input and output tokens of these, among all its tokens."""

TOKEN_PARTS: Final = {
    "cache_read_tokens": "tcr",
    "cache_write_tokens": "tcw",
    "cache_write_1h_tokens": "tcl",
    "reasoning_tokens": "trs",
    "input_audio_tokens": "tia",
    "cache_audio_read_tokens": "tca",
    "output_audio_tokens": "toa",
}
"""Parts of the input or output tokens, by the event's field; stored only where there are any."""

COST: Final = "c"
PRICED: Final = "cn"
PROVIDER_COST: Final = "cp"
UNPRICED: Final = "un"
UNPRICED_TOKENS: Final = "ut"
