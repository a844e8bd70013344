"""How does the target follow between two full passes? By reading only what the source's `updated_at` says was written since the last one.

It is never trusted for a proof: the verification, the pass before `backfilled` and the one before a swap read everything. What deletes, or
does not tell its time, is found by those, and by a full pass every ten minutes (less often where one takes long).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import anyio

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.updated_at import FULL_EVERY_S, since
from qdrant_model_migration.domain.verification import Kind
from qdrant_model_migration.errors import RequestRejected
from qdrant_model_migration.operations.catch_up import catch_up_pass, settle
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import expectation, look_again
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Lag, Repaired

LEAST_PAUSE_S = 5.0


class Passes:
    """One driver's passes, one after another; each begins where the one before it began."""

    def __init__(self, clock: Callable[[], float] = anyio.current_time) -> None:
        self._clock = clock
        self._since_s: float | None = None
        self._full_at: float | None = None
        self._full_took_s = 0.0
        self.pause_s = LEAST_PAUSE_S
        """What the next pass waits for, where it reads only what changed lately."""

    async def next(self, work: Work, *, is_full: bool = False) -> tuple[Lag, Repaired]:
        """A pass over what changed since the last one began; over everything where that is due, asked for, or cannot be told."""
        began = self._clock()
        newest = await _newest(work)
        found = None
        if newest is not None and self._since_s is not None and not is_full and not self._is_full_due(began):
            with suppress(RequestRejected):
                # The index is gone or being built anew: then everything is read, and what else may be refused is refused there as well.
                found = await changed_pass(work, self._since_s)
        if found is None:
            found = await catch_up_pass(work)
            self._full_at, self._full_took_s = self._clock(), self._clock() - began
        if newest is None:
            self._since_s = None
        elif self._since_s is None or not found[1].left:
            # What was left to the next pass is within what that one reads.
            self._since_s = since(newest, datetime.now(UTC).timestamp())
        took_s = 0.0 if found[0].is_full and self._since_s is not None else self._clock() - began
        self.pause_s = max(LEAST_PAUSE_S, 3 * took_s)
        return found

    def _is_full_due(self, at: float) -> bool:
        return self._full_at is None or at - self._full_at >= max(FULL_EVERY_S, 3 * self._full_took_s)


async def _newest(work: Work) -> float | None:
    """The latest time that the source tells; None where no field tells any, or its index does not serve at the moment."""
    told = work.migration.updated_at
    if told is None:
        return None
    try:
        return await work.source.changes.newest(work.migration.source.collection, told)
    except RequestRejected:
        return None


async def changed_pass(work: Work, since_s: float) -> tuple[Lag, Repaired]:
    """One pass over the points that tell a time since then. It finds no deletes."""
    told = work.migration.updated_at
    assert told is not None
    expected, repaired, lag = await expectation(work, checks_made=False), Repaired(), Lag(at=now(), is_full=False)
    offset: PointId | None = None
    while True:
        ids, offset = await work.source.changes.since(work.migration.source.collection, told, since_s, offset=offset, limit=work.page)
        found = [d for d in await look_again(work, expected, ids) if d.kind is not Kind.EXTRA]
        lag = lag.model_copy(
            update={
                "missing": lag.missing + sum(d.kind is Kind.MISSING for d in found),
                "changed": lag.changed + sum(d.kind is not Kind.MISSING for d in found),
            }
        )
        await settle(work, expected, found, repaired)
        if offset is None:
            return lag.model_copy(update={"at": now()}), repaired
