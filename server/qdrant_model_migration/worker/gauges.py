"""What does a worker tell whoever measures it? Its progress, as gauges of OpenTelemetry, which nobody reads unless telemetry is configured."""

from __future__ import annotations

from opentelemetry import metrics

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.results import Progress
from qdrant_model_migration.telemetry import NAME

_METER = metrics.get_meter(NAME)
_POINTS = {
    name: _METER.create_gauge(f"qdrant_model_migration.points.{name}", unit="{point}", description=text)
    for name, text in {
        "total": "Points of the source",
        "read": "Points that the present stage has looked at",
        "written": "Points written by the backfill",
        "skipped": "Points that the target held already, or that have no text",
        "failed": "Points that could not be embedded",
    }.items()
}
_RATE = _METER.create_gauge("qdrant_model_migration.rate", unit="{point}/s", description="Points a second over the last half minute")
_LAG = _METER.create_gauge(
    "qdrant_model_migration.lag", unit="{point}", description="Points in which the target differed, as the last pass found it"
)


def tell(migration: Migration, progress: Progress) -> None:
    """Set them. A gauge keeps its last value for each set of attributes: one that went with phase or stage would be told for ever."""
    of = {"migration.id": migration.id}
    for name, gauge in _POINTS.items():
        gauge.set(getattr(progress, name) or 0, of)
    if progress.points_per_second is not None:
        _RATE.set(progress.points_per_second, of)
    if migration.lag is not None:
        lag = migration.lag
        _LAG.set(lag.missing + lag.extra + lag.changed, of)
