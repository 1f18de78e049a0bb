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

NAMES: Final = {
    COST: "cost_nano_usd",
    PRICED: "priced_requests",
    PROVIDER_COST: "provider_cost_nano_usd",
    UNPRICED: "unpriced_requests",
    UNPRICED_TOKENS: "unpriced_tokens",
    REQUESTS: "requests",
    INPUT: "input_tokens",
    OUTPUT: "output_tokens",
    REQUEST_US: "request_duration_us",
    TTFT_US: "ttft_us",
    RUNS: "runs",
    RUN_US: "run_duration_us",
    TOOLS: "tool_calls",
    TOOL_US: "tool_duration_us",
    STEPS: "steps",
    STEP_US: "step_duration_us",
    TRANSITIONS: "transitions",
    VISIT_US: "time_in_state_us",
    VISITS_UNKNOWN: "visits_of_unknown_length",
    ERRORS: "errors",
    BACKFILLED: "backfilled_events",
    BACKFILLED_TOKENS: "backfilled_tokens",
} | {code: name for name, code in TOKEN_PARTS.items()}
"""What measures are called where people or other programs read them, the unit in the name."""
