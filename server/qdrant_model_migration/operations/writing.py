"""How does a point of the source become one of the target? Recipes carried out, and the guarded writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio

from qdrant_model_migration.domain.migration import FailedRecord
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.errors import BatchTooLarge, MigrationError, Refused
from qdrant_model_migration.operations.work import Work

UPSERT_POINTS = 64
CONCURRENT_UPSERTS = 4


@dataclass(kw_only=True)
class Made:
    """Points ready to be written, and what was met on the way."""

    points: list[Point] = field(default_factory=list)
    failed: list[FailedRecord] = field(default_factory=list)
    without_text: int = 0
    tokens: int = 0
    truncated: int = 0


async def make_points(work: Work, sources: Sequence[Point], *, is_stopping: Callable[[], bool]) -> Made:
    """Apply the recipes: ids and payloads as they are, copied vectors as they are, texts embedded with the new model.

    Raises:
        Refused: a text is missing or too long and the stated policy is to stop.
        Interrupted, TransientEmbedding, ModelNotUsable: see `embed_resilient`.
    """
    made = Made()
    migration, source_text = work.migration, work.text
    texts = [source_text.extract(p.payload) for p in sources]
    present = [i for i, text in enumerate(texts) if text is not None]
    if len(present) < len(texts) and migration.on_missing_text == "stop":
        first = next(i for i, text in enumerate(texts) if text is None)
        raise Refused(
            f"The backfill stopped, nothing is lost: point {tag(sources[first].id)} holds no text at {migration.text_field!r}, "
            "and the migration was created with on_missing_text='stop'."
        )
    embedder = await work.embedder()
    wanted = [texts[i] or "" for i in present]
    counts = await embedder.count_tokens(wanted) if wanted else []
    limit = embedder.spec.max_tokens
    if counts is not None:
        made.tokens = sum(counts)
        long = [j for j, count in enumerate(counts) if limit is not None and count > limit]
        made.truncated = len(long)
        if long and migration.on_long_text == "stop":
            raise Refused(
                f"The backfill stopped, nothing is lost: the text of point {tag(sources[present[long[0]]].id)} has {counts[long[0]]} tokens, the model "
                f"reads {limit}, and the migration was created with on_long_text='stop'."
            )
    rows, failures = await embed_resilient(embedder, wanted, Side.DOCUMENT, should_stop=is_stopping)
    reasons = {f.index: f.reason for f in failures}
    vectors = {present[j]: row.tolist() for j, row in enumerate(rows) if row is not None}
    made.failed = [FailedRecord(point_id=tag(sources[present[j]].id), reason=reason, is_stored=True) for j, reason in reasons.items()]
    made.without_text = len(texts) - len(present)
    for i, source in enumerate(sources):
        if texts[i] is None and migration.on_missing_text == "skip":
            continue  # by policy: the verification sees it by the missing text
        fields = {new: source.vectors[old] for old, new in work.copied.items() if old in source.vectors}
        if i in vectors:
            fields[work.embed_field] = vectors[i]
        made.points.append(Point(id=source.id, payload=source.payload, vectors=fields, shard_key=source.shard_key))
    return made


async def insert_points(work: Work, points: Sequence[Point]) -> None:
    """Write the points that the target does not hold, in concurrent batches; a batch that is too large is halved.

    Raises:
        LeaseLost: before anything more is written.
        MigrationError: the first failure, after the other batches ended.
    """
    failures: list[MigrationError] = []
    gate = anyio.CapacityLimiter(CONCURRENT_UPSERTS)

    async def write(batch: Sequence[Point]) -> None:
        async with gate:
            try:
                await _insert(work, batch)
            except MigrationError as error:
                failures.append(error)

    async with anyio.create_task_group() as group:
        for start in range(0, len(points), UPSERT_POINTS):
            group.start_soon(write, points[start : start + UPSERT_POINTS])
    if failures:
        raise failures[0]


async def _insert(work: Work, batch: Sequence[Point]) -> None:
    work.check()
    try:
        operation = await work.target.points.insert(work.migration.target.collection, batch, by_mode=work.inserts_by_mode)
        work.note_written((p.id for p in batch), operation)
    except BatchTooLarge:
        if len(batch) == 1:
            raise
        middle = len(batch) // 2
        await _insert(work, batch[:middle])
        await _insert(work, batch[middle:])


async def account(work: Work, failed: Sequence[FailedRecord]) -> None:
    """Record accounted points.

    Raises:
        Refused: more than `max_failed_points` failed; those skipped by policy do not count.
    """
    if not failed:
        return
    await work.ledger.add_failed(work.id, list(failed))
    total = len([f for f in await work.ledger.failed(work.id) if f.is_stored])
    if total > work.pace.max_failed_points:
        raise Refused(
            f"The backfill stopped, nothing is lost: {total} points could not be embedded, more than max_failed_points={work.pace.max_failed_points}. "
            f"The last reason: {failed[-1].reason} See migration_status for the points; raise the limit with start_backfill when that is acceptable."
        )


def ids_of(points: Sequence[Point]) -> list[PointId]:
    return [p.id for p in points]
