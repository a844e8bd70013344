"""A collector of OpenTelemetry of the tests' own: takes OTLP over HTTP on loopback, and gives back what it was sent."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.loopback import SilentHandler, listening


class Collector:
    """What arrived so far, in order."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.bodies: list[bytes] = []
        self.url = ""

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path.endswith("/v1/traces"):
            self.traces.append(ExportTraceServiceRequest.FromString(body))
        elif path.endswith("/v1/metrics"):
            self.metrics.append(ExportMetricsServiceRequest.FromString(body))

    def spans(self) -> list[tuple[str, str, dict[str, str]]]:
        """(service, span, attributes that are strings)."""
        return [
            (service_of(group.resource.attributes), span.name, {a.key: a.value.string_value for a in span.attributes})
            for request in self.traces
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def gauges(self) -> list[tuple[str, dict[str, str], float]]:
        """(gauge, attributes, value)."""
        return [
            (metric.name, {a.key: a.value.string_value for a in point.attributes}, point.as_double or float(point.as_int))
            for request in self.metrics
            for group in request.resource_metrics
            for scope in group.scope_metrics
            for metric in scope.metrics
            for point in metric.gauge.data_points
        ]


def service_of(attributes: object) -> str:
    return next((a.value.string_value for a in attributes if a.key == "service.name"), "")  # type: ignore[attr-defined]


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(SilentHandler):
        def do_POST(self) -> None:  # noqa: N802 - the base class names it
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.take(self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as collector.url:
        yield collector
