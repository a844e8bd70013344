"""How is a target filled? Ranges are drawn ahead and recorded; each is worked window by window; its checkpoint follows the writes.

Several ranges are worked at once: while one waits for the model, another reads or writes. Within a range the windows follow one
another, so everything before the cursor is written, while the next window is read ahead and the last checkpoint recorded. Memory is bounded
by the number of ranges at work and the size of a window, which grows where windows are made fast.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qdrant_model_migration.domain.pacing import LEAST_WINDOW, Budget, WindowSize
from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.ranges import Range, next_to_draw, range_size
from qdrant_model_migration.errors import Interrupted
from qdrant_model_migration.operations.in_parallel import both, handed_out
from qdrant_model_migration.operations.spending import pause_at_cap
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.operations.writing import account, insert_points, make_points

RANGES_AHEAD = 8
MOST_FOREIGN = 20
COUNTED = ("read", "written", "skipped", "failed", "tokens", "truncated")
"""Of each range, for the progress."""
DEFAULT_CONCURRENCY = 2


ReadIds = Callable[[PointId | None, int], Awaitable[tuple[list[PointId], PointId | None]]]
"""(where to begin, most ids) -> ids in order, and where the next begin."""

Page = tuple[list[Point], PointId | None]
"""Points in id order, and where the next begin."""


async def draw_range(read: ReadIds, number: int, start: PointId | None, *, size: int, page: int | None) -> Range:
    """The range from `start` that holds about `size` points now, read in pages of at most `page` ids; the last one is open above."""
    end, left = start, size
    while left > 0:
        ids, end = await read(end, min(left, page or left))
        left -= max(1, len(ids))
        if end is None:
            break
    return Range(number=number, start=tag(start) if start is not None else None, end=tag(end) if end is not None else None)


Save = Callable[[Range], Awaitable[None]]
"""Takes a range as it is after a window whose points are durable."""


class Hands(Protocol):
    """Others that work ranges for the driver, several at once."""

    @property
    def ranges_at_once(self) -> int: ...

    async def work_range(self, given: Range, took: Save) -> None:
        """Work a range to its end; `took` is awaited after each window.

        Raises:
            MigrationError: the first failure that is not a single point's.
        """


class Pipeline:
    """Works all ranges of one migration that are not done: here, or by the `hands` of others. `save` records a checkpoint; the ledger does by default."""

    def __init__(
        self,
        work: Work,
        *,
        is_stopping: Callable[[], bool],
        clock: Callable[[], float] = anyio.current_time,
        hands: Hands | None = None,
        save: Save | None = None,
    ) -> None:
        self._work = work
        self._is_asked_to_stop = is_stopping
        self._has_seen_stop = False
        self._hands = hands
        self._record: Save = save or self._to_ledger
        self._budget = Budget(clock)
        self._open: dict[int, Range] = {}
        self._last: Range | None = None
        self._window_size = WindowSize()

    async def run(self) -> None:
        """Return when every range is done.

        Raises:
            Interrupted: `is_stopping` became true; the checkpoints tell where to go on.
            LeaseLost: somebody else drives the migration now.
            MigrationError: the first failure that is not a single point's.
        """
        work = self._work
        work.progress.stage = "backfilling"
        work.progress.total = work.source_collection.points
        for name in COUNTED:
            setattr(work.progress, name, 0)
        self._open, self._last, self._has_seen_stop = {}, None, False
        for known in await work.ledger.ranges(work.id):
            self._note(known)
        workers = self._hands.ranges_at_once if self._hands is not None else work.pace.concurrency or DEFAULT_CONCURRENCY
        work.throughput.begin("backfilling", work.progress.read)
        try:
            # What an actor has in hand may take minutes, which a driver that is to stop does not have.
            await handed_out(
                self._draw, self._work_ranges, ahead=max(RANGES_AHEAD, workers), workers=workers, ends_by_itself=self._hands is None
            )
        finally:
            work.throughput.end()

    async def _draw(self, send: MemoryObjectSendStream[Range]) -> None:
        """Hand out the ranges that are recorded and not done, then draw on where the recorded ones end."""
        work = self._work
        async with send:
            for known in sorted(self._open.values(), key=lambda r: r.number):
                await send.send(known)
            size = range_size(work.source_collection.points)
            while (following := next_to_draw(self._last)) is not None:
                self._stop_if_asked()
                drawn = await draw_range(self._read_ids, *following, size=size, page=work.source_collection.page_limit)
                work.check()
                if not await work.ledger.add_range(work.id, drawn):
                    # Recorded already: by a driver before us, with a boundary of its own, which holds.
                    drawn = next(r for r in await work.ledger.ranges(work.id) if r.number == drawn.number)
                self._note(drawn)
                await send.send(drawn)

    async def _read_ids(self, offset: PointId | None, limit: int) -> tuple[list[PointId], PointId | None]:
        return await self._work.source.points.ids(self._work.migration.source.collection, offset=offset, limit=limit)

    async def _work_ranges(self, receive: MemoryObjectReceiveStream[Range]) -> None:
        async with receive:
            async for given in receive:
                if self._hands is not None:
                    await self._hands.work_range(given, self._took)
                else:
                    await self.work_range(given)

    async def _took(self, current: Range) -> None:
        """A window was worked elsewhere."""
        self._note(current)
        await self._save(current)
        self._stop_if_asked()
        await pause_at_cap(self._work)

    async def work_range(self, given: Range) -> None:
        """Windows one after another; while one is made and written, the next is read and the checkpoint of the last is recorded."""
        current, position, unsaved = given, given.position, None
        page = await self._read(position, current)
        while not current.is_done:
            if self._is_stopping():
                await self._save(unsaved)
            self._stop_if_asked()
            points, after = page
            # In id order: where the last one is of this range, all are.
            window = points if not points or current.holds(points[-1].id) else [p for p in points if current.holds(p.id)]
            is_last = after is None or len(window) < len(points) or not current.holds(after)
            began = anyio.current_time()
            (made, spent), page = await both(
                partial(self._window, current, window),
                partial(self._meanwhile, unsaved, after, current, len(window), is_last=is_last),
            )
            self._window_size.note(len(window), anyio.current_time() - began, is_paced=self._work.points_per_second is not None)
            cursor = tag(after) if after is not None and not is_last else made.cursor
            current = unsaved = made.model_copy(update={"cursor": cursor, "is_done": is_last, "is_started": True})
            self._note(current)
            if is_last or self._work.points_per_second is not None:
                # Before the waiting: a driver that ends while it waits leaves nothing to be read again.
                await self._save(current)
                unsaved = None
            await self._keep_pace(spent)
            if self._work.pace.max_cost_usd is not None:
                await self._save(unsaved)
                unsaved = None
                await pause_at_cap(self._work)

    async def _meanwhile(self, unsaved: Range | None, after: PointId | None, current: Range, ahead: int, *, is_last: bool) -> Page:
        """What is done while a window of so many points is made: the checkpoint of the one before, and reading the next one."""
        await self._save(unsaved)
        return ([], None) if is_last else await self._read(after, current, ahead)

    async def _read(self, position: PointId | None, current: Range, ahead: int = 0) -> Page:
        """The next window of a range of which `current.read` points and `ahead` more were read; hardly anything beyond its end."""
        work = self._work
        left = range_size(work.source_collection.points) - current.read - ahead
        size = min(self._window_size.points, max(LEAST_WINDOW, left))
        limit = min(size, work.source_collection.page_limit or size)
        return await work.source.points.scroll(
            work.migration.source.collection, offset=position, limit=limit, vectors=work.read_fields, packed=True
        )

    async def _save(self, checkpoint: Range | None) -> None:
        if checkpoint is not None:
            self._work.check()
            await self._record(checkpoint)

    async def _to_ledger(self, checkpoint: Range) -> None:
        await self._work.ledger.save_range(self._work.id, checkpoint)

    async def _window(self, current: Range, window: list[Point]) -> tuple[Range, int]:
        """Write the points of one window that the target does not hold; the range with them counted, and how many there were."""
        work = self._work
        existing = await work.target.points.existing(work.migration.target.collection, [p.id for p in window])
        todo = [p for p in window if p.id not in existing]
        made = await make_points(work, todo, is_stopping=self._is_stopping)
        await insert_points(work, made.points)
        await account(work, made.failed)
        foreign = [tag(i) for i in existing][: MOST_FOREIGN - len(current.foreign)]
        counted = current.model_copy(
            update={
                "read": current.read + len(window),
                "written": current.written + len(made.points),
                "skipped": current.skipped + len(window) - len(made.points),
                "failed": current.failed + sum(f.is_stored for f in made.failed),
                "tokens": current.tokens + made.tokens,
                "truncated": current.truncated + made.truncated,
                "foreign": (*current.foreign, *foreign),
            }
        )
        return counted, len(todo)

    async def _keep_pace(self, points: int) -> None:
        """Wait as the pace asks, looking at it again while waiting: it may be changed meanwhile."""
        self._budget.spend(points)
        while (wait_s := self._budget.wait_s(self._work.points_per_second)) > 0:
            self._stop_if_asked()
            await anyio.sleep(min(0.25, wait_s))

    def _is_stopping(self) -> bool:
        """Once asked, always: a pause that is lifted at once must not stop some of the workers and leave the others alone."""
        self._has_seen_stop = self._has_seen_stop or self._is_asked_to_stop()
        return self._has_seen_stop

    def _stop_if_asked(self) -> None:
        if self._is_stopping():
            raise Interrupted("The driver was asked to stop; what is written is recorded.")

    def _note(self, current: Range) -> None:
        """Take a range as it is now. The counts are kept as sums, and only open ranges: a billion points are tens of thousands."""
        before = self._open.get(current.number, Range(number=current.number))
        if current.is_done:
            self._open.pop(current.number, None)
        else:
            self._open[current.number] = current
        if self._last is None or current.number >= self._last.number:
            self._last = current
        progress = self._work.progress
        for name in COUNTED:
            # Tokens are not known before the first window, where an actor works a range without `run`.
            setattr(progress, name, (getattr(progress, name) or 0) + getattr(current, name) - getattr(before, name))
        # An app that goes on inserting makes the collection larger than it was counted.
        progress.total = max(progress.total, progress.read)
        self._work.throughput.note(progress.read)
