"""What is a migration, and what may be done with it when? The records of the ledger and the one table of phases."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import FieldKind, Json
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.texts_file import TextsFile
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, Lag, MapReport, Progress, RequantizeOutcome, SourceMatch, Verification


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
        _P.CUT_OVER: _P.CUT_OVER,
    },
    "converged": {_P.BACKFILLING: _P.BACKFILLED, _P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.VERIFIED},
    "verified": {_P.BACKFILLED: _P.VERIFIED, _P.VERIFIED: _P.VERIFIED, _P.CUT_OVER: _P.CUT_OVER},
    "found_incomplete": {_P.BACKFILLED: _P.BACKFILLED, _P.VERIFIED: _P.BACKFILLED, _P.CUT_OVER: _P.CUT_OVER},
    "swapped": {_P.VERIFIED: _P.CUT_OVER},
    "rolled_back": {_P.CUT_OVER: _P.ROLLED_BACK},
    "finished": {_P.VERIFIED: _P.FINISHED, _P.CUT_OVER: _P.FINISHED, _P.FINISHED: _P.FINISHED},
    "discarded": dict.fromkeys((_P.PLANNED, _P.TARGET_CREATED, _P.BACKFILLING, _P.BACKFILLED, _P.VERIFIED, _P.ROLLED_BACK), _P.ABANDONED),
}
"""Where an event leads from each phase in which it may happen."""

_OPEN = frozenset(Phase) - CLOSED
ALLOWED: dict[str, frozenset[Phase]] = {
    "start_backfill": frozenset(TRANSITIONS["started"]) - {_P.CUT_OVER},
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
"""Which call is allowed in which phase, where a new collection takes the place of the old one."""

ALLOWED_IN_PLACE: dict[str, frozenset[Phase]] = {
    "swap_alias:forward": frozenset(),
    "swap_alias:back": frozenset(),
    "finish_migration:keep_old": frozenset({_P.VERIFIED}),
    "finish_migration:delete_old": frozenset({_P.VERIFIED, _P.FINISHED}),
}
"""What differs in place: no alias moves, so that a migration ends where it is verified."""

ALLOWED_FILLING: dict[str, frozenset[Phase]] = {
    call: ALLOWED[call] | {_P.CUT_OVER} for call in ("start_backfill", "control_backfill", "repair_target")
}
"""What differs where a field is filled after the points were copied: that may be after the readers moved."""

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

    def described(self, *, with_connection: bool) -> str:
        """`'docs'`, or `'docs' on connection 'new'` where two servers are in question: they may hold collections of one name."""
        return f"{self.collection!r} on connection {self.connection!r}" if with_connection else repr(self.collection)

    def label(self, *, with_connection: bool) -> str:
        """As `described`, for a key: `docs`, or `new/docs`."""
        return f"{self.connection}/{self.collection}" if with_connection else self.collection


class Recipe(BaseModel):
    """How one vector field of the target gets its values."""

    model_config = ConfigDict(frozen=True)

    field: str
    kind: Literal["embed", "copy", "truncate", "linear_map"]
    source_field: str | None = None
    """The field of the source that is copied, cut or mapped, or that the embedding replaces or stands beside."""
    stage: Literal["insert", "fill"] = "insert"
    """Whether the value is written with the point, or afterwards into the points that lack it."""
    vector_kind: FieldKind = FieldKind.DENSE
    dimensions: int | None = None
    """Of the values; None for sparse vectors."""

    @property
    def is_derived(self) -> bool:
        """Computed from the point's own vectors, so that no text and no model is needed."""
        return self.kind in ("truncate", "linear_map")


class Gate(BaseModel):
    """A comparison that must pass before the swap: the candidate may lose at most `margin` on `metric`."""

    model_config = ConfigDict(frozen=True)

    metric: str
    margin: float


class Filled(BaseModel):
    """How far the field of stage 'fill' has come, at the last look."""

    model_config = ConfigDict(frozen=True)

    points: int
    with_vector: int
    without_text: int = 0
    at: str
    has_converged: bool = False
    """The last pass found nothing more to fill."""

    @property
    def share(self) -> float:
        """Of the points that hold the field; 1 for an empty collection."""
        return self.with_vector / self.points if self.points else 1.0


