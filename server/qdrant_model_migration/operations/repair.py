"""How is a difference put right? Guarded passes over everything that a verification judges, until one finds nothing more."""

from __future__ import annotations

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.verification import Difference, Kind
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.catch_up import catch_up_pass, rewrite
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import Repaired, RepairOutcome

MOST_PASSES = 4


async def repair(work: Work, *, provenance_sample: int) -> RepairOutcome:
    """Insert what is missing, delete what is extra, rewrite what changed, embed bad vectors and accounted failures again; then verify."""
    total = Repaired()
    work.progress.stage = "retrying failed points"
    await _forget_failures(work)
    for number in range(MOST_PASSES):
        work.progress.stage = f"repairing, pass {number + 1}"
        _, repaired = await catch_up_pass(work, checks_embedded=True)
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
        total.bad_vectors += await _embed_wrong_again(work)
        verification = await verify(work, provenance_sample=provenance_sample)
    return RepairOutcome(repaired=total, verification=verification)


async def _forget_failures(work: Work) -> None:
    """Points that could not be embedded get another try: the passes find them as bad vectors, and account for them anew."""
    failed = [f for f in await work.ledger.failed(work.id) if f.is_stored]
    work.check()
    await work.ledger.remove_failed(work.id, [f.point_id for f in failed])


async def _embed_wrong_again(work: Work) -> int:
    """A sample found vectors of another model, so nobody knows how many there are: embed every text again, rewrite what disagrees.

    Costs as much embedding as the backfill did.
    """
    work.progress.stage = "embedding every text again, because sampled vectors were not the stated model's"
    name, fields = work.migration.target.collection, [*work.copied.values(), work.embed_field]
    embedder = await work.embedder()
    held = (await work.target.describe(name)).field(work.embed_field)
    datatype = held.datatype if held else "float32"
    rewritten = read = 0
    offset: PointId | None = None
    while True:
        page, offset = await work.target.points.scroll(name, offset=offset, limit=work.page, vectors=fields)
        checked = [(p, text) for p in page if (text := work.text.extract(p.payload)) and p.vectors.get(work.embed_field) is not None]
        if checked:
            result = await agreement(
                embedder, [t for _, t in checked], [p.vectors[work.embed_field] for p, _ in checked], datatype=datatype
            )
            wrong = [checked[i][0] for i in result.wrong]
            sources = await work.source.points.retrieve(work.migration.source.collection, [p.id for p in wrong], vectors=list(work.copied))
            found = [
                Difference(kind=Kind.BAD_VECTOR, id=p.id, source=sources[p.id], target=p, why="not the stated model's vector")
                for p in wrong
                if p.id in sources
            ]
            await rewrite(work, found)
            rewritten += len(found)
        read += len(page)
        work.progress.read = read
        if offset is None:
            return rewritten
