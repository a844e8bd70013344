"""Is a field filled in points that an app goes on reading and writing without a wrong vector, a lost one, or a point brought back?"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Payload, Point, PointId, tag
from qdrant_model_migration.domain.recipe import Endpoint, Recipe
from qdrant_model_migration.domain.records import Pace
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.errors import BadText, Interrupted, Refused
from qdrant_model_migration.operations import filling
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.filling import FillPass, fill_pass
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work, open_work
from qdrant_model_migration.qdrant.vectors import Vectors
from qdrant_model_migration.worker.stages import fill
from tests.conftest import Backend
from tests.qdrant.cutovers import acting_before, backend_of, impatient
from tests.qdrant.seeds import opened, text
from tests.servers import QdrantServer

OLD = [0.1] * 8
SIZE = 32
MODEL = f"builtin:hashing-{SIZE}"
POINTS = 12


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


SHAPES: dict[str, tuple[str, Callable[[str], Payload]]] = {
    "field": ("text", lambda words: {"text": words}),
    "nested": ("meta.body", lambda words: {"meta": {"body": words}}),
    "JSON in a string": ("node.text", lambda words: {"node": json.dumps({"text": words})}),
    "template": ("{title} {body}", lambda words: {"title": words, "body": "report"}),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


# --- the collection of an app, and a driver's hold on it


async def filling_work(
    context: OperationContext,
    name: str,
    *,
    points: list[Point],
    text_field: str = "text",
    create: dict[str, Any] | None = None,
    **fields: Any,
) -> Work:
    """A collection that serves, with an old field and an empty new one beside it."""
    gateway, ledger = await context.gateway(), await context.ledger()
    spec = (await context.catalogue.load(MODEL)).spec
    added = {"new": {"size": SIZE, "distance": "Cosine"}}
    await gateway.create_collection(name, {"vectors": {"old": {"size": 8, "distance": "Cosine"}, **added}, **(create or {})})
    for start in range(0, len(points), 200):
        await gateway.points.write(name, points[start : start + 200])
    migration = Migration(
        id=f"m-{name}",
        arguments_digest="test",
        created_at=now(),
        strategy="named_vector",
        placement="in_place",
        source=Endpoint(collection=name),
        target=Endpoint(collection=name),
        recipes=(Recipe(field="new", kind="embed", source_field="old", stage="fill", dimensions=SIZE),),
        model=spec,
        text_field=text_field,
        create={"vectors": added},
        is_filling=True,
        **{"phase": Phase.BACKFILLED, "writes": "live", **fields},
    )
    await ledger.create()
    assert await ledger.add_migration(migration)
    return await open_work(context, migration, lambda: None)


def rows(count: int = POINTS, payload: Callable[[str], Payload] = lambda words: {"text": words}) -> list[Point]:
    """Integers and UUIDs by turns."""
    return [Point(id=n if n % 2 else uuid_of(n), payload=payload(text(n)), vectors={"old": OLD}) for n in range(count)]


async def once(work: Work) -> FillPass:
    async def no_pace(found: FillPass, spent: int) -> None:
        pass

    return await fill_pass(work, is_stopping=lambda: False, on_window=no_pace)


async def held(work: Work) -> dict[PointId, Point]:
    found, offset = await work.target.points.scroll(work.migration.target.collection, offset=None, limit=2000, vectors=["old", "new"])
    assert offset is None
    return {p.id: p for p in found}


async def wrong(work: Work, *, may_lack: bool = False) -> list[str]:
    """Points whose new vector is not that of their text, by the model alone."""
    model = HashingEmbedder(f"hashing-{SIZE}")
    found: list[str] = []
    for point in (await held(work)).values():
        words, vector = work.texts.of(point), point.vectors.get("new")
        if vector is None:
            found += [] if words is None or may_lack else [f"{tag(point.id)} lacks its vector"]
        elif words is None:
            found.append(f"{tag(point.id)} has a vector of no text")
        elif np.abs(np.array(vector) - (await model.embed([words], Side.DOCUMENT))[0]).max() > 1e-5:
            found.append(f"{tag(point.id)} has the vector of another text")
    return found


# --- what the app does


async def set_payload(work: Work, point_id: PointId, payload: Payload) -> None:
    name = work.migration.target.collection
    await work.target.call(lambda: work.target.call.rest.set_payload(name, payload, points=[point_id]))


async def remove_keys(work: Work, point_id: PointId, keys: list[str]) -> None:
    name = work.migration.target.collection
    await work.target.call(lambda: work.target.call.rest.delete_payload(name, keys, points=[point_id]))


async def delete(work: Work, *ids: PointId) -> None:
    for point_id in ids:
        await work.target.points.delete_if(work.migration.target.collection, point_id, observed=(await held(work))[point_id].payload)


async def upsert(work: Work, *points: Point) -> None:
    await work.target.points.write(work.migration.target.collection, points)


ActOn = Callable[[Work], Awaitable[None]]


# --- tests


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_text_that_is_edited_between_the_read_and_the_write_gets_no_vector_of_the_old_text(
    any_qdrant: Backend, name: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_field, payload = SHAPES[shape]
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(payload=payload), text_field=text_field)

        async def edit() -> None:
            for point_id in (3, uuid_of(4)):
                await set_payload(work, point_id, payload("edited meanwhile"))

        with acting_before(monkeypatch, filling, "embed_texts", edit):
            await once(work)
        assert await wrong(work, may_lack=True) == []
        await once(work)
        assert await wrong(work) == []


async def test_the_guard_alone_keeps_an_edited_text_from_the_old_vector(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the driver dies right after the write: nobody looks back."""
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())

        async def edit() -> None:
            for point_id in (3, uuid_of(4)):
                await set_payload(work, point_id, {"text": "edited meanwhile"})

        async def no_look(*_: Any) -> None:
            pass

        monkeypatch.setattr(filling, "_look_back", no_look)
        with acting_before(monkeypatch, filling, "embed_texts", edit):
            await once(work)
        assert sorted(map(tag, (i for i, p in (await held(work)).items() if p.vectors.get("new") is None))) == sorted(
            [tag(3), tag(uuid_of(4))]
        )
        assert await wrong(work, may_lack=True) == []


