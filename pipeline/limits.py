"""Limits of every stored number and string, each with its reason.

A limit is checked where bytes become events (`pipeline.wire`), so that a state never meets a number it cannot add.
"""

MAX_TOKENS = 2**40
"""Tokens of one kind in one request: far above any model's context, so a larger one is a mistake."""

MAX_DURATION_US = 2**40
"""Microseconds of one request, operation or visit: 12.7 days."""

MAX_TIME_US = 2**53
"""Event time, microseconds since 1970: what a double still holds exactly (the year 2255)."""

MAX_NANO_USD = 2**53
"""Nano-dollars of one request: nine million dollars, and exact in every language's double."""

MAX_COUNT = 2**20
"""Small counters an event carries: attempts, visits."""

MAX_SEQUENCE = 2**53
"""Events of one producer for one partition: Lua counts sequences in doubles."""

MAX_NAME_CHARS = 200
"""Agents, models, sessions, users, states, ids: longer ones are cut."""

MAX_MESSAGE_CHARS = 500
"""Error messages, cut after redaction."""

MAX_TAGS = 16
"""Tags of one event; each is a marginal of its own in the state."""

MAX_TOOLS = 64
"""Tools one response may ask for."""

MAX_FRAME_EVENTS = 500
"""Events a frame: memory an event is flat above that (110-122 bytes), and a commit may end inside it."""

MAX_BODY_BYTES = 1 << 20
"""Stored bytes of one frame: one entry must never hold the server up."""

MAX_EXPANDED_BYTES = 4 << 20
"""A frame that expands past this is refused before it is expanded: 500 events of the largest size are below it."""

TARGET_EXPANDED_BYTES = 1_000_000
"""A producer seals a frame before its events encode to more than this: with what stands around them, and however badly
they compress, the body stays below its limit."""
