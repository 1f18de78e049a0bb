"""Backfill: events from files, long after they happened, through the same script as every other producer's.

Files are read (`sources`), every event gets an identity (`identity`), frames of one partition and day each are filled
(`framing`) and appended one after another (`feeding`). What the namespace has already is told by ids (`holdings`).
"""