@pytest.mark.parametrize("shape", ["field", "nested"])
async def test_a_text_that_is_removed_meanwhile_leaves_no_vector(
    any_qdrant: Backend, name: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_field, payload = SHAPES[shape]
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(payload=payload), text_field=text_field)

        async def take_away() -> None:
            for point_id in (3, uuid_of(4)):
                await remove_keys(work, point_id, list(payload("")))

        with acting_before(monkeypatch, filling, "embed_texts", take_away):
            await once(work)
        found = await held(work)
        assert {i for i, p in found.items() if p.vectors.get("new") is None} == {3, uuid_of(4)}
        assert (await once(work)).without_text == 2


async def test_a_text_that_is_edited_at_every_look_is_left_to_the_next_pass(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its vector: with one, no pass would look at it again."""
    text_field, payload = SHAPES["nested"]
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(payload=payload), text_field=text_field)
        real, edits = work.target.points.retrieve, 0

        async def editing(*arguments: Any, **options: Any) -> Any:
            nonlocal edits
            edits += 1
            await set_payload(work, 3, payload(f"edit {edits}"))
            return await real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(work.target.points, "retrieve", editing)
            await once(work)
        assert edits >= filling.MOST_LOOKS
        assert await wrong(work, may_lack=True) == []
        assert (await held(work))[3].vectors.get("new") is None
        await once(work)
        assert await wrong(work) == []


async def test_a_text_that_is_edited_again_before_its_vector_is_replaced_keeps_no_vector_of_the_first_text(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard keeps the second text's vector from the third text; the first one's must not stay there for good."""
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())
        real, edits = work.target.points.retrieve, 0

        async def editing(*arguments: Any, **options: Any) -> Any:
            nonlocal edits
            edits += 1
            if edits == 1:
                await set_payload(work, 3, {"text": "edited after the write"})
            return await real(*arguments, **options)

        async def again() -> None:
            await set_payload(work, 3, {"text": "edited again"})

        with monkeypatch.context() as patch, acting_before(monkeypatch, Vectors, "refill", again):
            patch.setattr(work.target.points, "retrieve", editing)
            await once(work)
        assert await wrong(work, may_lack=True) == []
        await once(work)
        assert await wrong(work) == []


async def test_points_that_are_deleted_in_the_middle_of_a_batch_stay_deleted_and_the_others_are_filled(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())

        async def take_away() -> None:
            await delete(work, 5, uuid_of(6))

        with acting_before(monkeypatch, Vectors, "fill", take_away):
            found = await once(work)
        assert (found.seen, found.written) == (POINTS, POINTS - 2)
        assert (await held(work)).keys() == {p.id for p in rows()} - {5, uuid_of(6)}
        assert await wrong(work) == []


