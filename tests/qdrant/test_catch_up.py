"""Does the target follow the source, whatever an app does between the looks, and is nothing of the app's overwritten?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.domain.records import FailedRecord
from qdrant_model_migration.domain.verification import Tally
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.diff import differences, expectation
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.worker.pipeline import Pipeline
from tests.conftest import Backend
from tests.qdrant.seeds import opened, seed, text
from tests.qdrant.works import between_the_looks, held, work_on

OLD_VECTOR = [0.1] * 64


async def backfilled(work: Work) -> Work:
    await Pipeline(work, is_stopping=lambda: False).run()
    return work


async def put(work: Work, number: PointId, payload: Payload, **vectors: Any) -> None:
    """An app's write to the source."""
    await work.source.points.write(
        work.migration.source.collection, [Point(id=number, payload=payload, vectors={"": OLD_VECTOR, **vectors})]
    )


async def remove(work: Work, number: PointId, *, side: str = "source") -> None:
    collection = work.migration.source.collection if side == "source" else work.migration.target.collection
    await work.source.points.delete_if(collection, number, observed={})


async def embedded(work: Work, words: str) -> list[float]:
    return [float(x) for x in (await (await work.embedder()).embed([words], Side.DOCUMENT))[0]]


async def target_is_recipes_of_source(work: Work) -> bool:
    """Ids, payloads and the new model's vectors, read without the code under test."""
    name = work.migration.source.collection
    sources, _ = await work.source.points.scroll(name, offset=None, limit=1000)
    targets = await held(work, vectors=("",))
    assert {p.id: p.payload for p in sources} == {i: p.payload for i, p in targets.items()}
    for point_id, point in targets.items():
        expected = work.texts.of(point)
        if expected is not None:
            np.testing.assert_allclose(point.vectors[""], await embedded(work, expected), atol=1e-5, err_msg=str(point_id))
    return True


async def test_a_pass_carries_inserts_edits_and_deletes_over(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=30)
        work = await backfilled(await work_on(context, name))
        await put(work, 100, {"text": "inserted", "n": 100})
        await put(work, 3, {"text": "edited", "n": 3})
        await put(work, 4, {"text": text(4), "n": "only the payload"})
        await remove(work, 5)
        lag, repaired = await catch_up_pass(work)
        assert (lag.missing, lag.extra, lag.changed) == (1, 1, 2)
        assert (repaired.missing, repaired.extra, repaired.changed, repaired.left) == (1, 1, 2, 0)
        assert await target_is_recipes_of_source(work)
        lag, _ = await catch_up_pass(work, checks_made=True)
        assert (lag.missing, lag.extra, lag.changed) == (0, 0, 0)


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_copied_vectors_and_wide_integers_converge_over_either_transport(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    """A page with an integer beyond 2^63 is read over REST, and the same floats look different there."""
    many = {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}
    fields = {"a": {"size": 64, "distance": "Cosine"}, "b": {"size": 3, "distance": "Dot"}, "m": many}
    create = {"vectors": fields, "sparse_vectors": {"s": {"modifier": "idf"}}}

    def others(n: int) -> dict[str, Any]:
        return {"b": [0.1, 0.2, n + 0.3], "m": [[0.1, n + 0.7]] * 2, "s": {"indices": [n, 1000], "values": [0.1, 0.3]}}

    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        await seed(context, name, points=300, vector="a", create=create, others=others)
        work = await backfilled(await work_on(context, name, vector="a"))
        wide = Point(id=5, payload={"text": "wide", "n": 2**64 - 1}, vectors={"a": OLD_VECTOR, **others(5)})
        moved = Point(id=6, payload={"text": text(6)}, vectors={"a": OLD_VECTOR, **others(7)})
        await work.source.points.write(name, [wide, moved])
        lag, repaired = await catch_up_pass(work, checks_made=True)
        assert (lag.changed, repaired.changed, repaired.left) == (2, 2, 0)
        lag, _ = await catch_up_pass(work, checks_made=True)
        assert (lag.missing, lag.extra, lag.changed) == (0, 0, 0)
        points = await held(work, vectors=("b", "m", "s"))
    assert points[5].payload == {"text": "wide", "n": 2**64 - 1}
    np.testing.assert_allclose(points[6].vectors["b"], [0.1, 0.2, 7.3], rtol=1e-6)


Act = Callable[[Work], Awaitable[None]]

DISTURBANCES: dict[str, tuple[Act, Act]] = {
    "an edit of the edited": (lambda w: put(w, 1, {"text": "first"}), lambda w: put(w, 1, {"text": "second"})),
    "a delete of the inserted": (lambda w: put(w, 99, {"text": "new"}), lambda w: remove(w, 99)),
    "an edit of the inserted": (lambda w: put(w, 99, {"text": "new"}), lambda w: put(w, 99, {"text": "newer"})),
    "an insert of the deleted": (lambda w: remove(w, 2), lambda w: put(w, 2, {"text": "back again"})),
    "a delete of the edited": (lambda w: put(w, 3, {"text": "edited"}), lambda w: remove(w, 3)),
}
"""What the app does before the first look, and between the two."""


@pytest.mark.parametrize("disturbance", DISTURBANCES)
async def test_what_moves_between_the_looks_is_left_for_the_next_pass(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, disturbance: str
) -> None:
    before, between = DISTURBANCES[disturbance]
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=10)
        work = await backfilled(await work_on(context, name, writes="live"))
        await before(work)
        untouched = {i: p.payload for i, p in (await held(work)).items()}
        async with between_the_looks(work, lambda: between(work)):
            _, repaired = await catch_up_pass(work)
        assert (repaired.missing, repaired.extra, repaired.changed, repaired.left) == (0, 0, 0, 1)
        assert {i: p.payload for i, p in (await held(work)).items()} == untouched
        await catch_up_pass(work)
        assert await target_is_recipes_of_source(work)