class Moved(BaseModel):
    """One alias of a cutover: where it pointed before, and where it points."""

    model_config = ConfigDict(frozen=True)

    alias: str
    previous: str | None
    current: str | None
    """None: the alias, which the cutover created on another server, is removed again."""


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
    source_swept: int | None = None
    """Every operation on the source up to this number was looked at by a sweep that ended: a point that only the source has and that was
    not written since was deleted through the alias."""
    source_changed_at: str | None = None
    """When the source was last seen to have been written to after the swap; for people, nothing is decided by it."""
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
    placement: Literal["new_collection", "in_place"] = "new_collection"
    """In place source and target are one collection: nothing is copied, and no alias moves."""
    source: Endpoint
    target: Endpoint
    recipes: tuple[Recipe, ...]
    model: ModelSpec | None = None
    """The model of the made field; None where only the configuration changes."""
    current_model: str | None = None
    source_match: SourceMatch | None = None
    text_field: str = ""
    """Where the texts are; empty where none is needed."""
    writes: Literal["frozen", "dual_write", "live"] = "live"
    readers: Literal["one_deploy", "rolling", "self_resolving"] = "one_deploy"
    on_missing_text: Literal["payload_only", "skip", "stop"] = "payload_only"
    on_long_text: Literal["truncate", "stop"] = "truncate"
    alias: str | None = None
    gate: Gate | None = None
    create: Json = {}
    """The creation request of the target, index building off; in place what is added to the collection."""
    previous: Json = {}
    """In place: the settings as they were, for taking a change back."""
    restore: Json = {}
    """Settings of the optimizer that end the bulk load."""
    on_cutover: Json = {}
    """Settings that would hinder the load (strict mode); applied right after the swap."""
    indexes: dict[str, Json] = {}
    intended: dict[str, str] = {}
    """Config paths that differ by plan, with the reason."""
    total_points: int = 0
    is_filling: bool = False
    """The points are there, and the field of stage 'fill' is being filled in them."""
    filled: Filled | None = None
    lag: Lag | None = None
    verification: Verification | None = None
    comparison: Comparison | None = None
    cutover: Cutover | None = None
    outcomes: dict[str, Json] = {}
    """What the plans that were carried out came to, by code, recorded together with the phase: a repetition is answered, not refused."""
    accepted: tuple[str, ...] = ()
    """Failures of a gate that a person agreed to with a plan."""
    app_changes: tuple[str, ...] = ()
    dense_field: str | None = None
    """The dense field of the source that is replaced, stood beside, combined with or quantized; None where there is no one such."""
    texts: TextsFile | None = None
    """The file that holds the texts, where the payloads do not."""
    sample_size: int | None = None
    """Points that a linear map is fitted and judged on."""
    fitted: MapReport | None = None
    """The linear map that makes the vectors, as it was measured; the map itself is kept beside this record."""
    quantization: Literal["scalar", "product", "binary", "off"] | None = None
    requantized: RequantizeOutcome | None = None

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
    def is_in_place(self) -> bool:
        return self.placement == "in_place"

    @property
    def is_across_servers(self) -> bool:
        """Source and target lie on different connections: the cutover is the app's change of connection."""
        return self.source.connection != self.target.connection

    @property
    def route(self) -> str:
        """From where to where, in one phrase; with the connections where there are two."""
        source, target = self.source, self.target
        if not self.is_across_servers:
            return f"{source.collection} -> {target.collection}"
        return f"{source.collection} on {source.connection!r} -> {target.collection} on {target.connection!r}"

    @property
    def made(self) -> Recipe | None:
        """The one recipe that makes a value instead of copying it; None where only the configuration changes."""
        return next((r for r in self.recipes if r.kind != "copy"), None)

    @property
    def making(self) -> Recipe:
        """The recipe that makes a value, where there must be one."""
        made = self.made
        assert made is not None, f"migration {self.id} makes no vector"
        return made

    @property
    def spec(self) -> ModelSpec:
        """The model of the made field, where there must be one."""
        assert self.model is not None, f"migration {self.id} has no model"
        return self.model

    @property
    def keeps_old_field(self) -> bool:
        """The old field stays queryable in the target under its old name, so that old queries go on being answered."""
        made = self.made
        if made is None or self.is_in_place or made.source_field is None:
            # A sparse or a token field replaces nothing: every field of the source is copied.
            return True
        return any(r.kind == "copy" and r.source_field == made.source_field for r in self.recipes)

    @property
    def has_fill_stage(self) -> bool:
        return self.made is not None and self.made.stage == "fill"

    @property
    def is_fill_due(self) -> bool:
        """The points are copied, and filling their new field has not been begun."""
        return self.has_fill_stage and not self.is_filling

    @property
    def serves_while_filled(self) -> bool:
        """The target is the collection that the app reads and writes: only missing vectors of the new field may be written to it."""
        return self.is_in_place or (self.has_fill_stage and not self.is_serving_source)

    @property
    def copies(self) -> list[Recipe]:
        return [r for r in self.recipes if r.kind == "copy"]

    def check_allows(self, call: str) -> None:
        """Refuse a call that this phase does not allow; `call` is a tool, or `tool:variant`."""
        allowed = self.phases_of(call)
        name = call.replace(":", " ")
        if not allowed:
            raise Refused(
                f"Nothing was changed: migration {self.id} changes {self.source.collection!r} in place, so no alias moves. Each reader changes by itself "
                "(app_changes of create_target); when all have, call finish_migration."
            )
        if self.phase not in allowed:
            phases = ", ".join(sorted(p.value for p in allowed))
            raise Refused(
                f"Nothing was changed: {name} is not possible for migration {self.id} in phase '{self.phase.value}' (it needs: {phases}). {self._instead}."
            )

    def phases_of(self, call: str) -> frozenset[Phase]:
        """The phases in which a call is allowed for this kind of migration."""
        if self.is_in_place and call in ALLOWED_IN_PLACE:
            return ALLOWED_IN_PLACE[call]
        if self.has_fill_stage and not self.is_in_place and call in ALLOWED_FILLING:
            return ALLOWED_FILLING[call]
        return ALLOWED[call]

    @property
    def _instead(self) -> str:
        if self.is_in_place and self.phase is Phase.VERIFIED:
            return "Call finish_migration when every reader has changed"
        return _INSTEAD[self.phase]

    def after(self, event: Event) -> Phase:
        """The phase an event leads to.

        Raises:
            Refused: the event cannot happen in this phase.
        """
        found = TRANSITIONS[event].get(self.phase)
        if found is None:
            raise Refused(f"Migration {self.id} is in phase '{self.phase.value}', where '{event}' cannot happen. {self._instead}.")
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
