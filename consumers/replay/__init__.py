"""Replay: the same handlers over archive and stream, into another version of the state, beside the one that answers."""
