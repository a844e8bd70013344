"""Did another writer put a wrong vector into the target? Every point that somebody else touched is embedded again, as far as operations are numbered.

One shard numbers its operations, and each point tells its last one: where that is ours, nobody wrote the point since we made its vector of
the text that it has. So what is wrong can only be among the others: a writer that was not changed and goes on with the old model, or
`set_payload` of a text whose vector was filled before. Several shards, a cluster and the embedded database do not number so; there the
first points that the backfill found in the target, and a random sample, must do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.operations.agreement import agreement, dense_cosine
from qdrant_model_migration.operations.sweep import has_numbers
from qdrant_model_migration.operations.work import Work

PAGE = 500
SAME_COSINE = 0.999
"""Of a copy of a vector with itself; float16 keeps that much."""
MOST_NAMED = 64
"""Wrong vectors that are compared with the old model's: enough to name the writer."""


@dataclass(kw_only=True)
class Others:
    """The points that others touched since we wrote or looked at them."""

    ids: list[PointId]
    mark: int | None = None
    """Number of an operation before the look: what is not above it is settled when all of these are right."""


async def others(work: Work, target: Collection) -> Others | None:
    """Every point that this tool cannot vouch for; None where operations are not numbered."""
    if work.target.connection.is_embedded or not has_numbers(target):
        return None
    mark = None if work.context.settings.is_read_only else await work.target.points.watermark(target.name)
    if mark is not None and mark < work.own.last:
        work.own.distrust()
    found = Others(ids=[], mark=mark)
    async for page in _ids(work, target):
        versions = await work.target.points.versions(target.name, page)
        found.ids += [i for i in page if i in versions and not work.own.vouches_for(versions[i])]
    return found


async def _ids(work: Work, target: Collection) -> AsyncIterator[list[PointId]]:
    offset: PointId | None = None
    while True:
        page, offset = await work.target.points.ids(target.name, offset=offset, limit=min(PAGE, target.page_limit or PAGE))
        yield page
        if offset is None:
            return


async def settle(work: Work, found: Others) -> None:
    """All of them were looked at and are right: they need no look again until somebody writes them."""
    if found.mark is not None:
        work.own.looked(found.mark)
        await work.save_own()


async def of_the_old_model(work: Work, wrong: Sequence[tuple[Point, str]]) -> str | None:
    """What most of the wrong vectors are, for a sentence: the old model by its name, or the source's own vectors; None: neither."""
    name, field = work.migration.current_model, work.made_field
    match = work.migration.source_match
    some = [(p, text) for p, text in wrong if p.vectors.get(field) is not None][:MOST_NAMED]
    if not some:
        return None
    if name is not None and match is not None and match.is_match:
        old = await work.context.any_model(name, work.migration.source.connection)
        if old.spec.dimensions == work.migration.spec.dimensions and old.spec.kind is work.migration.spec.kind:
            result = await agreement(old, [text for _, text in some], [p.vectors[field] for p, _ in some])
            if 2 * len(result.wrong) < len(some):
                return f"the old model {name!r}"
    if await _are_the_sources(work, [p for p, _ in some]):
        return f"{work.migration.source.collection!r}, those of the old model"
    return None


async def _are_the_sources(work: Work, wrong: Sequence[Point]) -> bool:
    """Whether most of them are the source's own vectors of the same points."""
    old = work.migration.dense_field
    if old is None or work.is_source_away or work.source_collection.field(old) is None:
        return False
    sources = await work.source.points.retrieve(work.migration.source.collection, [p.id for p in wrong], payload=False, vectors=[old])
    pairs = [(p.vectors[work.made_field], sources[p.id].vectors.get(old)) for p in wrong if p.id in sources]
    alike = sum(b is not None and np.shape(a) == np.shape(b) and dense_cosine(a, b) >= SAME_COSINE for a, b in pairs)
    return bool(2 * alike > len(wrong))
