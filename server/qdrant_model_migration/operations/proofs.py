"""Do the vectors come from the stated model, and does the index find them? Samples, drawn at random and where doubt is greatest."""

from __future__ import annotations

from itertools import islice

from qdrant_model_migration.domain.collection import Collection, FieldKind
from qdrant_model_migration.domain.points import tag, untag
from qdrant_model_migration.domain.verification import made_vector_problem, same_vector, wrong_share_upper_bound
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import ProvenanceCheck

MOST_FOREIGN = 100
"""Points that somebody else may have written, embedded again beside the random sample."""
READY_TIMEOUT_S = 600.0

_NO_SAMPLE = {
    "truncate": "every vector was compared with the cut one of the source; there is nothing to embed again",
    "linear_map": "every vector was compared with the mapped one of the source; how well the map fits was measured before",
    "none": "no vector of a model is due yet",
}


async def provenance(work: Work, target: Collection, size: int, population: int) -> tuple[ProvenanceCheck, dict[str, str]]:
    if size <= 0 or population == 0:
        return ProvenanceCheck(note="no vector was embedded again" if size <= 0 else "the target is empty"), {}
    if work.made is None or work.made.is_derived or not work.makes_now:
        return ProvenanceCheck(note=_NO_SAMPLE[work.made.kind if work.made is not None and work.made.is_derived else "none"]), {}
    if work.migration.spec.is_server_side and work.context.settings.is_read_only:
        return ProvenanceCheck(
            note="the server shows the vectors of its own model on a scratch collection only, which read-only mode forbids"
        ), {}
    name, field = target.name, work.made.field
    drawn = {p.id: p for p in await work.target.points.sample(name, min(size, target.page_limit or size), vectors=[field])}
    listed = islice((point_id for r in await work.ledger.ranges(work.id) for point_id in r.foreign), MOST_FOREIGN)
    foreign = await work.target.points.retrieve(name, [untag(p) for p in listed], vectors=[field])
    checked = [
        (p, text)
        for p in {**drawn, **foreign}.values()
        if (text := work.texts.of(p)) and made_vector_problem(p.vectors.get(field), work.made) is None
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


async def is_index_ready(work: Work, target: Collection) -> bool:
    """Sustained green, and known points found by their own vectors through the index.

    One that is found suffices: many equal vectors cut an HNSW graph into parts, so that a finished index misses points (up to two in three
    were seen, whatever `ef`). How well it finds is the comparison's question.
    """
    if not await work.target.wait_until_ready(target.name, timeout_s=READY_TIMEOUT_S):
        return False
    if work.made is None or not work.makes_now:
        return True
    if work.made.vector_kind is not FieldKind.DENSE:
        # Sparse indexes are built with the write, and a reranking field has none.
        return True
    field = work.made.field
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
