"""How far is the work, and who does it? The answer of start_backfill, control_backfill and migration_status."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qdrant_model_migration.results.common import Wire, WriteResult


class Lag(Wire):
    """What the last pass over both collections found."""

    missing: int = 0
    extra: int = 0
    changed: int = 0
    at: str
    has_converged: bool = False
    is_full: bool = Field(
        default=True, description="false: only what `updated_at_field` says was written lately was read; deletes are for the next full pass"
    )


class Progress(Wire):
    stage: str
    total: int = 0
    read: int = 0
    written: int = 0
    skipped: int = Field(default=0, description="already in the target, or without text by the stated policy")
    failed: int = 0
    points_per_second: float | None = None
    eta_seconds: int | None = None
    lag: Lag | None = None
    tokens: int | None = None
    truncated: int = 0


class Worker(Wire):
    state: Literal["running", "stalled", "none"]
    host: str | None = None
    pid: int | None = None
    heartbeat_age_s: float | None = None
    log: str | None = None


class FailedPoint(Wire):
    point_id: str
    reason: str


class EventInfo(Wire):
    at: str
    event: str
    text: str


class StatusResult(WriteResult):
    migration_id: str
    phase: str
    error: str | None = None
    is_paused: bool = False
    is_filling: bool = Field(default=False, description="the readers have moved, and the new field is still being filled")
    coverage: float | None = Field(
        default=None, description="share of the points that hold a field which is filled after the copy, or in place"
    )
    source: str = ""
    target: str = ""
    strategy: str = ""
    model: str | None = None
    progress: Progress
    worker: Worker
    failed_points: list[FailedPoint] = []
    events: list[EventInfo] = []
    pace: dict[str, Any] = {}
