"""How is a new field filled in points that an app goes on reading and writing? Only where it is missing, and looked at again afterwards.

What was filled is known by the vector itself: a driver that dies leaves nothing to be remembered, and the next pass finds what is
missing, also what a full upsert of the app dropped. A text that was edited between the read and the write shows when the point is
read back, and is embedded again; the guard of that write is the text. Not to be told is an edit after that look which leaves the
vector standing (`set_payload` on a point that is filled already): the sample of the verification is what finds those.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from qdrant_model_migration.domain.migration import Filled
from qdrant_model_migration.domain.points import Payload, Point, PointId, tag
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.errors import BatchTooLarge, MigrationError, NotFound, RequestRejected
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.work import WINDOW, Work
from qdrant_model_migration.operations.writing import UPSERT_POINTS, Made, account, embed_texts

MOST_LOOKS = 4
"""Texts that are edited again and again are left to the next pass."""
MOST_TRIES = 5
"""Writes of a batch from which points vanish."""


@dataclass(kw_only=True)
class FillPass:
    """What one pass over the points without the field came to."""

    seen: int = 0
    written: int = 0
    without_text: int = 0
    failed: int = 0
    tokens: int = 0
    truncated: int = 0


OnWindow = Callable[[FillPass, int], Awaitable[None]]
"""Called after each window with the counts so far and the number of points that were embedded."""


async def fill_pass(work: Work, *, is_stopping: Callable[[], bool], on_window: OnWindow, concurrency: int = 1) -> FillPass:
    """Fill the made field wherever it is missing and there is a text; one pass, several windows at once.

    Raises:
        LeaseLost, Interrupted: before anything more is written.
        MigrationError: the first failure that is not a single point's.
    """
    found = FillPass()
    accounted = {f.point_id for f in await work.ledger.failed(work.id)}
    failures: list[MigrationError] = []
    send, receive = anyio.create_memory_object_stream[list[Point]](concurrency)
    async with anyio.create_task_group() as group:

        async def guarded(act: Callable[[], Awaitable[None]]) -> None:
            try:
                await act()
            except MigrationError as error:
                # Raised outside: a task group would wrap it.
                failures.append(error)
                group.cancel_scope.cancel()

        async def read() -> None:
            async with send:
                offset: PointId | None = None
                while True:
                    page, offset = await work.target.vectors.missing(
                        work.migration.target.collection, work.made_field, offset=offset, limit=min(WINDOW, work.page)
                    )
                    await send.send([p for p in page if tag(p.id) not in accounted])
                    if offset is None:
                        return

        async def fill(windows: MemoryObjectReceiveStream[list[Point]]) -> None:
            async with windows:
                async for window in windows:
                    spent = await fill_window(work, window, found, is_stopping=is_stopping)
                    await on_window(found, spent)

        group.start_soon(guarded, read)
        for _ in range(concurrency):
            group.start_soon(guarded, partial(fill, receive.clone()))
        receive.close()
    if failures:
        raise failures[0]
    return found


async def fill_window(work: Work, window: Sequence[Point], found: FillPass, *, is_stopping: Callable[[], bool]) -> int:
    """Embed and write one window, look back, and count; returns how many points were written."""
    made = Made()
    values, without = await embed_texts(work, window, made, is_stopping=is_stopping)
    field = work.made_field
    texts = {window[i].id: work.texts.of(window[i]) for i in values}
    points = [replace(window[i], payload={}, vectors={field: value}) for i, value in values.items()]
    written = await _write(work, points)
    await account(work, made.failed)
    await _look_back(work, written, texts, is_stopping=is_stopping)
    found.seen += len(window)
    found.written += len(written)
    found.without_text += len(without)
    found.failed += len(made.failed)
    found.tokens += made.tokens
    found.truncated += made.truncated
    return len(written)


async def _write(work: Work, points: Sequence[Point]) -> list[Point]:
    """Fill in batches; points that vanish meanwhile are left out. Returns those that were there."""
    written: list[Point] = []
    pending = [list(points[i : i + UPSERT_POINTS]) for i in range(0, len(points), UPSERT_POINTS)]
    tries = 0
    while pending:
        batch = pending.pop()
        work.check()
        try:
            await work.target.vectors.fill(work.migration.target.collection, work.made_field, batch)
        except BatchTooLarge:
            if len(batch) == 1:
                raise
            middle = len(batch) // 2
            pending += [batch[:middle], batch[middle:]]
            continue
        except (NotFound, RequestRejected):
            # Applied in part, and a repetition is harmless: the guard leaves alone what is there.
            there = await work.target.points.existing(work.migration.target.collection, [p.id for p in batch])
            tries += 1
            if len(there) == len(batch) and tries > MOST_TRIES:
                raise
            if there:
                pending.append([p for p in batch if p.id in there])
            continue
        written += batch
    return written


async def _look_back(work: Work, written: Sequence[Point], texts: dict[PointId, str | None], *, is_stopping: Callable[[], bool]) -> None:
    """Read the texts again after the write; a vector of a text that is no longer there is replaced, or taken away with its text."""
    field, name = work.made_field, work.migration.target.collection
    suspects = list(written)
    for _ in range(MOST_LOOKS):
        if not suspects:
            return
        held = await work.target.points.retrieve(name, [p.id for p in suspects], vectors=[field])
        stale = [p for p in held.values() if p.vectors.get(field) is not None and work.texts.of(p) != texts.get(p.id)]
        for point in stale:
            if work.texts.of(point) is None:
                work.check()
                await work.target.vectors.remove(name, field, point, observed=_text_values(work, point))
        again = [p for p in stale if work.texts.of(p) is not None]
        await rewrite_vectors(work, again, is_stopping=is_stopping)
        texts = texts | {p.id: work.texts.of(p) for p in stale}
        suspects = again


async def rewrite_vectors(work: Work, points: Sequence[Point], *, is_stopping: Callable[[], bool]) -> int:
    """Embed the texts of points as they were just read, and write the made field over what it holds while the text is still the same.

    Overwriting what an app wrote for the same text with the same model changes nothing. Returns how many were embedded.
    """
    if not points:
        return 0
    made = Made()
    values, _ = await embed_texts(work, points, made, is_stopping=is_stopping)
    await account(work, made.failed)
    for i, value in values.items():
        point = points[i]
        work.check()
        try:
            await work.target.vectors.refill(
                work.migration.target.collection,
                replace(point, payload={}, vectors={work.made_field: value}),
                observed=_text_values(work, point),
            )
        except (NotFound, RequestRejected):
            if point.id in await work.target.points.existing(work.migration.target.collection, [point.id]):
                raise
    return len(values)


def _text_values(work: Work, point: Point) -> Payload:
    """The payload values that the text is made of; a filter can name those at the top level."""
    if not isinstance(work.texts, TextSource):
        return {}
    return {field: point.payload.get(field) for field in work.texts.fields if field in point.payload}


async def coverage(work: Work, *, without_text: int = 0) -> Filled:
    """How many points hold the made field now."""
    name = work.migration.target.collection
    total = await work.target.points.count(name)
    missing = await work.target.vectors.count_missing(name, work.made_field)
    return Filled(points=total, with_vector=max(0, total - missing), without_text=without_text, at=now())
