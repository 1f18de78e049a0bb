"""What our log says, so that whatever shows it tells what to do: a constant sentence, then the values as `key=value`.

The values are attributes of the record too, for loggers that keep them as such.
"""

import logging


def say(log: logging.Logger, level: int, sentence: str, **values: object) -> None:
    """Log a sentence and its values.

    Args:
        log: Whose line it is.
        level: As `logging` has them: WARNING is recovered, ERROR is data lost, or a person is needed.
        sentence: Always the same for the same thing.
        **values: What is particular this time; no name that a record of `logging` has itself.
    """
    log.log(level, "%s: %s", sentence, in_words(values), extra=values, stacklevel=2)


def in_words(values: dict[str, object]) -> str:
    """Return values as `key=value`, one beside the other."""
    return " ".join(f"{key}={quoted(value)}" for key, value in values.items())


def quoted(value: object) -> str:
    """Return a value as text, in quotes where it is not one word."""
    text = str(value)
    return repr(text) if " " in text or not text else text
