"""How is a new field filled in points that an app goes on reading and writing? Only where it is missing, and looked at again afterwards.

What was filled is known by the vector itself: a driver that dies leaves nothing to be remembered, and the next pass finds what is
missing, also what a full upsert of the app dropped. A text that was edited between the read and the write is kept from getting a
vector by the guard, where the text is one payload field (its value is then none of those that the request was made for); it shows
when the point is read back, and is embedded again; the guard of that write is the text.

An edit after that look leaves the vector standing (`set_payload` of the text of a point that is filled already). Where operations are
numbered (one shard), the verification finds every one of them, for the point's last operation is then not ours, and repair_target embeds
just those again (other_writers.py).

Not to be told:
- elsewhere (several shards, a cluster, embedded) such an edit: the sample of the verification finds those by chance, and repair_target
  embeds everything again when it found one;
- a text that is taken away later (`delete_payload`) leaves its vector behind: it may as well be the app's own;
- where the text is put together from several fields or nested, an edit between read and write when the driver dies before the look
  back. Edits and deaths within the same second; the same sample finds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.points import Payload, Point, PointId, ServerText, tag
from qdrant_model_migration.domain.recipe import Filled, Recipe
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.errors import BatchTooLarge, NotFound, RequestRejected
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.in_parallel import handed_out
from qdrant_model_migration.operations.work import WINDOW, Work
from qdrant_model_migration.operations.writing import UPSERT_POINTS, Made, account, embed_texts

MOST_LOOKS = 4
"""Texts that are edited again and again are left to the next pass."""
MOST_TRIES = 5
"""Writes of a batch from which points vanish."""
SAME_COSINE = 0.999
"""Of a stored vector with the one that was written; float16 and uint8 keep that much."""


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

    async def read(send: MemoryObjectSendStream[list[Point]]) -> None:
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

    await handed_out(read, fill, ahead=concurrency, workers=concurrency)
    return found


async def fill_window(work: Work, window: Sequence[Point], found: FillPass, *, is_stopping: Callable[[], bool]) -> int:
    """Embed and write one window, look back, and count; returns how many points were written."""
    made = Made()
    values, without = await embed_texts(work, window, made, is_stopping=is_stopping)
    field = work.made_field
    wanted = [_Wanted(point=replace(window[i], payload={}, vectors={field: v}), text=work.texts.of(window[i])) for i, v in values.items()]
    # Between the write and the look back nothing but the end of this process may come.
    with work.writing_a_window(), anyio.CancelScope(shield=True):
        written = await _write(work, wanted, seen_field=_seen_field(work, window))
        await _look_back(work, written)
    await account(work, made.failed)
    found.seen += len(window)
    found.written += len(written)
    found.without_text += len(without)
    found.failed += len(made.failed)
    found.tokens += made.tokens
    found.truncated += made.truncated
    return len(written)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """A point with its new vector, and the text that the vector was made of."""

    point: Point
    text: str | None
    operations: tuple[int, ...] = ()
    """Numbers of the writes; known to be right once the text was read again after them."""
    before: Any = None
    """The vector that it is to replace, which stays where the guard kept the new one away."""

    def may_be(self, held: Any, made: Recipe) -> bool:
        """Whether a vector may be one that was made of an earlier text; an app that edited a text may have written its vector as well."""
        return any(_is_same(held, known, made) for known in (self.point.vectors[made.field], self.before) if known is not None)


def _seen_field(work: Work, window: Sequence[Point]) -> str | None:
    """The payload field that is the text itself, for a guard by its values; None where the texts are put together or lie elsewhere."""
    if not isinstance(work.texts, TextSource) or work.texts.is_template:
        return None
    field = work.texts.expression
    is_plain = field and '"' not in field and "\\" not in field
    return field if is_plain and all(field in p.payload for p in window if work.texts.of(p) is not None) else None


async def _write(work: Work, wanted: Sequence[_Wanted], *, seen_field: str | None) -> list[_Wanted]:
    """Fill in batches; points that vanish meanwhile are left out. Returns those that were there."""
    written: list[_Wanted] = []
    pending = [list(wanted[i : i + UPSERT_POINTS]) for i in range(0, len(wanted), UPSERT_POINTS)]
    tries = 0
    while pending:
        batch = pending.pop()
        work.check()
        try:
            numbers = await work.target.vectors.fill(
                work.migration.target.collection,
                work.made_field,
                [w.point for w in batch],
                seen=(seen_field, [w.text or "" for w in batch]) if seen_field is not None else None,
            )
        except BatchTooLarge:
            if len(batch) == 1:
                raise
            middle = len(batch) // 2
            pending += [batch[:middle], batch[middle:]]
            continue
        except (NotFound, RequestRejected):
            # Applied in part, and a repetition is harmless: the guard leaves alone what is there.
            there = await work.target.points.existing(work.migration.target.collection, [w.point.id for w in batch])
            tries += 1
            if len(there) == len(batch) and tries > MOST_TRIES:
                raise
            if there:
                pending.append([w for w in batch if w.point.id in there])
            continue
        written += [replace(w, operations=tuple(numbers)) for w in batch]
    return written


async def _look_back(work: Work, written: Sequence[_Wanted]) -> None:
    """Read the texts again after the write; a vector of a text that is no longer there is replaced, or taken away with its text.

    What is edited at every look is taken away as well: the next pass finds it missing.
    """
    field, name = work.made_field, work.migration.target.collection
    suspects = {w.point.id: w for w in written}
    numbers = {number for w in written for number in w.operations}
    for look in range(MOST_LOOKS):
        if not suspects:
            break
        held = await work.target.points.retrieve(name, list(suspects), vectors=[field])
        stale = [
            p
            for p in held.values()
            if work.texts.of(p) != suspects[p.id].text and suspects[p.id].may_be(p.vectors.get(field), work.migration.making)
        ]
        is_last = look == MOST_LOOKS - 1
        for point in stale:
            if is_last or work.texts.of(point) is None:
                work.check()
                await work.target.vectors.remove(name, field, point)
        again = [] if is_last else [p for p in stale if work.texts.of(p) is not None]
        suspects = {w.point.id: w for w in await _rewrite(work, again, is_stopping=lambda: False)}
        numbers |= {number for w in suspects.values() for number in w.operations}
        for point in again:
            if point.id not in suspects:
                # Its new text cannot be embedded, which is accounted for; what was made of the old one is wrong either way.
                work.check()
                await work.target.vectors.remove(name, field, point)
    for number in numbers:
        work.own.add(number)


def _is_same(held: Any, written: Any, made: Recipe) -> bool:
    """Whether a vector may be the one that was written; of other kinds than dense ones any may."""
    if held is None or made.vector_kind is not FieldKind.DENSE or isinstance(written, ServerText):
        return held is not None
    a, b = np.asarray(held, dtype=np.float64), np.asarray(written, dtype=np.float64)
    return a.shape == b.shape and float(a @ b) >= SAME_COSINE * float(np.linalg.norm(a) * np.linalg.norm(b))


async def rewrite_vectors(work: Work, points: Sequence[Point], *, is_stopping: Callable[[], bool]) -> int:
    """Embed the texts of points as they were just read, write the made field over what it holds, and look back as after a fill.

    Overwriting what an app wrote for the same text with the same model changes nothing. Returns how many were embedded.
    """
    rewritten = await _rewrite(work, points, is_stopping=is_stopping)
    await _look_back(work, rewritten)
    return len(rewritten)


async def _rewrite(work: Work, points: Sequence[Point], *, is_stopping: Callable[[], bool]) -> list[_Wanted]:
    """The guard of each write is the text, as far as a filter can tell it; points that vanish meanwhile are left out."""
    if not points:
        return []
    made = Made()
    values, _ = await embed_texts(work, points, made, is_stopping=is_stopping)
    await account(work, made.failed)
    written: list[_Wanted] = []
    for i, value in values.items():
        point = points[i]
        wanted = _Wanted(
            point=replace(point, payload={}, vectors={work.made_field: value}),
            text=work.texts.of(point),
            before=point.vectors.get(work.made_field),
        )
        work.check()
        try:
            numbers = await work.target.vectors.refill(work.migration.target.collection, wanted.point, observed=_text_values(work, point))
        except (NotFound, RequestRejected):
            if point.id in await work.target.points.existing(work.migration.target.collection, [point.id]):
                raise
            continue
        written.append(replace(wanted, operations=tuple(numbers)))
    return written


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
