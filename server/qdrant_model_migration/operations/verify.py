"""Is the target complete and right? Every id, payload and vector, a sample of provenance, configuration and index. Never writes."""

from __future__ import annotations

from itertools import islice

from qdrant_model_migration.domain.collection import Collection, config_differences
from qdrant_model_migration.domain.points import PointId, tag, untag
from qdrant_model_migration.domain.verification import Difference, Kind, Tally, same_vector, wrong_share_upper_bound
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.catch_up import settle
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.operations.diff import differences, expectation, look_again
from qdrant_model_migration.operations.work import PAGE, Work
from qdrant_model_migration.results import ConfigDifference, ProvenanceCheck, Repaired, Verification

SAMPLES = 10
MOST_FOREIGN = 100
"""Points that somebody else may have written, embedded again beside the random sample."""
MOST_LOOKED_AT_AGAIN = 20_000
"""Differences that get a second look; beyond that the target is plainly not complete."""
READY_TIMEOUT_S = 600.0


async def verify(work: Work, *, provenance_sample: int, may_catch_up: bool = True) -> Verification:
    """Compare both sides completely.

    While an app writes to the source, what it wrote during the scan is first carried over by the ordinary catch-up, and only what
    then still differs is counted.
    """
    work.progress.stage = "verifying"
    work.progress.total = work.source_collection.points
    mark = (
        await work.source.points.watermark(work.migration.source.collection) if may_catch_up and work.migration.is_serving_source else None
    )
    expected = await expectation(work, checks_embedded=True)
    tally = Tally()
    found: dict[PointId, Difference] = {}
    async for difference in differences(work, expected, tally):
        if len(found) < MOST_LOOKED_AT_AGAIN:
            found[difference.id] = difference
        work.progress.read = tally.source_points
    beyond = sum(tally.differences.values()) - len(found)
    if found and may_catch_up and work.migration.writes != "frozen" and work.migration.is_serving_source:
        late = [d for d in found.values() if d.kind is not Kind.BAD_VECTOR]
        for start in range(0, len(late), PAGE):
            await settle(work, expected, late[start : start + PAGE], Repaired())
        remaining = await look_again(work, expected, found)
    else:
        remaining = list(found.values())
    by_kind = {kind: [d for d in remaining if d.kind is kind] for kind in Kind}
    target = await work.target.describe(work.migration.target.collection)
    source = await work.source.describe(work.migration.source.collection)
    work.progress.stage = "checking provenance"
    provenance, wrong = await _provenance(work, target, provenance_sample, tally.target_points)
    work.progress.stage = "waiting for the index"
    is_index_ready = await _is_index_ready(work, target)
    diff = config_differences(source, target, work.migration.intended)
    unplanned = [d for d in diff if not d.is_intended]
    problems = _problems(by_kind, beyond, provenance, unplanned, is_index_ready=is_index_ready)
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
        at=now(),
        lease_epoch=work.epoch,
        source_operation=mark,
    )


def _samples(found: list[Difference]) -> list[str]:
    return [tag(d.id) for d in found[:SAMPLES]]


def _problems(
    by_kind: dict[Kind, list[Difference]],
    beyond: int,
    provenance: ProvenanceCheck,
    unplanned: list[ConfigDifference],
    *,
    is_index_ready: bool,
) -> list[str]:
    words = {Kind.MISSING: "missing", Kind.EXTRA: "extra", Kind.CHANGED: "changed", Kind.BAD_VECTOR: "with a bad vector"}
    problems = [f"{len(found)} points {words[kind]}" for kind, found in by_kind.items() if found]
    if beyond:
        problems.append(f"{beyond} further differences")
    if provenance.wrong:
        problems.append(f"{provenance.wrong} of {provenance.sampled} sampled vectors do not come from the stated model")
    if unplanned:
        problems.append(f"configuration differs in {', '.join(d.path for d in unplanned[:5])}")
    if not is_index_ready:
        problems.append("the index is still being built")
    return problems


async def _provenance(work: Work, target: Collection, size: int, population: int) -> tuple[ProvenanceCheck, dict[str, str]]:
    if size <= 0 or population == 0:
        return ProvenanceCheck(note="no vector was embedded again" if size <= 0 else "the target is empty"), {}
    name, field = target.name, work.embed_field
    drawn = {p.id: p for p in await work.target.points.sample(name, min(size, target.page_limit or size), vectors=[field])}
    listed = islice((point_id for r in await work.ledger.ranges(work.id) for point_id in r.foreign), MOST_FOREIGN)
    foreign = await work.target.points.retrieve(name, [untag(p) for p in listed], vectors=[field])
    checked = [
        (p, text)
        for p in {**drawn, **foreign}.values()
        if (text := work.text.extract(p.payload)) and len(p.vectors.get(field) or ()) == work.migration.model.dimensions
    ]
    if not checked:
        return ProvenanceCheck(note="none of the sampled points has both text and vector"), {}
    stored = target.field(field)
    datatype = stored.datatype if stored else "float32"
    result = await agreement(await work.embedder(), [t for _, t in checked], [p.vectors[field] for p, _ in checked], datatype=datatype)
    wrong = result.wrong
    # Only the random draw says something about the others.
    random_wrong = sum(checked[i][0].id in drawn for i in wrong)
    random_size = sum(p.id in drawn for p, _ in checked)
    check = ProvenanceCheck(
        sampled=len(checked),
        min_cosine=round(float(result.cosines.min()), 6),
        mean_cosine=round(float(result.cosines.mean()), 6),
        threshold=round(result.threshold, 6),
        wrong=len(wrong),
        upper_bound=round(wrong_share_upper_bound(random_wrong, random_size, population), 6),
        note=f"{len(foreign)} more than the random draw: they were in the target before this tool came to them" if foreign else None,
    )
    return check, {tag(checked[i][0].id): f"cosine {result.cosines[i]:.4f}" for i in wrong}


async def _is_index_ready(work: Work, target: Collection) -> bool:
    """Sustained green, and known points found by their own vectors through the index.

    One that is found suffices: many equal vectors cut an HNSW graph into parts, so that a finished index misses points (up to two in three
    were seen, whatever `ef`). How well it finds is the comparison's question.
    """
    if not await work.target.wait_until_ready(target.name, timeout_s=READY_TIMEOUT_S):
        return False
    field = work.embed_field
    most = min(10, target.page_limit or 10)
    has_vectors = False
    for point in await work.target.points.sample(target.name, most, vectors=[field]):
        vector = point.vectors.get(field)
        if vector is None:
            continue
        has_vectors = True
        hits = await work.target.points.search(target.name, vector, using=field, limit=most, exact=False, payload=False)
        # Many points may share one text, so that the point itself need not be among the first; an equal vector will do.
        others = await work.target.points.retrieve(target.name, [h.id for h in hits], payload=False, vectors=[field])
        if point.id in others or any(same_vector(p.vectors.get(field), vector) for p in others.values()):
            return True
    return not has_vectors
