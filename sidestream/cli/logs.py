"""Logs for a terminal: time, level, sentence, then the values as key=value."""

import logging
import sys
import time
from typing import Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Writes a record as one line; its values follow the sentence."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        values = " ".join(f"{key}={_quoted(value)}" for key, value in vars(record).items() if key not in _OWN)
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {record.getMessage()}"
        text = f"{line}  {values}" if values else line
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text or not text else text


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send Sidestream's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("sidestream")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
