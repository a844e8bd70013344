"""What is a migration? Everything that is recorded of it, and what may be done with it as it stands."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.fence import Fence
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.phases import ALLOWED, ALLOWED_FILLING, ALLOWED_IN_PLACE, CLOSED, INSTEAD, TRANSITIONS, Event, Phase
from qdrant_model_migration.domain.recipe import Cutover, Endpoint, Filled, Gate, Recipe
from qdrant_model_migration.domain.texts_file import TextsFile
from qdrant_model_migration.domain.updated_at import UpdatedAt
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, Lag, MapReport, RequantizeOutcome, SourceMatch, Verification


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
    framework: str | None = None
    """What wrote the source's payloads, where they bear its marks: the app's code is written in its words."""
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
    updated_at: UpdatedAt | None = None
    """The payload field that tells when a point was written; catch-up passes between full ones read by it."""
    total_points: int = 0
    is_filling: bool = False
    """The points are there, and the field of stage 'fill' is being filled in them."""
    filled: Filled | None = None
    lag: Lag | None = None
    verification: Verification | None = None
    comparison: Comparison | None = None
    cutover: Cutover | None = None
    fence: Fence | None = None
    """Writers of a collection are being made to wait; lifted by whoever drives next, should its driver have died."""
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
        return INSTEAD[self.phase]

    def after(self, event: Event) -> Phase:
        """The phase an event leads to.

        Raises:
            Refused: the event cannot happen in this phase.
        """
        found = TRANSITIONS[event].get(self.phase)
        if found is None:
            raise Refused(f"Migration {self.id} is in phase '{self.phase.value}', where '{event}' cannot happen. {self._instead}.")
        return found
