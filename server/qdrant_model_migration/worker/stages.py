"""What does a driver do besides the ranges? It fills a field in points that are there, or has the server quantize."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from qdrant_model_migration.domain.catch_up import has_converged
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.pacing import Budget
from qdrant_model_migration.domain.quantization import QuantizationSettings
from qdrant_model_migration.domain.recipe import Filled
from qdrant_model_migration.errors import Interrupted, MigrationError, Refused
from qdrant_model_migration.operations.filling import FillPass, coverage, fill_pass
from qdrant_model_migration.operations.requantize import apply
from qdrant_model_migration.operations.spending import pause_at_cap
from qdrant_model_migration.operations.sweep import carry_what_was_written, has_numbers
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Progress
from qdrant_model_migration.worker.pipeline import DEFAULT_CONCURRENCY

MOST_FILLS = 20


async def fill(work: Work, is_asked_to_stop: Callable[[], bool]) -> None:
    """Passes over the points that lack the made field, until one fills nothing; while an app writes, no more than the app drops meanwhile.

    Raises:
        Interrupted: the driver was asked to stop or to pause; what is filled is filled.
        MigrationError: writes were said to be frozen, and every pass finds vectors dropped.
    """
    meter = await _Meter.of(work, lambda: is_asked_to_stop() or work.pace.is_paused)
    if work.migration.filled is None or not work.migration.filled.has_converged:
        # Later passes fill what an app dropped: how fast says nothing.
        work.throughput.begin("filling", meter.read)
    try:
        await _fill(work, meter)
    finally:
        work.throughput.end()


async def _fill(work: Work, meter: _Meter) -> None:
    is_frozen = work.migration.writes == "frozen"
    # Filled before, each pass stands for itself: it does not begin anew what a few upserts of the app dropped.
    written = [0] if work.migration.filled is not None and work.migration.filled.has_converged else list[int]()
    for _ in range(MOST_FILLS):
        if not (work.migration.filled and work.migration.filled.has_converged):
            await _carry_over_first(work)
        try:
            found = await fill_pass(
                work, is_stopping=meter.is_stopping, on_window=meter.count, concurrency=work.pace.concurrency or DEFAULT_CONCURRENCY
            )
        except Interrupted:
            if work.pace.max_cost_usd is not None:
                await _record(work, await coverage(work))
            raise
        written.append(found.written)
        is_over = has_converged(written, work.progress.total, is_frozen=is_frozen)
        meter.add(found)
        await _record(work, (await coverage(work, without_text=found.without_text)).model_copy(update={"has_converged": is_over}))
        if is_over:
            return
    raise MigrationError(
        f"Filling {work.made_field!r} did not converge: the last pass still found {written[-1]:,} points without it"
        + (", although writes were said to be frozen. Find the writer" if is_frozen else "")
        + ". Writers upsert without the new vector; let them write both, or update vectors and payloads only."
    )


async def _carry_over_first(work: Work) -> None:
    """Filling numbers the target's points anew: what the source got late is carried over while it can still be told from newer writes."""
    is_beside = not (work.migration.is_in_place or work.migration.is_across_servers or work.source.connection.is_embedded)
    if is_beside and not work.migration.is_serving_source and has_numbers(work.source_collection):
        gap = await carry_what_was_written(work)
        if gap is not None and (gap.carried_over or gap.unresolved):
            await work.record("swept", f"carried over {gap.carried_over}, superseded {gap.superseded}, unresolved {gap.unresolved}")


async def _record(work: Work, filled: Filled) -> None:
    before = work.migration.filled
    filled = filled.model_copy(update={"tokens": work.progress.tokens})
    if before is not None and before.model_copy(update={"at": filled.at}) == filled:
        return
    was_over = before is not None and before.has_converged
    await work.change(lambda m: m.model_copy(update={"filled": filled}))
    if filled.has_converged and not was_over:
        await work.record("filled", f"{filled.with_vector:,} of {filled.points:,} points hold {work.made_field!r}")


