"""The command line: one module a noun. What it prints is decided here, what it reads is not."""
