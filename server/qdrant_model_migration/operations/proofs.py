"""Do the vectors come from the stated model, and does the index find them? Samples, drawn at random and where doubt is greatest."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import islice

from qdrant_model_migration.domain.collection import Collection, FieldKind
from qdrant_model_migration.domain.points import Point, PointId, order_key, tag, untag
from qdrant_model_migration.domain.verification import made_vector_problem, same_vector, wrong_share_upper_bound
from qdrant_model_migration.operations.agreement import agreement
from qdrant_model_migration.operations.other_writers import Others, of_the_old_model, others, settle
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import ProvenanceCheck

MOST_FOREIGN = 100
"""Points that somebody else may have written, embedded again beside the random sample, where operations are not numbered."""
OTHERS_A_SAMPLE = 10
"""Points that somebody else wrote, for each one of the random sample that was asked for; beyond that they are drawn at random."""
EMBEDDED_AT_ONCE = 1000
"""Their vectors are held in memory."""
READY_TIMEOUT_S = 600.0

_NO_SAMPLE = {
    "truncate": "every vector was compared with the cut one of the source; there is nothing to embed again",
    "linear_map": "every vector was compared with the mapped one of the source; how well the map fits was measured before",
    "none": "no vector of a model is due yet",
}


async def provenance(
    work: Work, target: Collection, size: int, population: int, *, suspects: Sequence[PointId] = ()
) -> tuple[ProvenanceCheck, dict[str, str]]:
    """Embed a random sample again, and the points that somebody else wrote: all of them as far as operations are numbered.

    `suspects` are points that differ between the sides: elsewhere they show where somebody else may have written. Returns the counts, and
    what is wrong with each wrong point.
    """
    if size <= 0 or population == 0:
        return ProvenanceCheck(note="no vector was embedded again" if size <= 0 else "the target is empty"), {}
    if work.made is None or work.made.is_derived or not work.makes_now:
        return ProvenanceCheck(note=_NO_SAMPLE[work.made.kind if work.made is not None and work.made.is_derived else "none"]), {}
    if work.migration.spec.is_server_side and work.context.settings.is_read_only:
        return ProvenanceCheck(
            note="the server shows the vectors of its own model on a scratch collection only, which read-only mode forbids"
        ), {}
    name, field = target.name, work.made.field
    # First, so that what is written meanwhile is for the next look.
    numbered = await others(work, target)
    drawn = {p.id: p for p in await work.target.points.sample(name, min(size, target.page_limit or size), vectors=[field])}
    chosen, note = await _chosen(work, numbered, size, suspects)
    looked = _Looked(work, target)
    await looked.at([p for p in drawn.values() if p.id not in chosen])
    random_wrong, random_size = len(looked.wrong), looked.count
    ids = list(chosen)
    for start in range(0, len(ids), EMBEDDED_AT_ONCE):
        page = ids[start : start + EMBEDDED_AT_ONCE]
        held = [p for i in range(0, len(page), work.page) for p in await _held(work, target, page[i : i + work.page])]
        # Only the random draw says something about the points that were not looked at.
        before, wrong_before = looked.count, len(looked.wrong)
        await looked.at([p for p in held if p.id in drawn])
        random_size, random_wrong = random_size + looked.count - before, random_wrong + len(looked.wrong) - wrong_before
        await looked.at([p for p in held if p.id not in drawn])
    if not looked.count:
        note = "none of the sampled points has both text and vector"
    of_others = [(p, text) for p, text, _ in looked.wrong if p.id in chosen]
    check = ProvenanceCheck(
        sampled=looked.count,
        min_cosine=round(min(looked.cosines), 6) if looked.count else None,
        mean_cosine=round(sum(looked.cosines) / looked.count, 6) if looked.count else None,
        threshold=round(looked.threshold, 6) if looked.count else None,
        wrong=len(looked.wrong),
        upper_bound=round(wrong_share_upper_bound(random_wrong, random_size, population), 6) if looked.count else None,
        note=note,
        others=len(numbered.ids) if numbered is not None else None,
        others_checked=len(chosen),
        others_wrong=len(of_others),
        wrong_vectors_of=await of_the_old_model(work, of_others) if of_others else None,
    )
    if numbered is not None and not looked.wrong and check.is_rest_own:
        await settle(work, numbered)
    in_order = sorted(looked.wrong, key=lambda wrong: order_key(wrong[0].id))
    return check, {tag(p.id): f"cosine {cosine:.4f}" for p, _, cosine in in_order}


async def _chosen(work: Work, numbered: Others | None, size: int, suspects: Sequence[PointId]) -> tuple[dict[PointId, None], str | None]:
    """The points of others that are embedded again, and what is to be said of that."""
    if numbered is None:
        listed = islice((untag(i) for r in await work.ledger.ranges(work.id) for i in r.foreign), MOST_FOREIGN)
        found = dict.fromkeys([*listed, *suspects[:MOST_FOREIGN]])
        return found, f"{len(found)} more than the random draw: another writer may have written them" if found else None
    most = OTHERS_A_SAMPLE * size
    if len(numbered.ids) > most:
        note = (
            f"{most:,} of {len(numbered.ids):,} points that another writer touched, drawn at random, were embedded again; "
            f"provenance_sample={math.ceil(len(numbered.ids) / OTHERS_A_SAMPLE):,} looks at every one"
        )
        return dict.fromkeys(random.sample(numbered.ids, most)), note
    note = (
        f"all {len(numbered.ids):,} points that another writer touched were embedded again"
        if numbered.ids
        else "no other writer touched a point"
    )
    return dict.fromkeys(numbered.ids), f"{note}; every other vector is this tool's own, made of the text that the point still has"


async def _held(work: Work, target: Collection, ids: Sequence[PointId]) -> list[Point]:
    return list((await work.target.points.retrieve(target.name, ids, vectors=[work.made_field])).values())


class _Looked:
    """Vectors that were embedded again, one lot after another."""

    def __init__(self, work: Work, target: Collection) -> None:
        self._work = work
        stored = target.field(work.made_field)
        self._datatype = stored.datatype if stored else "float32"
        self.cosines: list[float] = []
        self.threshold = 1.0
        self.wrong: list[tuple[Point, str, float]] = []

    @property
    def count(self) -> int:
        return len(self.cosines)

    async def at(self, points: Sequence[Point]) -> None:
        """Those that have both a text and a vector that can be one of the model's."""
        field, made = self._work.made_field, self._work.made
        checked = [(p, t) for p in points if (t := self._work.texts.of(p)) and made_vector_problem(p.vectors.get(field), made) is None]
        if not checked:
            return
        vectors = [p.vectors[field] for p, _ in checked]
        result = await agreement(await self._work.embedder(), [t for _, t in checked], vectors, datatype=self._datatype)
        self.cosines += [float(c) for c in result.cosines]
        self.threshold = min(self.threshold, result.threshold)
        self.wrong += [(*checked[i], float(result.cosines[i])) for i in result.wrong]


def provenance_problems(work: Work, check: ProvenanceCheck) -> list[str]:
    """What a verification says of vectors that do not come from the stated model: whose they are, where it can be told."""
    name = work.migration.spec.name if check.wrong else ""
    found: list[str] = []
    if check.others_wrong:
        head = f"{check.others_wrong} of {check.others_checked} points that another writer wrote hold vectors"
        if check.wrong_vectors_of is not None:
            found.append(f"{head} of {check.wrong_vectors_of}, not of {name!r}: that writer was not changed")
        else:
            edited = "a text was edited alone (set_payload), or " if work.migration.has_fill_stage else ""
            found.append(f"{head} that {name!r} does not make of their text: {edited}that writer embeds something else")
    if check.wrong > check.others_wrong:
        found.append(f"{check.wrong - check.others_wrong} of {check.sampled} sampled vectors do not come from the stated model")
    return found


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
