"""Replay: the same handlers over the same stream, into another version of the state, beside the live one."""
