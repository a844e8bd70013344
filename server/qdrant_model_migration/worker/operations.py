"""How does the driver carry out a recorded operation? One handler a kind; the outcome or the refusal is recorded."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from pydantic import BaseModel

from qdrant_model_migration.domain.collection import fields_of
from qdrant_model_migration.domain.cutover import given_up
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Operation
from qdrant_model_migration.embedders.base import is_dense
from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, MigrationError, Refused, TransientEmbedding
from qdrant_model_migration.operations.altered import told
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.deriving import Deriver
from qdrant_model_migration.operations.finish import finish
from qdrant_model_migration.operations.fitting import SAMPLE_SIZE, fit
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.swap import swap
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Comparison, Progress, Verification
from qdrant_model_migration.telemetry import operation_span

LOG = logging.getLogger(__name__)
SHOW_EVERY_S = 1.0
MOST_ATTEMPTS = 200
"""Tries of an operation while Qdrant or a provider is away, some seconds apart; then its caller is told."""


async def carry_out(work: Work, operation: Operation) -> None:
    """Run it, showing its progress, and record how it ended.

    Raises:
        LeaseLost, ConnectionFailed, TransientEmbedding, Interrupted: it stays recorded as running and is taken up again.
    """
    LOG.info("Operation %s begins", operation.key)
    work.migration = await work.ledger.migration(work.id)
    work.progress.stage, work.progress.read, work.progress.total = operation.kind, 0, 0
    attempts = operation.attempts + 1
    running = operation.model_copy(update={"state": "running", "progress": work.progress, "attempts": attempts})
    work.check()
    await work.ledger.save_operation(work.id, running)
    outcome: list[BaseModel] = []
    failure: list[MigrationError] = []
    async with anyio.create_task_group() as group:

        async def show() -> None:
            while True:
                await anyio.sleep(SHOW_EVERY_S)
                try:
                    # A driver that was stopped meanwhile must not call running what its successor has finished.
                    work.check()
                    await work.ledger.save_operation(work.id, running.model_copy(update={"progress": work.progress}))
                except MigrationError as error:
                    LOG.warning("Progress was not recorded: %s", error)

        group.start_soon(show)
        try:
            with operation_span(operation.kind, work.id):
                outcome.append(await _HANDLERS[operation.kind](work, operation.arguments))
        except MigrationError as error:
            failure.append(await told(work.context, work.migration, error))
        except Exception as error:
            # A defect of ours. It would happen again: the operation ends, and its caller is told.
            LOG.exception("Operation %s failed", operation.key)
            failure.append(MigrationError(f"The operation failed unexpectedly ({type(error).__name__}); the worker's log tells more."))
        group.cancel_scope.cancel()
    is_passing = bool(failure) and isinstance(failure[0], LeaseLost | ConnectionFailed | TransientEmbedding | Interrupted)
    if is_passing and (attempts < MOST_ATTEMPTS or isinstance(failure[0], LeaseLost | Interrupted)):
        raise failure[0]
    if failure:
        LOG.warning("Operation %s failed: %s", operation.key, failure[0])
        ended: dict[str, Any] = {"state": "failed", "error": str(failure[0]), "is_refusal": isinstance(failure[0], Refused)}
    else:
        ended = {"state": "done", "result": outcome[0].model_dump(mode="json")}
    work.check()
    await work.ledger.save_operation(
        work.id, running.model_copy(update={**ended, "progress": work.progress, "finished_at": now(work.ledger)})
    )


async def chosen(work: Work, pending: list[Operation]) -> Operation:
    """The operation to carry out now. Of several agreed changes (swap, finish) the person's last word counts, unless one has begun to move."""
    work.migration = await work.ledger.migration(work.id)
    agreed = [o for o in pending if o.kind in ("swap", "finish")]
    if len(agreed) < 2 or (work.migration.intent is not None and not await has_moved_nothing(work)):
        return pending[0]
    *earlier, last = agreed
    if work.migration.intent is not None:
        await work.change(given_up if work.migration.intent == "swapping" else lambda m: m.model_copy(update={"intent": None}))
    for old in earlier:
        ended = {
            "state": "failed",
            "error": "Nothing was changed: another plan was agreed to since.",
            "is_refusal": True,
            "finished_at": now(work.ledger),
        }
        await work.ledger.save_operation(work.id, old.model_copy(update=ended))
    return next((o for o in pending if o not in earlier), last)


MOST_RESUMED = 5


