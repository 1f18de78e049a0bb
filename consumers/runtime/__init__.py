"""The runtime: read, fold, commit, lease, housekeep. It knows no handler by name."""