async def test_a_point_that_is_deleted_while_its_vector_is_replaced_stays_deleted(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_field, payload = SHAPES["nested"]
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(payload=payload), text_field=text_field)

        async def edit() -> None:
            await set_payload(work, 3, payload("edited meanwhile"))
            await set_payload(work, uuid_of(4), payload("edited as well"))

        async def take_away() -> None:
            await delete(work, 3)

        with acting_before(monkeypatch, filling, "embed_texts", edit), acting_before(monkeypatch, Vectors, "refill", take_away):
            await once(work)
        assert 3 not in await held(work)
        assert await wrong(work) == []


async def test_an_upsert_that_drops_the_vector_is_found_and_filled_again(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())
        await once(work)
        await upsert(work, *(Point(id=i, payload={"text": f"upserted {i}"}, vectors={"old": OLD}) for i in (3, uuid_of(4), 900)))
        found = await once(work)
        assert (found.seen, found.written) == (3, 3)
        assert await wrong(work) == []
        assert (await once(work)).seen == 0


async def test_a_vector_that_the_app_writes_itself_is_left_alone(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the fill, and in the middle of it together with another text."""
    own = [1.0] + [0.0] * (SIZE - 1)
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())
        await upsert(work, Point(id=3, payload={"text": "by the app"}, vectors={"old": OLD, "new": own}))

        async def write() -> None:
            await upsert(work, Point(id=5, payload={"text": "by the app as well"}, vectors={"old": OLD, "new": own}))
            await upsert(work, Point(id=7, payload={"text": text(7)}, vectors={"old": OLD, "new": own}))
            await upsert(work, Point(id=uuid_of(8), payload={}, vectors={"old": OLD, "new": own}))

        with acting_before(monkeypatch, filling, "embed_texts", write):
            await once(work)
        found = await held(work)
        assert [i for i, p in found.items() if p.vectors["new"] == own] == [3, 5, 7, uuid_of(8)]
        assert [p.payload for i, p in found.items() if i in (3, 5)] == [{"text": "by the app"}, {"text": "by the app as well"}]


async def test_pages_of_points_without_a_text_hide_none_that_has_one(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_text = {0, 255, 256, 511, 700}
    points = [Point(id=n, payload={"text": text(n)} if n in has_text else {"text": " "}, vectors={"old": OLD}) for n in range(701)]
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=points)
        found = await once(work)
        assert (found.seen, found.written, found.without_text) == (701, 5, 696)
        assert await wrong(work) == []
        verification = await verify(work, provenance_sample=50)
        assert (verification.missing, verification.accounted) == (0, 696)
        assert verification.is_complete, verification.problems
        assert verification.coverage == pytest.approx(5 / 701)


async def test_bad_vectors_are_found_and_embedded_again(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero vector, which every server takes, and one of nowhere, which only the sample tells."""
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(), writes="frozen")
        await once(work)
        await upsert(work, Point(id=3, payload={"text": text(3)}, vectors={"old": OLD, "new": [0.0] * SIZE}))
        await upsert(work, Point(id=5, payload={"text": text(5)}, vectors={"old": OLD, "new": [1.0] + [0.0] * (SIZE - 1)}))
        await set_payload(work, uuid_of(4), {"text": "an edit of the text alone"})
        before = await verify(work, provenance_sample=50)
        assert not before.is_complete
        assert (before.bad_vectors, before.provenance.wrong) == (1, 2)
        outcome = await repair(work, provenance_sample=50)
        assert outcome.verification.is_complete, outcome.verification.problems
        assert outcome.repaired.bad_vectors == 3
        assert await wrong(work) == []


