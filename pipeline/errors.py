"""The errors of Sidestream, one tree; vendor errors are translated into it once, at the door.

    SidestreamError
    ├── TransientError            try again: nothing was applied, or it can be found out
    │   ├── UnreachableError      no connection, nothing was sent
    │   ├── UnavailableError      the server answered "not now" (LOADING, READONLY, BUSY, ...)
    │   ├── CapacityError         the server is full (OOM)
    │   ├── UnknownOutcomeError   sent, and no answer: it may have happened
    │   ├── NotReplicatedError    the server has it, too few of its replicas have said so
    │   └── ScriptMissingError    NOSCRIPT: send the text
    └── PermanentError            the same call can only fail again
        ├── RefusedError          the server refuses us (NOAUTH, NOPERM, WRONGTYPE, a wrong version)
        ├── NewerSchemaError      the namespace belongs to a newer Sidestream
        ├── SettingsError         a setting is wrong or unknown
        └── WireError             bytes that are no frame or no event

Each has a `code`: a word of low cardinality for counters and dead letters.
"""


class SidestreamError(Exception):
    """Anything Sidestream raises on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class TransientError(SidestreamError):
    """Worth another try, after a pause."""

    code = "transient"


class UnreachableError(TransientError):
    """No connection could be made; nothing was sent."""

    code = "unreachable"


class UnavailableError(TransientError):
    """The server answered, and did nothing: it loads, fails over, or runs a slow script."""

    code = "unavailable"


class CapacityError(TransientError):
    """The server is at its memory limit and refused a write."""

    code = "capacity"


class UnknownOutcomeError(TransientError):
    """The command was sent and no answer came: it may or may not have happened."""

    code = "unknown_outcome"


class NotReplicatedError(TransientError):
    """The server has applied it; fewer replicas than asked for have said in time that they have it too."""

    code = "not_replicated"


class ScriptMissingError(TransientError):
    """The server does not know the script's hash (restart, SCRIPT FLUSH)."""

    code = "script_missing"


class PermanentError(SidestreamError):
    """The same call would fail again."""

    code = "permanent"


class RefusedError(PermanentError):
    """The server refuses this client or this command."""

    code = "refused"


class NewerSchemaError(PermanentError):
    """A newer Sidestream keeps this namespace in a way that this one does not understand."""

    code = "newer_schema"


class SettingsError(PermanentError):
    """A setting is wrong or unknown; the message names it and its place."""

    code = "settings"


class WireError(PermanentError):
    """Bytes that are no frame, or no event."""

    code = "wire"
