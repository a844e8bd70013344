"""Does the new model search as well as the old, or the added field better than none? The sides of a migration after its backfill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison import check_arguments, compared
from qdrant_model_migration.domain.comparison_sides import Asked, SidePlan, sides_of
from qdrant_model_migration.domain.metrics import Run, depth
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import unlike_planned
from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.queries import QuerySet
from qdrant_model_migration.domain.search_template import parsed
from qdrant_model_migration.domain.texts import NoTexts, Texts, UnreadableTexts
from qdrant_model_migration.embedders.base import AnyEmbedder
from qdrant_model_migration.errors import ModelNotUsable, Refused
from qdrant_model_migration.operations.compare_answer import SHOWN, comparison_of, distinct
from qdrant_model_migration.operations.confounding import confounders
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.queries import check_sources, generated, past, read_queries, with_points
from qdrant_model_migration.operations.scratch import Report
from qdrant_model_migration.operations.sides import Field, SearchedSide, measure_index, questions, search_all, texts_of
from qdrant_model_migration.operations.slicing import check_slice_field, slices_of
from qdrant_model_migration.operations.templating import check_answers, with_template
from qdrant_model_migration.operations.work import texts_of_migration
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import Comparison


async def compare_migration(
    context: OperationContext,
    migration: Migration,
    *,
    queries: Sequence[object] | None = None,
    queries_file: str | None = None,
    qrels_file: str | None = None,
    queries_field: str | None = None,
    id_field: str | None = None,
    search_template: str | Mapping[str, Any] | None = None,
    slice_field: str | None = None,
    k: int = 10,
    margin: float = 0.01,
    seed: int = 0,
    progress: Report | None = None,
) -> Comparison:
    """What was searched before against what the migration made: the sides that `domain.comparison_sides` names. Reads only.

    Quality is measured by exact search, or with a `search_template` by the search that the app makes; the index of each side, and its
    latency, beside it. `id_field` names the payload field that holds the ids of the judgements, or says 'point'.

    Raises:
        Refused: the old model is unknown or does not match the source's vectors, the new field is not filled, no model changes, or an
            argument cannot be used.
        MigrationError: Qdrant or a model failed.
    """
    check_arguments(k, margin)
    check_slice_field(slice_field)
    check_sources(queries, queries_file, queries_field)
    limit = depth(k, migration.gate)
    template = None if search_template is None else parsed(search_template)
    plans = sides_of(migration)
    raw, notes, origin = await read_queries(context.settings, queries, queries_file, qrels_file)
    sides = await _opened(context, migration, plans)
    for side in sides:
        if side.collection.page_limit is not None and side.collection.page_limit < limit:
            raise Refused(
                f"Nothing was compared: the strict mode of {side.collection.name!r} returns at most {side.collection.page_limit} points; {limit} are needed."
            )
    if template is not None:
        sides, about = await with_template(template, plans, sides, k)
        notes += about
    base, text = sides[0], await texts_of_migration(context, migration)
    if queries_field is not None:
        chosen = await past(context, base.gateway, base.collection, queries_field, seed)
    elif raw is None:
        chosen = await _generated(base, migration, text, seed)
    else:
        chosen = await with_points(base.gateway, base.collection, raw, origin, id_field)
    if template is not None:
        await check_answers(sides, chosen.queries[0], limit)
    asked = await questions(sides, chosen.queries, progress)
    runs = [await search_all(side, vectors, limit, progress) for side, vectors in zip(sides, asked, strict=True)]
    latencies, recalls, index_notes = await measure_index(sides, asked, runs, [q.id for q in chosen.queries], k, progress)
    others, cut = await confounders(sides, asked, runs, recalls, text, k)
    outcome = await anyio.to_thread.run_sync(
        lambda: compared(chosen.queries, runs[0], runs[1:], basis=chosen.basis, k=k, margin=margin, gate=migration.gate, seed=seed)
    )
    parts = await slices_of(base.gateway, base.collection, slice_field, chosen, runs[0], outcome, k=k, margin=margin, seed=seed)
    changed = [change.query.id for change in outcome.changes]
    texts = {side.label: await _texts_shown(side, run, changed, text) for side, run in zip(sides, runs, strict=True)}
    notes = [*notes, *parts.pop("notes", []), *await _notes(migration, sides), *index_notes, *others]
    found = comparison_of(outcome, chosen, runs, texts=texts, k=k, margin=margin, documents=base.collection.points, notes=notes)
    how = "exact" if template is None else "template"
    return found.model_copy(update={"latency_ms": latencies, "index_recall": recalls, "searched": how, "truncated": cut, **parts})


async def _opened(context: OperationContext, migration: Migration, plans: Sequence[SidePlan]) -> list[SearchedSide]:
    """The sides with their connections, their collections as they are, and their models loaded."""
    ends = {"source": migration.source, "target": migration.target}
    gateways: dict[str, Gateway] = {}
    found: dict[str, Collection] = {}
    for where in {plan.where: None for plan in plans}:
        gateways[where] = await context.gateway(ends[where].connection)
        found[where] = await gateways[where].describe(ends[where].collection)

    async def field(asked: Asked, where: str) -> Field:
        loaded = await context.awaited_model(asked.model, ends[where].connection)
        if asked.model == migration.spec.name:
            _check_is_planned(migration, loaded)
        return Field(name=asked.field, embedder=loaded)

    return [
        SearchedSide(
            label=label,
            gateway=gateways[plan.where],
            collection=found[plan.where],
            dense=await field(plan.dense, plan.where),
            how=plan.how,
            added=None if plan.added is None else await field(plan.added, plan.where),
        )
        for plan, label in zip(plans, distinct([plan.label for plan in plans]), strict=True)
    ]


def _check_is_planned(migration: Migration, loaded: AnyEmbedder) -> None:
    unlike = unlike_planned(migration.spec, loaded.spec)
    if unlike is not None:
        raise ModelNotUsable(
            f"Nothing was compared: model {migration.spec.name!r} on this machine is not the one that migration {migration.id} was planned with: {unlike}."
        )


async def _generated(base: SearchedSide, migration: Migration, text: Texts, seed: int) -> QuerySet:
    if isinstance(text, NoTexts):
        raise Refused(
            f"Nothing was compared: migration {migration.id} knows no texts, so no queries can be made from them. Give 'queries' or 'queries_file'."
        )
    return await generated(base.gateway, base.collection, text, seed)


async def _texts_shown(side: SearchedSide, run: Run, changed: Sequence[str], text: Texts) -> dict[PointId, str]:
    """Texts of the best hits of the queries that changed; none where the file that holds them is gone, which spoils no finding."""
    if isinstance(text, UnreadableTexts):
        return {}
    return await texts_of(side, [point for query in changed for point in run.found.get(query, ())[:SHOWN]], text)


async def _notes(migration: Migration, sides: Sequence[SearchedSide]) -> list[str]:
    base, candidate = sides
    one, other = base.collection, candidate.collection
    notes = []
    if one is not other and one.points != other.points:
        notes.append(
            f"{one.name!r} holds {one.points:,} points and {other.name!r} {other.points:,}: what is missing cannot be found. Call verify_target."
        )
    if migration.has_fill_stage:
        missing = await candidate.gateway.vectors.count_missing(other.name, migration.making.field)
        if missing:
            notes.append(f"{missing:,} of {other.points:,} points have no vector {migration.making.field!r}, and cannot be found by it.")
    return notes