async def test_a_verification_fills_what_an_app_drops_meanwhile(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that were said to be frozen are a finding instead."""
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows())
        await once(work)
        dropping = Point(id=3, payload={"text": "upserted without the new vector"}, vectors={"old": OLD})
        await upsert(work, dropping)
        found = await verify(work, provenance_sample=50)
        assert found.is_complete, found.problems
        assert await wrong(work) == []
        await upsert(work, dropping)
        work.migration = work.migration.model_copy(update={"writes": "frozen"})
        found = await verify(work, provenance_sample=50)
        assert (found.is_complete, found.missing, found.missing_samples) == (False, 1, ["i:3"])


async def test_texts_that_cannot_be_embedded_are_recorded_and_too_many_stop_the_filling(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = HashingEmbedder.embed

    async def fails(self: HashingEmbedder, texts: list[str], side: Side) -> Any:
        if any("poison" in t for t in texts):
            raise BadText("this model does not take poison")
        return await real(self, texts, side)

    monkeypatch.setattr(HashingEmbedder, "embed", fails)
    async with opened(any_qdrant, monkeypatch) as context:
        poisoned = [Point(id=i, payload={"text": f"poison {i}"}, vectors={"old": OLD}) for i in (3, 5)]
        work = await filling_work(context, name, points=[*(p for p in rows() if p.id not in (3, 5)), *poisoned])
        work.pace = Pace(max_failed_points=1)
        with pytest.raises(Refused, match="2 points could not be embedded, more than max_failed_points=1"):
            await once(work)
        assert {i for i, p in (await held(work)).items() if p.vectors.get("new") is None} == {3, 5}, "the rest of the window is filled"
        work.pace = Pace(max_failed_points=2)
        await fill(work, lambda: False)
        assert sorted(f.point_id for f in await work.ledger.failed(work.id)) == ["i:3", "i:5"]
        found = await verify(work, provenance_sample=50)
        assert (found.is_complete, found.accounted) == (True, 2)
        monkeypatch.setattr(HashingEmbedder, "embed", real)
        assert (await repair(work, provenance_sample=50)).repaired.missing == 2
        assert await work.ledger.failed(work.id) == []
        assert await wrong(work) == []


async def test_a_paused_filling_stops_between_windows_and_goes_on_with_what_is_missing(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = HashingEmbedder.embed

    async def counts(self: HashingEmbedder, texts: list[str], side: Side) -> Any:
        asked.extend(texts)
        if len(asked) >= 256:
            work.pace = Pace(is_paused=True)
        return await real(self, texts, side)

    monkeypatch.setattr(HashingEmbedder, "embed", counts)
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(600), writes="frozen")
        work.pace = Pace(concurrency=1, points_per_second=10_000)
        with pytest.raises(Interrupted):
            await fill(work, lambda: False)
        filled = 600 - await work.target.vectors.count_missing(name, "new")
        assert 0 < filled < 600
        assert await wrong(work, may_lack=True) == []
        asked.clear()
        work.pace = Pace()
        monkeypatch.setattr(HashingEmbedder, "embed", real)
        await fill(work, lambda: False)
        assert await wrong(work) == []
        assert work.migration.filled is not None
        assert (work.migration.filled.with_vector, work.migration.filled.has_converged) == (600, True)


async def test_a_filling_that_a_writer_never_lets_come_to_nothing_is_over_all_the_same(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pass finds more than a small lag: it is as complete as the writer leaves it. With writes said to be frozen that is an error."""
    async with opened(any_qdrant, monkeypatch) as context:
        work = await filling_work(context, name, points=rows(150))
        ids = [p.id for p in rows(150)][:130]

        async def dropping(*arguments: Any, **options: Any) -> FillPass:
            found = await fill_pass(*arguments, **options)
            await upsert(work, *(Point(id=i, payload={"text": "again"}, vectors={"old": OLD}) for i in ids))
            return found

        monkeypatch.setattr("qdrant_model_migration.worker.stages.fill_pass", dropping)
        await fill(work, lambda: False)
        assert work.migration.filled is not None
        assert work.migration.filled.has_converged
        work.migration = work.migration.model_copy(update={"writes": "frozen", "filled": None})
        monkeypatch.setattr("qdrant_model_migration.worker.stages.MOST_FILLS", 3)
        with pytest.raises(Exception, match="although writes were said to be frozen"):
            await fill(work, lambda: False)


async def test_strict_mode_and_a_text_index_do_not_keep_a_field_from_being_filled(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strict mode refuses conditions on fields without an index; then the look back alone does it."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        indexed = await filling_work(context, f"{name}-a", points=rows())
        await indexed.target.create_payload_index(f"{name}-a", "text", {"params": {"type": "text", "tokenizer": "word"}})
        strict = await filling_work(context, f"{name}-b", points=rows())
        mode = {"enabled": True, "unindexed_filtering_retrieve": False, "unindexed_filtering_update": False}
        await strict.target.update(f"{name}-b", {"strict_mode": mode})
        for work in (indexed, strict):

            async def edit(work: Work = work) -> None:
                for point_id in (3, uuid_of(4)):
                    await set_payload(work, point_id, {"text": "edited meanwhile"})

            with acting_before(monkeypatch, filling, "embed_texts", edit):
                await fill(work, lambda: False)
            assert await wrong(work) == []
