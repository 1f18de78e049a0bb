"""Whatever puts events in: the application's telemetry, its frameworks, files."""
