"""What does the ledger keep beside a migration? Its pace, its lease, operations, plans, events, accounted points and evidence."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.results import Progress


class Pace(BaseModel):
    """What the person asks of a running backfill; changed while it runs."""

    model_config = ConfigDict(frozen=True)

    is_paused: bool = False
    points_per_second: float | None = None
    concurrency: int | None = None
    max_source_latency_ms: float | None = None
    max_failed_points: int = 100
    max_cost_usd: float | None = None
    executor: Literal["local", "ray"] = "local"


OperationKind = Literal["fit", "verify", "repair", "compare", "swap", "finish"]


class Operation(BaseModel):
    """Work that outlives a call: recorded, carried out by the driver, attached to by its key."""

    model_config = ConfigDict(frozen=True)

    key: str
    kind: OperationKind
    arguments: dict[str, Any] = {}
    state: Literal["requested", "running", "done", "failed"] = "requested"
    requested_at: str
    finished_at: str | None = None
    progress: Progress | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    is_refusal: bool = False
    is_delivered: bool = False
    """Whether a caller was given the outcome; the next call then starts anew."""
    attempts: int = 0
    """How often a driver began it; one that kills its driver again and again is given up."""


class Lease(BaseModel):
    """Who works the migration. The holder renews; an observer who sees `beat` unchanged for `lease_s` may take it."""

    model_config = ConfigDict(frozen=True)

    owner: str | None = None
    epoch: int = 0
    """Rises with every change of owner."""
    beat: int = 0
    lease_s: float = 30.0
    host: str | None = None
    pid: int | None = None
    identity: str | None = None
    """Host, boot, process-id namespace, pid and start time, where the system tells: a dead owner is known at once."""
    log: str | None = None
    at: str | None = None
    progress: Progress | None = None


class PlanRecord(BaseModel):
    """A plan shown to a person, kept until it is carried out, expires or no longer fits."""

    model_config = ConfigDict(frozen=True)

    code: str
    kind: Literal["swap", "finish"]
    facts_digest: str
    arguments: dict[str, Any]
    expires_at: float
    """Seconds since the epoch."""
    is_used: bool = False
    wrong_codes: int = 0
    """Codes that nobody issued, passed for this migration since the plan was made."""
    text: str = ""
    """What the person is asked, in one sentence."""
    overrides: tuple[str, ...] = ()


class EventRecord(BaseModel):
    """One line of the audit trail."""

    model_config = ConfigDict(frozen=True)

    at: str
    event: str
    text: str


class Evidence(BaseModel):
    """What a comparison of two models on a sample of a collection found, before there is a migration."""

    model_config = ConfigDict(frozen=True)

    baseline: str
    candidate: str
    verdict: str | None
    text: str
    at: str


class HeldOut(BaseModel):
    """The points that a linear map was judged on."""

    model_config = ConfigDict(frozen=True)

    point_ids: tuple[str, ...]


class FailedRecord(BaseModel):
    """An accounted point: it failed or was skipped by a stated policy."""

    model_config = ConfigDict(frozen=True)

    point_id: str
    reason: str
    is_stored: bool
    """Whether the target holds its payload (without the new vector)."""
