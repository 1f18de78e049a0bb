"""Spans to Logfire or any other OTLP backend; the one door to OTLP. The cursor moves after the far side said yes."""

from consumers.sinks.export.settings import ExportSettings, from_environ, off_reason
from consumers.sinks.export.sink import ExportSink, ExportStatistics
from consumers.sinks.export.spans import Price
from consumers.sinks.export.transport import NotDeliveredError

__all__ = [
    "ExportSettings",
    "ExportSink",
    "ExportStatistics",
    "NotDeliveredError",
    "Price",
    "from_environ",
    "off_reason",
]
