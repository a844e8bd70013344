"""What is a migration made of? Its sides, its recipes, its gate, and what filling and cutover came to."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.own_operations import OwnRecord
from qdrant_model_migration.results import WriteGap


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
    tokens: int = 0
    """Embedded for it so far, by every driver, as far as they came to record it."""
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
    returned: WriteGap | None = None
    """What of the writes that the target got while it served a rollback carried back."""
    have_writers_waited: bool = False
    """The app could not write to the target between that and the move of the aliases."""
    conflicts: tuple[str, ...] = ()
    """Points that a rollback left as they were on each side: the target holds a write that exists nowhere else."""
    agreed_deletes: int = 0
    """So many points that are gone from the target the person agreed to lose in the source as well."""
    returned_to: dict[str, tuple[int, int]] = {}
    """What this tool itself wrote to the source for a rollback: point -> the numbers of that operation, and of the target's last one then; the
    last some thousands."""
    returned_operations: OwnRecord = OwnRecord()
    """The numbers of all those operations on the source."""
    settled_at: int | None = None
    """Number of the target's last operation when everything up to it had been carried back or listed: its mark once the aliases have moved."""

    def returned_of(self, point_id: str, source: int | None) -> tuple[int, int] | None:
        """As `returned_to` of a tagged point whose last operation on the source has this number; of the target's number nothing (0) may be left."""
        if source is not None and source in self.returned_operations:
            held = self.returned_to.get(point_id)
            return held if held is not None and held[0] == source else (source, 0)
        return self.returned_to.get(point_id)
