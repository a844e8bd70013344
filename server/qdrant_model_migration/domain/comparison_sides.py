"""What is asked of which collection when a migration is compared? Two searches, or the reason why there can be none; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import IndexRecall

How = Literal["dense", "hybrid", "rerank"]
PREFETCH = 100
"""Hits of each search that a fusion or a reranking begins with."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A vector field, and the model that makes the queries to it."""

    field: str
    model: str


@dataclass(frozen=True, kw_only=True)
class SidePlan:
    """One side: a dense search, alone or together with the field that a migration added."""

    where: Literal["source", "target"]
    dense: Asked
    how: How = "dense"
    added: Asked | None = None
    """The sparse field of a fusion, or the multivector field of a reranking."""

    @property
    def label(self) -> str:
        """What is compared, for people."""
        return labelled(self.dense.model, self.how, None if self.added is None else self.added.model)


_FUSED, _RERANKED = " + ", ", reranked by "


def labelled(dense: str, how: How, added: str | None) -> str:
    """The name of a search by one model or two, for people."""
    if added is None:
        return dense
    return f"{dense}{_FUSED}{added} (RRF)" if how == "hybrid" else f"{dense}{_RERANKED}{added}"


def dense_part(label: str) -> str:
    """The dense model of a label, also of one that was told apart from an equal one."""
    return label.partition(_RERANKED)[0].partition(_FUSED)[0].partition(" (#")[0]


def sides_of(migration: Migration) -> tuple[SidePlan, SidePlan]:
    """Baseline and candidate.

    Raises:
        Refused: nothing can be compared now; with the numbers and with what to do instead.
    """
    why = refusal(migration)
    if why is not None:
        raise Refused(f"Nothing was compared: {why}")
    made, model, old = migration.making, migration.spec, migration.current_model or ""
    added = Asked(field=made.field, model=model.name)
    if model.kind is not ModelKind.DENSE:
        # Both on the target: the dense vectors there are copies, so that what differs is the added field alone.
        dense = Asked(field=migration.dense_field or "", model=old)
        how: How = "hybrid" if model.kind is ModelKind.SPARSE else "rerank"
        return SidePlan(where="target", dense=dense), SidePlan(where="target", dense=dense, how=how, added=added)
    has_both = migration.is_in_place or (migration.phase is Phase.CUT_OVER and migration.keeps_old_field)
    baseline = SidePlan(where="target" if has_both else "source", dense=Asked(field=migration.dense_field or "", model=old))
    return baseline, SidePlan(where="target", dense=added)


def refusal(migration: Migration) -> str | None:
    """Why a migration cannot be compared now, from its record alone; None when it can."""
    if migration.made is None:
        return _requantized(migration)
    return _unfilled(migration) or _unknown_baseline(migration)


def _requantized(migration: Migration) -> str:
    found = migration.requantized
    text = f"migration {migration.id} changes no model, only the quantization of {migration.source.collection!r}. "
    if found is None:
        return text + "What that costs is the recall before and after it, which start_backfill measures."
    if found.before is None or found.after is None:
        one = _recall(found.before or found.after)
        return text + f"start_backfill measured only one side of it: {one}."
    return text + f"What that costs was measured by start_backfill: {_recall(found.before)} before, {_recall(found.after)} after."


def _recall(found: IndexRecall | None) -> str:
    if found is None:
        return "nothing, as no vector could be searched"
    return f"recall@{found.k} {found.recall:.3f} ({found.ci_low:.3f} to {found.ci_high:.3f}, {found.quantization or 'not quantized'}, {found.queries} queries)"


def _unfilled(migration: Migration) -> str | None:
    """Points without the new vector cannot be found by it: a comparison would blame the model."""
    if not migration.has_fill_stage:
        return None
    field, filled = migration.making.field, migration.filled
    call = f"start_backfill(migration_id={migration.id!r})"
    if migration.is_fill_due or filled is None:
        held = filled.with_vector if filled is not None else 0
        total = filled.points if filled is not None else migration.total_points
        return f"{field!r} was not filled yet: {held:,} of {total:,} points of {migration.target.collection!r} hold it. Call {call} first."
    if filled.has_converged or filled.share == 1:
        return None
    return (
        f"{field!r} is not filled yet: {filled.with_vector:,} of {filled.points:,} points of {migration.target.collection!r} hold it "
        f"({filled.share:.1%}). Wait until migration_status says that it is; if no worker runs, call {call}."
    )


def _unknown_baseline(migration: Migration) -> str | None:
    """The old model is compared only when its vectors are known to be those of the source."""
    source, old, match = migration.source.collection, migration.current_model, migration.source_match
    assert migration.model is not None, f"migration {migration.id} has no model"
    if migration.model.kind is ModelKind.DENSE:
        instead = (
            f"Judged queries do not help: without the old model nothing can be asked of {source!r}. "
            f"Compare candidates on a sample instead: compare_models(collection={source!r}, models=[...]), or start over with the right current_model."
        )
    else:
        instead = (
            "A comparison asks the dense vectors alone and together with the new field, and both need the model that made the dense ones. End this "
            f"migration with finish_migration(migration_id={migration.id!r}, action='discard_new') and start over with the right current_model, or "
            "measure it in the app with its own queries."
        )
    if old is None:
        missing = "current_model"
        if migration.model.kind is not ModelKind.DENSE and migration.dense_field is None:
            missing = "vector, which names the dense field that goes with the new one"
        elif migration.making.kind == "truncate":
            missing = "text_field or texts_file, by which current_model would have been tested"
        return f"migration {migration.id} was created without {missing}, so the baseline is unknown. {instead}"
    if match is None:
        return f"it was never tested that {old!r} made the vectors of the source. {instead}"
    if not match.is_match:
        cosine = (
            "no text to test with"
            if match.mean_cosine is None
            else f"mean cosine {match.mean_cosine:.4f} over {match.sampled} texts, {match.threshold:g} needed"
        )
        causes = f" Likely causes: {'; '.join(match.likely_causes)}." if match.likely_causes else ""
        return f"{old!r} does not reproduce the vectors of the source ({cosine}).{causes} {instead}"
    return None
