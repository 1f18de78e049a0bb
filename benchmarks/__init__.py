"""Benchmarks: one question a file, the peers beside us in the same run, one JSON line a run."""
