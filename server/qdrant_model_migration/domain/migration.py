"""What is a migration, and what may be done with it when? The records of the ledger and the one table of phases."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, Lag, Progress, SourceMatch, Verification


class Phase(StrEnum):
    PLANNED = "planned"
    TARGET_CREATED = "target_created"
    BACKFILLING = "backfilling"
    BACKFILLED = "backfilled"
    VERIFIED = "verified"
    CUT_OVER = "cut_over"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"
    ABANDONED = "abandoned"


CLOSED = frozenset({Phase.FINISHED, Phase.ABANDONED})

Event = Literal["created", "started", "converged", "verified", "found_incomplete", "swapped", "rolled_back", "finished", "discarded"]

_P = Phase
TRANSITIONS: dict[Event, dict[Phase, Phase]] = {
    "created": {_P.PLANNED: _P.TARGET_CREATED},
    "started": {
        _P.TARGET_CREATED: _P.BACKFILLING,
        _P.BACKFILLING: _P.BACKFILLING,
        _P.BACKFILLED: _P.BACKFILLED,
        _P.VERIFIED: _P.VERIFIED,
        _P.ROLLED_BACK: _P.BACKFILLING,
    },
    "converged": {_P.BACKFILLING: _P.BACKFILLED, _P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.VERIFIED},
    "verified": {_P.BACKFILLED: _P.VERIFIED, _P.VERIFIED: _P.VERIFIED, _P.CUT_OVER: _P.CUT_OVER},
    "found_incomplete": {_P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.BACKFILLED, _P.CUT_OVER: _P.CUT_OVER},
    "swapped": {_P.VERIFIED: _P.CUT_OVER},
    "rolled_back": {_P.CUT_OVER: _P.ROLLED_BACK},
    "finished": {_P.CUT_OVER: _P.FINISHED, _P.FINISHED: _P.FINISHED},
    "discarded": dict.fromkeys((_P.PLANNED, _P.TARGET_CREATED, _P.BACKFILLING, _P.BACKFILLED, _P.VERIFIED, _P.ROLLED_BACK), _P.ABANDONED),
}
"""Where an event leads from each phase in which it may happen."""

_OPEN = frozenset(Phase) - CLOSED
ALLOWED: dict[str, frozenset[Phase]] = {
    "start_backfill": frozenset(TRANSITIONS["started"]),
    "control_backfill": frozenset({_P.TARGET_CREATED, _P.BACKFILLING, _P.BACKFILLED, _P.VERIFIED}),
    "verify_target": frozenset({_P.BACKFILLED, _P.VERIFIED, _P.CUT_OVER}),
    "repair_target": frozenset({_P.BACKFILLED, _P.VERIFIED}),
    "compare_models": frozenset({_P.BACKFILLED, _P.VERIFIED, _P.CUT_OVER, _P.ROLLED_BACK}),
    "swap_alias:forward": frozenset({_P.VERIFIED}),
    "swap_alias:back": frozenset({_P.CUT_OVER}),
    "finish_migration:keep_old": frozenset({_P.CUT_OVER}),
    "finish_migration:delete_old": frozenset({_P.CUT_OVER, _P.FINISHED}),
    "finish_migration:discard_new": frozenset(TRANSITIONS["discarded"]),
}
"""Which call is allowed in which phase."""

_INSTEAD: dict[Phase, str] = {
    _P.PLANNED: "Repeat create_target with the same arguments: its target was not finished",
    _P.TARGET_CREATED: "Call start_backfill",
    _P.BACKFILLING: "Wait until migration_status reports 'backfilled'",
    _P.BACKFILLED: "Call verify_target",
    _P.VERIFIED: "Call compare_models or swap_alias",
    _P.CUT_OVER: "Call finish_migration, or swap_alias with direction='back'",
    _P.FINISHED: "It is over; start a new migration with create_target",
    _P.ROLLED_BACK: "Call start_backfill to bring the target up to date, or finish_migration with action='discard_new'",
    _P.ABANDONED: "It is over; start a new migration with create_target",
}


class Endpoint(BaseModel):
    """One side: a named connection and a collection (never an alias)."""

    model_config = ConfigDict(frozen=True)

    connection: str = "default"
    collection: str


class Recipe(BaseModel):
    """How one vector field of the target gets its values."""

    model_config = ConfigDict(frozen=True)

    field: str
    kind: Literal["embed", "copy"]
    source_field: str | None = None
    """The field of the source that is copied, or replaced by the embedding."""


class Gate(BaseModel):
    """A comparison that must pass before the swap: the candidate may lose at most `margin` on `metric`."""

    model_config = ConfigDict(frozen=True)

    metric: str
    margin: float


class Moved(BaseModel):
    """One alias of a cutover: where it pointed before, and where it points."""

    model_config = ConfigDict(frozen=True)

    alias: str
    previous: str | None
    current: str


class Cutover(BaseModel):
    """What the swap did; the rollback reads it."""

    model_config = ConfigDict(frozen=True)

    moves: tuple[Moved, ...]
    at: str
    source_watermark: int | None = None
    """Number of the last operation on the source before the swap; later ones are late writes."""
    target_watermark: int | None = None
    source_seen: int | None = None
    """Number of our last no-op on the source: later operations have not been looked at yet."""
    carried: dict[str, tuple[int, int]] = {}
    """What this tool itself wrote to the target around the swap: point -> the numbers of that operation, and of the source's last one then.
    A point whose last operation is ours was not written through the alias since."""


class Migration(BaseModel):
    """One source-to-target change."""

    model_config = ConfigDict(frozen=True)

    id: str
    arguments_digest: str
    created_at: str
    phase: Phase = Phase.PLANNED
    error: str | None = None
    intent: str | None = None
    """A step in progress, recorded before it began: resumed or undone after a crash."""
    strategy: str
    source: Endpoint
    target: Endpoint
    recipes: tuple[Recipe, ...]
    model: ModelSpec
    current_model: str | None = None
    source_match: SourceMatch | None = None
    text_field: str
    writes: Literal["frozen", "dual_write", "live"] = "live"
    readers: Literal["one_deploy", "rolling", "self_resolving"] = "one_deploy"
    on_missing_text: Literal["payload_only", "skip", "stop"] = "payload_only"
    on_long_text: Literal["truncate", "stop"] = "truncate"
    alias: str | None = None
    gate: Gate | None = None
    create: Json
    """The creation request of the target, index building off."""
    restore: Json
    """Settings of the optimizer that end the bulk load."""
    on_cutover: Json = {}
    """Settings that would hinder the load (strict mode); applied right after the swap."""
    indexes: dict[str, Json] = {}
    intended: dict[str, str] = {}
    """Config paths that differ by plan, with the reason."""
    total_points: int = 0
    lag: Lag | None = None
    verification: Verification | None = None
    comparison: Comparison | None = None
    cutover: Cutover | None = None
    outcomes: dict[str, Json] = {}
    """What the plans that were carried out came to, by code, recorded together with the phase: a repetition is answered, not refused."""
    accepted: tuple[str, ...] = ()
    """Failures of a gate that a person agreed to with a plan."""
    app_changes: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.phase not in CLOSED

    @property
    def is_serving_source(self) -> bool:
        """Whether readers and writers are still with the source; afterwards nothing copies over what the app writes to the target."""
        return (
            self.cutover is None or self.phase is Phase.ROLLED_BACK or self.phase in (Phase.BACKFILLING, Phase.BACKFILLED, Phase.VERIFIED)
        )

    @property
    def embed(self) -> Recipe:
        """The recipe that embeds."""
        return next(r for r in self.recipes if r.kind == "embed")

    @property
    def copies(self) -> list[Recipe]:
        return [r for r in self.recipes if r.kind == "copy"]

    def check_allows(self, call: str) -> None:
        """Refuse a call that this phase does not allow; `call` is a tool, or `tool:variant`."""
        if self.phase not in ALLOWED[call]:
            phases = ", ".join(sorted(p.value for p in ALLOWED[call]))
            name = call.replace(":", " ")
            raise Refused(
                f"Nothing was changed: {name} is not possible for migration {self.id} in phase '{self.phase.value}' (it needs: {phases}). {_INSTEAD[self.phase]}."
            )

    def after(self, event: Event) -> Phase:
        """The phase an event leads to.

        Raises:
            Refused: the event cannot happen in this phase.
        """
        found = TRANSITIONS[event].get(self.phase)
        if found is None:
            raise Refused(f"Migration {self.id} is in phase '{self.phase.value}', where '{event}' cannot happen. {_INSTEAD[self.phase]}.")
        return found


class Pace(BaseModel):
    """What the person asks of a running backfill; changed while it runs."""

    model_config = ConfigDict(frozen=True)

    is_paused: bool = False
    points_per_second: float | None = None
    concurrency: int | None = None
    max_source_latency_ms: float | None = None
    max_failed_points: int = 100
    max_cost_usd: float | None = None


OperationKind = Literal["verify", "repair", "compare", "swap", "finish"]


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
    text: str = ""
    """What the person is asked, in one sentence."""
    overrides: tuple[str, ...] = ()


class EventRecord(BaseModel):
    """One line of the audit trail."""

    model_config = ConfigDict(frozen=True)

    at: str
    event: str
    text: str


class FailedRecord(BaseModel):
    """An accounted point: it failed or was skipped by a stated policy."""

    model_config = ConfigDict(frozen=True)

    point_id: str
    reason: str
    is_stored: bool
    """Whether the target holds its payload (without the new vector)."""
