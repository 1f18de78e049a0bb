"""What hypothesis draws events from: few words, so that they meet; several days; some that nobody can count."""

import time

from hypothesis import strategies as st

from pipeline.events import ErrorEvent, Event, OperationEvent, TransitionEvent, UsageEvent

NOW_US = time.time_ns() // 1_000
WORDS = ("a", "b", "c", "d", "e", "f", "g")


def events_of(when: st.SearchStrategy[int], words: st.SearchStrategy[str]) -> st.SearchStrategy[Event]:
    """Return events of every kind, dated by a strategy (microseconds since 1970), named by another."""
    return st.one_of(
        st.builds(
            UsageEvent,
            time_us=when,
            agent=words,
            input_tokens=st.integers(0, 50),
            duration_us=st.none() | st.integers(0, 10**7),
            session=words,
            user=st.sampled_from(["", "u"]),
        ),
        st.builds(OperationEvent, time_us=when, kind=st.just("run"), duration_us=st.integers(0, 10**7), session=words),
        st.builds(TransitionEvent, time_us=when, from_state=words, to_state=words),
        st.builds(ErrorEvent, time_us=when, type=words, session=words),
    )


# An hour and more ahead: a dead letter of every worker, and counted by none.
_ahead = st.builds(UsageEvent, time_us=st.just(NOW_US + 7_200_000_000), agent=st.sampled_from(WORDS))
_recent = st.integers(0, 3).map(lambda step: NOW_US - step * 1_300_000_000)

events = events_of(_recent, st.sampled_from(WORDS)) | _ahead
frames = st.lists(st.lists(events, min_size=1, max_size=12), min_size=1, max_size=6)
