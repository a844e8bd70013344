"""How does a point of the source become one of the target? Recipes carried out, and the guarded writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.records import FailedRecord
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.embedders.server_side import ServerSideEmbedder
from qdrant_model_migration.errors import BatchTooLarge, Refused
from qdrant_model_migration.operations.in_parallel import for_each_batch
from qdrant_model_migration.operations.spending import tokens_by_size
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
    """Apply the recipes: ids and payloads as they are, copied vectors as they are, the made vector where it is due now.

    Raises:
        Refused: a text is missing or too long and the stated policy is to stop.
        Interrupted, TransientEmbedding, ModelNotUsable: see `embed_resilient`.
    """
    made = Made()
    recipe = work.made
    values: dict[int, Any] = {}
    left_out: set[int] = set()
    if recipe is not None and recipe.is_derived:
        values = await _derive(work, sources, made)
    elif recipe is not None and work.makes_now:
        values, without = await embed_texts(work, sources, made, is_stopping=is_stopping)
        if work.migration.on_missing_text == "skip" and recipe.stage == "insert":
            left_out = without  # by policy: the verification sees it by the missing text
    copied = work.copied
    for i, source in enumerate(sources):
        if i in left_out:
            continue
        fields = {new: source.vectors[old] for old, new in copied.items() if old in source.vectors}
        if i in values and recipe is not None:
            fields[recipe.field] = values[i]
        made.points.append(Point(id=source.id, payload=source.payload, vectors=fields, shard_key=source.shard_key))
    return made


async def _derive(work: Work, sources: Sequence[Point], made: Made) -> dict[int, Any]:
    """Vectors made of the points' own ones, by position."""
    field = work.migration.making.source_field or ""
    values: dict[int, Any] = {}
    for i, point in enumerate(await work.derived(sources)):
        if point.derived is not None:
            values[i] = point.derived
        elif point.vectors.get(field) is not None:
            reason = work.deriver.reason(point.vectors[field]) if work.deriver is not None else "the map is not there"
            made.failed.append(FailedRecord(point_id=tag(point.id), reason=reason, is_stored=True))
    return values


async def embed_texts(
    work: Work, sources: Sequence[Point], made: Made, *, is_stopping: Callable[[], bool]
) -> tuple[dict[int, Any], set[int]]:
    """Vectors of the points' texts by position, and the positions without a text; what was met on the way is counted in `made`.

    Where the server embeds, a vector is the text itself, for the server to embed when it is written.

    Raises:
        Refused: a text is missing or too long and the stated policy is to stop.
        Interrupted, TransientEmbedding, ModelNotUsable: see `embed_resilient`.
    """
    migration = work.migration
    texts = [work.texts.of(p) for p in sources]
    present = [i for i, text in enumerate(texts) if text is not None]
    if len(present) < len(texts) and migration.on_missing_text == "stop":
        first = next(i for i, text in enumerate(texts) if text is None)
        raise Refused(
            f"The backfill stopped, nothing is lost: point {tag(sources[first].id)} holds no text at {work.texts.expression!r}, "
            "and the migration was created with on_missing_text='stop'."
        )
    made.without_text = len(texts) - len(present)
    without = {i for i, text in enumerate(texts) if text is None}
    embedder = await work.embedder()
    wanted = [texts[i] or "" for i in present]
    counts = await embedder.count_tokens(wanted) if wanted else []
    limit = embedder.spec.max_tokens
    if counts is None and work.pace.max_cost_usd is not None:
        made.tokens = sum(tokens_by_size(wanted))
    if counts is not None:
        made.tokens = sum(counts)
        long = [j for j, count in enumerate(counts) if limit is not None and count > limit]
        made.truncated = len(long)
        if long and migration.on_long_text == "stop":
            raise Refused(
                f"The backfill stopped, nothing is lost: the text of point {tag(sources[present[long[0]]].id)} has {counts[long[0]]} tokens, the model "
                f"reads {limit}, and the migration was created with on_long_text='stop'."
            )
    if isinstance(embedder, ServerSideEmbedder):
        return {present[j]: embedder.placeholder(text) for j, text in enumerate(wanted)}, without
    rows, failures = await embed_resilient(embedder, wanted, Side.DOCUMENT, should_stop=is_stopping)
    reasons = {f.index: f.reason for f in failures}
    made.failed += [FailedRecord(point_id=tag(sources[present[j]].id), reason=reason, is_stored=True) for j, reason in reasons.items()]
    return {present[j]: as_stored(row) for j, row in enumerate(rows) if row is not None}, without


def as_stored(row: Any) -> Any:
    """A row of any kind of model as our points hold vectors: a dense one packed, a multivector as lists, a mapping where it is sparse."""
    if not isinstance(row, np.ndarray):
        return row
    return row.astype(np.float32, copy=False) if row.ndim == 1 else row.tolist()


async def insert_points(work: Work, points: Sequence[Point]) -> None:
    """Write the points that the target does not hold, in concurrent batches; a batch that is too large is halved.

    Raises:
        LeaseLost: before anything more is written.
        MigrationError: the first failure, after the other batches ended.
    """
    with work.writing_a_window():
        await for_each_batch(points, partial(_insert, work), size=UPSERT_POINTS, at_once=CONCURRENT_UPSERTS)


async def _insert(work: Work, batch: Sequence[Point]) -> None:
    work.check()
    try:
        operation = await work.target.points.insert(work.migration.target.collection, batch, by_mode=work.inserts_by_mode)
        work.note_written((p.id for p in batch), operation)
    except BatchTooLarge as error:
        if len(batch) == 1:
            raise BatchTooLarge(
                f"The backfill stopped, nothing is lost: point {tag(batch[0].id)} alone is too large for one write to "
                f"{work.migration.target.collection!r}. {error} Raise that limit of the server, then call start_backfill(migration_id={work.id!r})."
            ) from None
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
