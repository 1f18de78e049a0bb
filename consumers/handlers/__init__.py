"""Handlers: pure folds of events into state. They know neither the runtime nor each other."""
