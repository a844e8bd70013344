"""What else than the model differs between the sides of a comparison? Distances, indexes, quantization, texts that are cut; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.quantization import settings_of
from qdrant_model_migration.domain.search_template import QueryVector, Search


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A dense field as one side searches it."""

    label: str
    collection: Collection
    field: str
    template: Search | None = None

    @property
    def vector(self) -> VectorField | None:
        return self.collection.field(self.field)

    @property
    def quantization(self) -> str | None:
        """Kind of quantization of the field, its own or the collection's."""
        return next(iter(settings_of(self.collection).effective(self.field) or {}), None)

    @property
    def is_rescored(self) -> bool:
        """Whether the template has every search of the field look at the original vectors in the end, or leaves quantization aside."""
        if self.template is None:
            return False
        asked = [s for s in self.template.all() if isinstance(s.query, QueryVector) and (s.using or "") == self.field]
        params = [(s.params or {}).get("quantization") or {} for s in asked]
        return all(one.get("rescore") or one.get("ignore") for one in params)

    @property
    def states_ef(self) -> bool:
        """Whether the template says itself how far the index is searched."""
        if self.template is None:
            return False
        asked = [s for s in self.template.all() if isinstance(s.query, QueryVector) and (s.using or "") == self.field]
        return all((s.params or {}).get("hnsw_ef") or (s.params or {}).get("exact") for s in asked)

    def hnsw(self, key: str) -> int | None:
        """A setting of the field's index: its own, or the collection's."""
        own = (self.vector.config.get("hnsw_config") or {}).get(key) if self.vector is not None else None
        found = (self.collection.config.get("hnsw_config") or {}).get(key) if own is None else own
        return found if isinstance(found, int) else None


def differences(base: Searched, candidate: Searched) -> list[str]:
    """Notes on what the sides do not have in common; nothing where both are one field."""
    one, other = base.vector, candidate.vector
    if one is None or other is None or (base.collection.name, base.field) == (candidate.collection.name, candidate.field):
        return []
    notes = []
    if one.distance != other.distance:
        notes.append(
            f"{base.label!r} is searched by {one.distance}, {candidate.label!r} by {other.distance}: their scores cannot be compared, and none is. "
            "A score threshold in the app must be found anew."
        )
    parts = [
        f"{key} is {base.hnsw(key)} for {base.label!r} and {candidate.hnsw(key)} for {candidate.label!r}"
        for key in ("m", "ef_construct")
        if base.hnsw(key) != candidate.hnsw(key)
    ]
    if parts:
        default = "" if base.states_ef and candidate.states_ef else "; where no hnsw_ef is given, ef_construct is it"
        notes.append(
            f"The indexes are built differently: {' and '.join(parts)}{default}. That moves latency and index recall, not exact search."
        )
    if base.quantization != candidate.quantization:
        notes.append(
            f"Quantization differs: {base.quantization or 'none'} for {base.label!r}, {candidate.quantization or 'none'} for {candidate.label!r}."
        )
    return notes


def of_index(side: Searched) -> list[str]:
    """Notes on one side's index."""
    notes = []
    if side.hnsw("m") == 0:
        notes.append(f"{side.label!r} has no index (m=0): every search of it looks at all points.")
    elif (side.collection.config.get("optimizer_config") or {}).get("indexing_threshold") == 0:
        notes.append(
            f"Index building of {side.collection.name!r} is switched off (indexing_threshold=0): what it finds and how fast says nothing of the index to come."
        )
    if side.quantization is not None and side.template is not None and not side.is_rescored:
        notes.append(
            f"{side.label!r} is quantized ({side.quantization}), and search_template does not ask for rescoring (params.quantization: rescore, with oversampling): "
            "what that costs is counted against the model."
        )
    return notes


def cut_texts(label: str, tokens: Sequence[int], most: int) -> tuple[float, list[str]]:
    """Share of sampled documents that a model does not read to the end, and a note when there are some."""
    share = sum(count > most for count in tokens) / len(tokens)
    if not share:
        return 0.0, []
    return share, [
        f"{share:.0%} of {len(tokens)} sampled documents are longer than the {most:,} tokens that {label!r} reads: nothing beyond is found by it."
    ]