async def test_what_a_dual_writer_wrote_to_the_target_meanwhile_stays(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look saw an older point: the guard keeps the newer one, and the next pass finds nothing to do."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=10)
        work = await backfilled(await work_on(context, name, writes="dual_write"))
        await put(work, 1, {"text": "first"})
        replace = work.target.points.replace
        newer = {"text": "second"}

        async def after_a_dual_write(collection: str, point: Point, *, observed: Payload, whole: bool) -> None:
            await put(work, 1, newer)
            await work.target.points.write(collection, [Point(id=1, payload=newer, vectors={"": await embedded(work, "second")})])
            await replace(collection, point, observed=observed, whole=whole)

        monkeypatch.setattr(work.target.points, "replace", after_a_dual_write)
        await catch_up_pass(work)
        monkeypatch.undo()
        assert (await held(work))[1].payload == newer
        assert await target_is_recipes_of_source(work)


async def test_a_point_deleted_while_it_was_embedded_does_not_live_on(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=10)
        work = await backfilled(await work_on(context, name))
        await put(work, 99, {"text": "inserted"})
        await put(work, 1, {"text": "edited"})
        embedder = await work.embedder()
        embed = embedder.embed

        async def while_deleting(texts: Any, side: Side) -> Any:
            for number in (1, 99):
                await remove(work, number)
            return await embed(texts, side)

        monkeypatch.setattr(embedder, "embed", while_deleting)
        await catch_up_pass(work)
        monkeypatch.undo()
        assert not {1, 99} & set(await held(work))


@pytest.mark.parametrize("policy", ["payload_only", "skip"])
async def test_texts_that_come_and_go_follow_the_policy(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """A point that was skipped for want of a text is inserted when it has one; one that loses it goes, or keeps its payload."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=10, payload=lambda n: {"text": text(n)} if n % 2 else {"title": text(n)})
        work = await backfilled(await work_on(context, name, on_missing_text=policy))
        assert len(await held(work)) == (10 if policy == "payload_only" else 5)
        await put(work, 0, {"text": "at last"})
        await put(work, 1, {"title": "no text any more"})
        await catch_up_pass(work, checks_made=True)
        lag, _ = await catch_up_pass(work, checks_made=True)
        assert (lag.missing, lag.extra, lag.changed) == (0, 0, 0)
        points = await held(work, vectors=("",))
        failed = {f.point_id for f in await work.ledger.failed(work.id)}
        verification = await verify(work, provenance_sample=10)
    np.testing.assert_allclose(points[0].vectors[""], await embedded(work, "at last"), atol=1e-5)
    assert failed == set()
    if policy == "skip":
        assert 1 not in points
    else:
        assert points[1].payload == {"title": "no text any more"}
        assert points[1].vectors == {}
    assert (verification.missing, verification.extra, verification.changed, verification.bad_vectors) == (0, 0, 0, 0)
    assert verification.accounted == 5


async def test_a_repair_puts_every_kind_of_damage_right(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=40)
        work = await backfilled(await work_on(context, name, writes="frozen"))
        await work.target.update(work.migration.target.collection, {"optimizers": work.migration.restore})
        target = work.migration.target.collection
        stranger = await embedded(work, "something else entirely")
        await remove(work, 1, side="target")
        damage = [
            Point(id=500, payload={"text": "extra"}, vectors={"": stranger}),
            Point(id=2, payload={"text": "changed"}, vectors={"": stranger}),
            Point(id=3, payload={"text": text(3), "n": 3}, vectors={}),
            Point(id=4, payload={"text": text(4), "n": 4}, vectors={"": stranger}),
        ]
        await work.target.points.write(target, damage)
        await work.ledger.add_failed(work.id, [FailedRecord(point_id="i:3", reason="failed once", is_stored=True)])
        outcome = await repair(work, provenance_sample=100)
        assert await target_is_recipes_of_source(work)
        assert await work.ledger.failed(work.id) == []
    repaired = outcome.repaired
    assert (repaired.missing, repaired.extra, repaired.changed, repaired.bad_vectors) == (1, 1, 1, 2)
    assert outcome.verification.problems == []
    assert outcome.verification.is_complete


async def test_a_verification_of_a_damaged_target_counts_and_writes_nothing(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=20)
        work = await backfilled(await work_on(context, name, writes="frozen"))
        await remove(work, 1, side="target")
        await put(work, 2, {"text": "edited"})
        before = {i: p.payload for i, p in (await held(work)).items()}
        found = await verify(work, provenance_sample=10)
        assert {i: p.payload for i, p in (await held(work)).items()} == before
    assert (found.is_complete, found.missing, found.changed, found.extra) == (False, 1, 1, 0)
    assert found.missing_samples == ["i:1"]
    assert found.changed_samples == ["i:2"]
    assert found.sample_reasons == {"i:1": "not in the target", "i:2": "payload differs in n, text"}


async def test_a_poison_row_is_accounted_for_and_keeps_its_payload(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy of a failure: payload without vector, listed, not counted as missing; an edit gives it another try."""
    from qdrant_model_migration.errors import BadText

    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=10, payload=lambda n: {"text": "poison" if n == 7 else text(n)})
        work = await work_on(context, name, writes="frozen")
        embedder = await work.embedder()
        embed = embedder.embed

        async def refusing(texts: Any, side: Side) -> Any:
            if "poison" in texts:
                raise BadText("this text cannot be embedded.")
            return await embed(texts, side)

        monkeypatch.setattr(embedder, "embed", refusing)
        await backfilled(work)
        assert [f.point_id for f in await work.ledger.failed(work.id)] == ["i:7"]
        assert (await held(work, vectors=("",)))[7].vectors == {}
        tally = Tally()
        assert [d async for d in differences(work, await expectation(work, checks_made=True), tally)] == []
        assert tally.accounted == 1
        await put(work, 7, {"text": "an antidote"})
        await catch_up_pass(work)
        assert await work.ledger.failed(work.id) == []
        assert await target_is_recipes_of_source(work)


async def test_a_strict_collection_is_verified_and_caught_up_with(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pages, no exact search, no filter without an index: as the source, and as the target after the cutover."""
    strict = {"enabled": True, "max_query_limit": 20, "search_allow_exact": False, "unindexed_filtering_update": False}
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60, payload=lambda n: {"text": text(n), "n": n / 7})
        gateway = await context.gateway()
        await gateway.update(name, {"strict_mode": strict})
        work = await backfilled(await work_on(context, name, writes="frozen"))
        await gateway.update(work.migration.target.collection, {"optimizers": work.migration.restore, **work.migration.on_cutover})
        await put(work, 1, {"text": "edited", "n": 0.5})
        await remove(work, 2)
        await put(work, 500, {"text": "inserted"})
        _, repaired = await catch_up_pass(work)
        assert (repaired.missing, repaired.extra, repaired.changed, repaired.left) == (1, 1, 1, 0)
        found = await verify(work, provenance_sample=50)
    assert found.problems == []
    assert found.provenance.sampled >= 10
