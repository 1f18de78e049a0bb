"""Logs for a terminal: time, level, sentence, then the values as key=value."""

import logging
import sys
import time
from typing import Final

from pipeline.log import in_words

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Writes a record as one line; its values follow the sentence."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        sentence = record.getMessage()
        values = in_words({key: value for key, value in vars(record).items() if key not in _OWN})
        if values and sentence.endswith(values):
            values = ""  # said already, by `pipeline.log.say`
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname:<7} {sentence}"
        text = f"{line}  {values}" if values else line
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send Sidestream's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logger = logging.getLogger("sidestream")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