async def unfinished_swap(work: Work) -> Operation:
    """The swap whose operation ended although its intent is still recorded.

    Raises:
        MigrationError: it ended so again and again.
    """
    swaps = [o for o in await work.ledger.operations(work.id) if o.kind == "swap" and o.state == "failed"]
    last = max(swaps, key=lambda o: o.finished_at or "", default=None)
    if last is None or last.attempts > MOST_RESUMED:
        raise MigrationError(
            f"A swap of migration {work.id} was interrupted and cannot be completed"
            + (f": {last.error}" if last is not None else "")
            + " Look where the aliases point; nothing is copied or deleted meanwhile."
        )
    return last


async def has_moved_nothing(work: Work) -> bool:
    """Whether a swap or rollback that died had not moved any alias yet; the phase tells which of them it was."""
    cutover = work.migration.cutover
    if work.migration.intent != "swapping" or cutover is None:
        return False
    is_rollback = work.migration.phase is Phase.CUT_OVER
    aliases = await work.target.aliases()
    return all(aliases.get(m.alias) == (m.current if is_rollback else m.previous) for m in cutover.moves)


async def _fit(work: Work, arguments: dict[str, Any]) -> BaseModel:
    """Fit the linear map on a sample, judge it, and keep it with the migration."""
    migration = work.migration
    embedder = await work.embedder()
    assert is_dense(embedder)

    async def show(progress: Progress) -> None:
        work.progress.stage, work.progress.read, work.progress.total = progress.stage, progress.read, progress.total

    distance = next(f.distance for f in fields_of(migration.create) if f.name == work.made_field)
    found, report, held_out = await fit(
        work.source,
        work.source_collection,
        migration.making.source_field or "",
        work.texts.of,
        embedder,
        distance=distance,
        sample_size=migration.sample_size or SAMPLE_SIZE,
        progress=show,
    )
    await work.ledger.save_map(work.id, found)
    # The same driver may go on with the backfill.
    work.deriver = Deriver.linear_map(found)
    await work.ledger.save_held_out(work.id, held_out)
    await work.change(lambda m: m.model_copy(update={"fitted": report}))
    await work.record(
        "fitted",
        f"{report.kind}: recall@{report.k} {report.recall:.3f} ({report.ci_low:.3f} to {report.ci_high:.3f}) on {report.held_out} held-out points",
    )
    return report


async def _verify(work: Work, arguments: dict[str, Any]) -> Verification:
    work.migration.check_allows("verify_target")
    is_copied = work.migration.writes != "frozen" and work.migration.is_serving_source and not work.migration.is_in_place
    if is_copied and not work.source.connection.is_embedded:
        # The ordinary catch-up first, so that the verification judges the copy and not the minute.
        work.progress.stage = "catching up before the verification"
        await catch_up_pass(work)
    found = await verify(work, provenance_sample=int(arguments.get("provenance_sample", 200)))
    await _record_verification(work, found)
    return found


async def _record_verification(work: Work, found: Verification) -> None:
    event = "verified" if found.is_complete else "found_incomplete"

    def change(migration: Migration) -> Migration:
        filled = migration.filled
        if filled is not None and found.coverage is not None:
            counts = {"points": found.target_points, "with_vector": round(found.coverage * found.target_points), "at": found.at}
            filled = filled.model_copy(update=counts)
        return migration.model_copy(update={"verification": found, "filled": filled, "phase": migration.after(event)})  # type: ignore[arg-type]

    await work.change(change)
    await work.record(
        event, "; ".join(found.problems) or f"{found.target_points} points proven equal, {found.provenance.sampled} vectors embedded again"
    )


async def _repair(work: Work, arguments: dict[str, Any]) -> BaseModel:
    work.migration.check_allows("repair_target")
    found = await repair(work, provenance_sample=int(arguments.get("provenance_sample", 200)))
    await _record_verification(work, found.verification)
    await work.record("repaired", str(found.repaired))
    return found


async def _compare(work: Work, arguments: dict[str, Any]) -> Comparison:
    work.migration.check_allows("compare_models")

    async def show(progress: Progress) -> None:
        work.progress.stage, work.progress.read, work.progress.total = progress.stage, progress.read, progress.total

    found = await compare_migration(work.context, work.migration, **arguments, progress=show)
    await work.change(lambda m: m.model_copy(update={"comparison": found}))
    gate = "" if found.gate == "not_required" else f"; gate: {found.gate}"
    await work.record("compared", f"{found.verdict} on {found.queries} queries ({found.query_source}){gate}")
    return found


async def _swap(work: Work, arguments: dict[str, Any]) -> BaseModel:
    return await swap(work, **arguments)


async def _finish(work: Work, arguments: dict[str, Any]) -> BaseModel:
    return await finish(work, **arguments)


_HANDLERS: dict[str, Callable[[Work, dict[str, Any]], Awaitable[BaseModel]]] = {
    "fit": _fit,
    "verify": _verify,
    "repair": _repair,
    "compare": _compare,
    "swap": _swap,
    "finish": _finish,
}
