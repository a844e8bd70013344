"""How is a difference put right? Guarded passes over everything that a verification judges, until one finds nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.verification import Difference, Kind, made_vector_problem
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.catch_up import catch_up_pass, rewrite
from qdrant_model_migration.operations.filling import FillPass, fill_pass, rewrite_vectors
from qdrant_model_migration.operations.other_writers import others
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import ProvenanceCheck, Repaired, RepairOutcome

MOST_PASSES = 4


async def repair(work: Work, *, provenance_sample: int) -> RepairOutcome:
    """Insert what is missing, delete what is extra, rewrite what changed, embed bad vectors and accounted failures again; then verify."""
    if work.made is None:
        # Configuration only: what the server has not taken is set by start_backfill.
        return RepairOutcome(repaired=Repaired(), verification=await verify(work, provenance_sample=provenance_sample))
    total = Repaired()
    work.progress.stage = "retrying failed points"
    await _forget_failures(work)
    if work.migration.serves_while_filled:
        return await _repair_filled(work, provenance_sample=provenance_sample)
    for number in range(MOST_PASSES):
        work.progress.stage = f"repairing, pass {number + 1}"
        _, repaired = await catch_up_pass(work, checks_made=True)
        total = Repaired(
            missing=total.missing + repaired.missing,
            extra=total.extra + repaired.extra,
            changed=total.changed + repaired.changed,
            bad_vectors=total.bad_vectors + repaired.bad_vectors,
            left=repaired.left,
        )
        if not (repaired.missing or repaired.extra or repaired.changed or repaired.bad_vectors or repaired.left):
            break
    verification = await verify(work, provenance_sample=provenance_sample)
    if verification.provenance.wrong:
        total.bad_vectors += await _embed_wrong_again(work, verification.provenance)
        verification = await verify(work, provenance_sample=provenance_sample)
    return RepairOutcome(repaired=total, verification=verification)


async def _pages(work: Work, name: str, fields: list[str]) -> AsyncIterator[list[Point]]:
    """The target's points, page by page, counted in the progress."""
    offset: PointId | None = None
    read = 0
    while True:
        page, offset = await work.target.points.scroll(name, offset=offset, limit=work.page, vectors=fields)
        yield page
        read += len(page)
        work.progress.read = read
        if offset is None:
            return


async def _pages_of(work: Work, name: str, ids: Sequence[PointId], fields: list[str]) -> AsyncIterator[list[Point]]:
    """These points of the target, page by page."""
    work.progress.total = len(ids)
    for start in range(0, len(ids), work.page):
        found = await work.target.points.retrieve(name, ids[start : start + work.page], vectors=fields)
        yield list(found.values())
        work.progress.read = min(start + work.page, len(ids))


async def _repair_filled(work: Work, *, provenance_sample: int) -> RepairOutcome:
    """Fill what lacks the new field, embed bad vectors again, and nothing else: an app reads and writes these points."""
    total = Repaired()

    async def no_pace(found: FillPass, spent: int) -> None:
        work.progress.read = found.seen

    for number in range(MOST_PASSES):
        work.progress.stage = f"filling, pass {number + 1}"
        found = await fill_pass(work, is_stopping=lambda: False, on_window=no_pace)
        total.missing += found.written
        if not found.written:
            break
    work.progress.stage = "looking for bad vectors"
    async for page in _pages(work, work.migration.target.collection, [work.made_field]):
        bad = [p for p in page if work.made_field in p.vectors and made_vector_problem(p.vectors[work.made_field], work.made)]
        total.bad_vectors += await rewrite_vectors(work, bad, is_stopping=lambda: False)
    verification = await verify(work, provenance_sample=provenance_sample)
    if verification.provenance.wrong:
        total.bad_vectors += await _embed_wrong_again(work, verification.provenance)
        verification = await verify(work, provenance_sample=provenance_sample)
    return RepairOutcome(repaired=total, verification=verification)


async def _forget_failures(work: Work) -> None:
    """Points that could not be embedded get another try: the passes find them as bad vectors, and account for them anew."""
    failed = [f for f in await work.ledger.failed(work.id) if f.is_stored]
    work.check()
    await work.ledger.remove_failed(work.id, [f.point_id for f in failed])


async def _embed_wrong_again(work: Work, checked: ProvenanceCheck) -> int:
    """Vectors of another model or of an earlier text were found: embed again what may be so, and rewrite what disagrees.

    Where only points of other writers are wrong, and it is known which those are, these; else every text, which costs as much as the backfill.
    """
    name, fields = work.migration.target.collection, [*work.copied.values(), work.made_field]
    embedder = await work.embedder()
    target = await work.target.describe(name)
    held = target.field(work.made_field)
    datatype = held.datatype if held else "float32"
    numbered = await others(work, target) if checked.wrong == checked.others_wrong else None
    if numbered is not None:
        work.progress.stage = "embedding again what other writers wrote"
        pages = _pages_of(work, name, numbered.ids, fields)
    else:
        work.progress.stage = "embedding every text again, because sampled vectors were not the stated model's"
        pages = _pages(work, name, fields)
    rewritten = 0
    async for page in pages:
        filled = [(p, text) for p in page if (text := work.texts.of(p)) and p.vectors.get(work.made_field) is not None]
        if filled:
            result = await agreement(embedder, [t for _, t in filled], [p.vectors[work.made_field] for p, _ in filled], datatype=datatype)
            wrong = [filled[i][0] for i in result.wrong]
            if work.migration.serves_while_filled:
                rewritten += await rewrite_vectors(work, wrong, is_stopping=lambda: False)
                continue
            sources = await work.source.points.retrieve(work.migration.source.collection, [p.id for p in wrong], vectors=work.read_fields)
            found = [
                Difference(kind=Kind.BAD_VECTOR, id=p.id, source=sources[p.id], target=p, why="not the stated model's vector")
                for p in wrong
                if p.id in sources
            ]
            await rewrite(work, found)
            rewritten += len(found)
    return rewritten
