"""Is the target complete and right? Every id, payload and vector, a sample of provenance, configuration and index. Never writes."""

from __future__ import annotations

from itertools import islice

import anyio

from qdrant_model_migration.domain.collection import config_differences
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.verification import Difference, Expectation, Kind, Tally
from qdrant_model_migration.operations.catch_up import settle
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import differences, expectation, look_again
from qdrant_model_migration.operations.filling import coverage
from qdrant_model_migration.operations.proofs import is_index_ready as check_index
from qdrant_model_migration.operations.proofs import provenance as check_provenance
from qdrant_model_migration.operations.proofs import provenance_problems
from qdrant_model_migration.operations.verify_filled import SAMPLES, verify_filled
from qdrant_model_migration.operations.work import PAGE, Work
from qdrant_model_migration.results import ConfigDifference, Repaired, Verification

MOST_LOOKED_AT_AGAIN = 20_000
"""Differences that get a second look; beyond that the target is plainly not complete."""


MOST_LOOKS = 5
"""While an app writes."""


async def verify(work: Work, *, provenance_sample: int, may_catch_up: bool = True) -> Verification:
    """Compare both sides completely.

    While an app writes to the source, what it wrote during the scan is first carried over by the ordinary catch-up, and only what
    then still differs is counted.
    """
    if work.migration.serves_while_filled:
        return await verify_filled(work, provenance_sample=provenance_sample, may_fill=may_catch_up)
    work.progress.stage = "verifying"
    work.progress.total = work.source_collection.points
    mark = await work.source_mark() if may_catch_up and work.migration.is_serving_source else None
    expected = await expectation(work, checks_made=True)
    tally = Tally()
    found: dict[PointId, Difference] = {}
    began = anyio.current_time()
    async for difference in differences(work, expected, tally):
        if len(found) < MOST_LOOKED_AT_AGAIN:
            found[difference.id] = difference
        work.progress.read = tally.source_points
    pass_s = anyio.current_time() - began
    beyond = sum(tally.differences.values()) - len(found)
    remaining = list(found.values())
    if may_catch_up and work.migration.writes != "frozen" and work.migration.is_serving_source:
        remaining = await _after_catching_up(work, expected, remaining)
    by_kind = {kind: [d for d in remaining if d.kind is kind] for kind in Kind}
    target = await work.target.describe(work.migration.target.collection)
    source = await work.source.describe(work.migration.source.collection)
    work.progress.stage = "checking provenance"
    suspects = [d.id for d in remaining if d.target is not None]
    provenance, wrong = await check_provenance(work, target, provenance_sample, tally.target_points, suspects=suspects)
    work.progress.stage = "waiting for the index"
    is_index_ready = await check_index(work, target)
    diff = config_differences(source, target, work.migration.intended)
    unplanned = [d for d in diff if not d.is_intended]
    problems = _problems(by_kind, beyond, provenance_problems(work, provenance), unplanned, is_index_ready=is_index_ready)
    return Verification(
        is_complete=not problems,
        source_points=tally.source_points,
        target_points=tally.target_points,
        missing=len(by_kind[Kind.MISSING]) + beyond,
        extra=len(by_kind[Kind.EXTRA]),
        changed=len(by_kind[Kind.CHANGED]),
        bad_vectors=len(by_kind[Kind.BAD_VECTOR]),
        accounted=tally.accounted,
        provenance=provenance,
        config_diff=diff,
        is_index_ready=is_index_ready,
        missing_samples=_samples(by_kind[Kind.MISSING]),
        extra_samples=_samples(by_kind[Kind.EXTRA]),
        changed_samples=_samples(by_kind[Kind.CHANGED]),
        bad_vector_samples=_samples(by_kind[Kind.BAD_VECTOR]),
        wrong_model_samples=list(wrong)[:SAMPLES],
        sample_reasons={
            **{tag(d.id): d.why for found in by_kind.values() for d in found[:SAMPLES]},
            **dict(islice(wrong.items(), SAMPLES)),
        },
        problems=problems,
        at=now(work.ledger),
        pass_seconds=round(pass_s, 1),
        lease_epoch=work.epoch,
        source_operation=mark,
        coverage=await _coverage(work),
    )


async def _after_catching_up(work: Work, expected: Expectation, found: list[Difference]) -> list[Difference]:
    """What still differs after what was written meanwhile was carried over.

    An app writes on during each look: what is left of one is new again in part, and the less it is, the surer the next look sees it through.
    """
    for _ in range(MOST_LOOKS):
        if not found:
            break
        late = [d for d in found if d.kind is not Kind.BAD_VECTOR]
        for start in range(0, len(late), PAGE):
            await settle(work, expected, late[start : start + PAGE], Repaired())
        found = await look_again(work, expected, [d.id for d in found])
        if all(d.kind is Kind.BAD_VECTOR for d in found):
            break
    return found


async def _coverage(work: Work) -> float | None:
    """Share of the target's points that hold the field that is filled later; None where there is no such field."""
    if not work.migration.has_fill_stage:
        return None
    return (await coverage(work)).share


def _samples(found: list[Difference]) -> list[str]:
    return [tag(d.id) for d in found[:SAMPLES]]


def _problems(
    by_kind: dict[Kind, list[Difference]],
    beyond: int,
    of_provenance: list[str],
    unplanned: list[ConfigDifference],
    *,
    is_index_ready: bool,
) -> list[str]:
    words = {Kind.MISSING: "missing", Kind.EXTRA: "extra", Kind.CHANGED: "changed", Kind.BAD_VECTOR: "with a bad vector"}
    problems = [f"{len(found)} points {words[kind]}" for kind, found in by_kind.items() if found]
    if beyond:
        problems.append(f"{beyond} further differences")
    problems += of_provenance
    if unplanned:
        problems.append(f"configuration differs in {', '.join(d.path for d in unplanned[:5])}")
    if not is_index_ready:
        problems.append("the index is still being built")
    return problems