class _Meter:
    """Counts what the passes do, keeps the pace, and stops them when the driver is to stop."""

    def __init__(self, work: Work, done: int, is_stopping: Callable[[], bool]) -> None:
        self._work = work
        self._done = done
        # What drivers before this one embedded counts, too.
        self._before = FillPass(tokens=work.migration.filled.tokens if work.migration.filled is not None else 0)
        work.progress.tokens = self._before.tokens
        self._budget = Budget(anyio.current_time)
        self._is_asked_to_stop = is_stopping
        self._has_seen_stop = False

    @classmethod
    async def of(cls, work: Work, is_stopping: Callable[[], bool]) -> _Meter:
        name = work.migration.target.collection
        work.progress.stage = "filling"
        work.progress.total = await work.target.points.count(name)
        return cls(work, work.progress.total - await work.target.vectors.count_missing(name, work.made_field), is_stopping)

    @property
    def read(self) -> int:
        """Points that were done when this began."""
        return self._done

    async def count(self, found: FillPass, spent: int) -> None:
        """Called after each window."""
        progress, before = self._work.progress, self._before
        progress.written = self._done + before.written + found.written
        progress.skipped, progress.failed = found.without_text, before.failed + found.failed
        progress.read = min(progress.total, progress.written + progress.skipped + progress.failed)
        progress.tokens, progress.truncated = before.tokens + found.tokens, before.truncated + found.truncated
        self._work.throughput.note(progress.read)
        self._budget.spend(spent)
        self._stop_if_asked()
        while (wait_s := self._budget.wait_s(self._work.points_per_second)) > 0:
            self._stop_if_asked()
            await anyio.sleep(min(0.25, wait_s))
        await pause_at_cap(self._work)

    def add(self, found: FillPass) -> None:
        """A pass is over."""
        self._before.written += found.written
        self._before.failed += found.failed
        self._before.tokens += found.tokens
        self._before.truncated += found.truncated

    def is_stopping(self) -> bool:
        """Once asked, always, so that all workers end."""
        self._has_seen_stop = self._has_seen_stop or self._is_asked_to_stop()
        return self._has_seen_stop

    def _stop_if_asked(self) -> None:
        if self.is_stopping():
            raise Interrupted("The driver was asked to stop; what is written is recorded.")


async def requantize(work: Work, is_asked_to_stop: Callable[[], bool]) -> None:
    """Set the quantization, wait until the server is done, and measure what a search finds before and after.

    Raises:
        Refused: the field is gone, or cannot be quantized so.
        MigrationError: the server is not done after hours; called again, it goes on waiting.
    """
    migration = work.migration
    field = work.source_collection.field(migration.dense_field or "")
    if field is None or migration.quantization is None:
        raise Refused(f"{migration.source.collection!r} has no vector {migration.dense_field!r} any more.")

    async def show(progress: Progress) -> None:
        if is_asked_to_stop() or work.pace.is_paused:
            raise Interrupted("The driver was asked to stop; the server goes on quantizing by itself.")
        work.progress.stage, work.progress.read, work.progress.total = progress.stage, progress.read, progress.total

    work.progress.stage = "quantizing"
    outcome = await apply(
        work.target,
        work.source_collection,
        field,
        migration.quantization,
        previous=QuantizationSettings.model_validate(migration.previous),
        before=migration.requantized.before if migration.requantized is not None else None,
        progress=show,
    )

    def keep(m: Migration) -> Migration:
        phase = m.after("converged") if outcome.is_ready else m.phase
        return m.model_copy(update={"requantized": outcome, "phase": phase, "error": None})

    await work.change(keep)
    await work.record("requantized", "; ".join([*outcome.advice[:1], *outcome.notes[:2]]) or f"{migration.quantization} set")
    if not outcome.is_ready:
        raise MigrationError("; ".join(outcome.notes))
