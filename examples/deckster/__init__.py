"""Deckster: a presentation assistant over WebSockets, watched by Sidestream.

Read `app.py` first: it holds every line that has to do with telemetry. The rest is an ordinary application, with two
things no real one has: models that answer offline (`models.py`, `scripts.py`), and a journal in which they write down
what they really did (`journal.py`), so that the clients can tell later whether every event was counted.
"""
