"""Is a vector that another writer wrote wrong found, whichever point it is, and named for what it is? By the numbers of operations, on one shard."""

from __future__ import annotations

from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.catch_up import catch_up_pass
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.repair import repair
from qdrant_model_migration.operations.requests import LocalOperations
from qdrant_model_migration.operations.verify import verify
from qdrant_model_migration.operations.work import Work, open_work
from qdrant_model_migration.results import SourceMatch, Verification
from qdrant_model_migration.tools.support import App
from qdrant_model_migration.tools.verify_target import verified as told
from qdrant_model_migration.worker.detach import Drivers
from tests.conftest import Backend
from tests.qdrant import cutovers
from tests.qdrant.cutovers import backend_of, backfilled, impatient, swap
from tests.qdrant.seeds import OLD, opened, text
from tests.qdrant.test_filling import filling_work, once, rows, set_payload, uuid_of, wrong
from tests.servers import QdrantServer

SAME_SIZE = "builtin:hashing-64-words"
"""As large as the old model's vectors, in another space."""
POINTS = 300
SAMPLE = 5
"""By chance it finds next to nothing of a few among 300."""
MATCH = SourceMatch(model=OLD, text_field="text", sampled=32, min_cosine=1.0, mean_cosine=1.0, threshold=0.9999, is_match=True)
KNOWN: dict[str, Any] = {"model": SAME_SIZE, "current_model": OLD, "source_match": MATCH, "dense_field": ""}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


@pytest.fixture
def embedded_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is embedded from now on."""
    found: list[str] = []
    real = HashingEmbedder.embed

    async def noting(self: HashingEmbedder, texts: list[str], side: Side) -> Any:
        found.extend(texts)
        return await real(self, texts, side)

    monkeypatch.setattr(HashingEmbedder, "embed", noting)
    return found


async def writes(work: Work, model: str, *ids: PointId, words: str | None = None, collection: str | None = None) -> None:
    """Another writer, that embeds with this model."""
    embedder = await work.context.catalogue.load(model)
    texts = [words or text(int(i)) for i in ids]
    vectors = await embedder.embed(texts, Side.DOCUMENT)
    points = [Point(id=i, payload={"text": t, "n": i}, vectors={"": v.tolist()}) for i, t, v in zip(ids, texts, vectors, strict=True)]
    await work.target.points.write(collection or work.migration.target.collection, points)


def answer(context: OperationContext, work: Work, found: Verification) -> Any:
    app = App(context=context, drivers=Drivers(context), local=LocalOperations())
    return told(app, work.migration, found)


async def test_a_dual_writer_with_the_old_model_is_found_named_and_only_its_points_are_embedded_again(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, embedded_texts: list[str]
) -> None:
    """Its payloads are right and its vectors of the right size. One with the new model is not blamed."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS}, **KNOWN)
        await writes(work, OLD, *range(40, 47))
        await writes(work, SAME_SIZE, 100, 200)
        found = await verify(work, provenance_sample=SAMPLE)
        checked = found.provenance
        assert (checked.others, checked.others_checked, checked.others_wrong) == (9, 9, 7)
        assert found.problems == [
            f"7 of 9 points that another writer wrote hold vectors of the old model {OLD!r}, not of {SAME_SIZE!r}: that writer was not changed"
        ]
        said = answer(context, work, found)
        assert said.next_step.tool == "repair_target"
        assert any(f"First change that writer: documents are embedded with {SAME_SIZE}" in w for w in said.warnings)
        embedded_texts.clear()
        outcome = await repair(work, provenance_sample=SAMPLE)
        assert outcome.repaired.bad_vectors == 7
        assert outcome.verification.is_complete, outcome.verification.problems
        assert len(embedded_texts) < POINTS, "not the whole collection"
        embedded_texts.clear()
        again = await verify(work, provenance_sample=SAMPLE)
        assert (again.is_complete, again.provenance.others) == (True, 0)
        assert len(embedded_texts) <= 2 * SAMPLE, "what was looked at needs no look again"


async def test_without_a_stated_model_the_writer_is_named_by_the_sources_vectors(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS}, model=SAME_SIZE, dense_field="")
        await writes(work, OLD, 7, 8)
        found = await verify(work, provenance_sample=SAMPLE)
        assert found.problems[0].startswith(
            f"2 of 2 points that another writer wrote hold vectors of '{name}-docs', those of the old model"
        )
        await work.target.points.write(
            work.migration.target.collection, [Point(id=8, payload={"text": text(8), "n": 8}, vectors={"": [1.0] + [0.0] * 63})]
        )
        await writes(work, SAME_SIZE, 7)
        found = await verify(work, provenance_sample=SAMPLE)
        assert found.problems == [
            f"1 of 2 points that another writer wrote hold vectors that {SAME_SIZE!r} does not make of their text: that writer embeds something else"
        ]


async def test_a_writer_that_goes_on_with_the_old_model_after_the_swap_is_found_and_named(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the alias, into the target; nothing but the app may put it right there."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS}, **KNOWN)
        assert (await cutovers.verify(work)).is_complete
        await swap(work)
        assert work.migration.phase is Phase.CUT_OVER
        work.migration.check_allows("verify_target")
        await writes(work, SAME_SIZE, 900, 901, 902, collection=f"{name}-alias")
        await writes(work, OLD, 3, 4, 903, 904, words="written after the swap", collection=f"{name}-alias")
        found = await verify(work, provenance_sample=SAMPLE)
        assert (
            f"4 of 7 points that another writer wrote hold vectors of the old model {OLD!r}, not of {SAME_SIZE!r}: that writer was not changed"
            in found.problems
        )
        assert found.wrong_model_samples == ["i:3", "i:4", "i:903", "i:904"]
        said = answer(context, work, found)
        assert said.next_step is None
        assert any("have it write those points again (wrong_model_samples names some)" in w for w in said.warnings)
        with pytest.raises(Refused):
            work.migration.check_allows("repair_target")
        await writes(work, SAME_SIZE, 3, 4, 903, 904, words="written after the swap", collection=f"{name}-alias")
        assert (await verify(work, provenance_sample=SAMPLE)).provenance.wrong == 0


async def test_after_a_swap_to_another_dimension_old_writes_are_refused(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 400, which the plan and app_changes tell."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await cutovers.swapped(context, name)
        client = QdrantClient(url=server.url, check_compatibility=False)
        try:
            with pytest.raises(UnexpectedResponse, match="dimension error") as raised:
                client.upsert(f"{name}-alias", [models.PointStruct(id=3, vector=[0.1] * 64, payload={"text": "late"})], wait=True)
        finally:
            client.close()
        assert raised.value.status_code == 400
        found = await verify(work, provenance_sample=SAMPLE)
        assert (found.is_complete, found.provenance.others) == (True, 0)


async def test_a_vector_that_the_catch_up_keeps_is_still_the_other_writers(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another key of the payload changed in the source: the catch-up writes the whole point, with the vector that it finds."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS}, **KNOWN)
        await writes(work, OLD, 40)
        await work.source.call(
            lambda: work.source.call.rest.set_payload(work.migration.source.collection, {"flag": 1}, points=[40, 41], wait=True)
        )
        _, repaired = await catch_up_pass(work)
        assert repaired.changed == 2
        checked = (await verify(work, provenance_sample=SAMPLE)).provenance
        assert (checked.others, checked.others_wrong) == (2, 1)


async def test_a_text_that_is_edited_alone_after_its_point_was_filled_is_found_and_embedded_again(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, embedded_texts: list[str]
) -> None:
    """`set_payload` leaves the vector standing. Each such point is found, and no other one is embedded again; also by the next driver."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await filling_work(context, name, points=rows(POINTS))
        await once(work)
        await work.save_own()
        edited: list[PointId] = [3, uuid_of(4), 101, uuid_of(200)]
        for point_id in edited:
            await set_payload(work, point_id, {"text": f"edited alone {point_id}"})
        await set_payload(work, 5, {"flag": 1})
        work = await open_work(context, work.migration, lambda: None)
        embedded_texts.clear()
        found = await verify(work, provenance_sample=SAMPLE)
        checked = found.provenance
        assert (checked.others, checked.others_checked, checked.others_wrong) == (5, 5, 4)
        assert "4 of 5 points that another writer wrote" in found.problems[0]
        assert "a text was edited alone (set_payload)" in found.problems[0]
        assert len(embedded_texts) <= 2 * (5 + SAMPLE)
        embedded_texts.clear()
        outcome = await repair(work, provenance_sample=SAMPLE)
        assert outcome.repaired.bad_vectors == 4
        assert outcome.verification.is_complete, outcome.verification.problems
        assert len(embedded_texts) < POINTS / 2
        assert await wrong(work) == []
        note = outcome.verification.provenance.note or ""
        assert note.endswith("every other vector is this tool's own, made of the text that the point still has")
        assert (await verify(work, provenance_sample=SAMPLE)).provenance.others == 0


async def test_what_a_driver_that_died_did_not_record_is_embedded_again_and_believed_only_then(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await filling_work(context, name, points=rows(40))
        await once(work)
        await set_payload(work, 3, {"text": "edited alone"})
        work = await open_work(context, work.migration, lambda: None)
        checked = (await verify(work, provenance_sample=SAMPLE)).provenance
        assert (checked.others, checked.others_checked, checked.others_wrong) == (40, 40, 1)
        assert (await repair(work, provenance_sample=SAMPLE)).verification.is_complete
        assert await wrong(work) == []


async def test_many_points_of_others_are_looked_at_in_part_and_that_is_said(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS}, **KNOWN)
        await writes(work, SAME_SIZE, *range(60))
        checked = (await verify(work, provenance_sample=SAMPLE)).provenance
        assert (checked.others, checked.others_checked, checked.is_rest_own) == (60, 50, False)
        assert checked.note is not None
        assert "provenance_sample=6 looks at every one" in checked.note
        checked = (await verify(work, provenance_sample=6)).provenance
        assert (checked.others, checked.others_checked, checked.is_rest_own) == (60, 60, True)
        assert (await verify(work, provenance_sample=6)).provenance.others == 0


async def test_numbers_of_a_collection_that_was_made_anew_are_not_believed(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": 40}, **KNOWN)
        work.own.looked(10_000)
        await writes(work, OLD, 7)
        checked = (await verify(work, provenance_sample=SAMPLE)).provenance
        assert (checked.others, checked.others_wrong) == (40, 1)


async def test_where_operations_are_not_numbered_the_sample_is_what_there_is(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several shards, and the embedded database: points that differ since the swap are looked at as well."""
    async with opened(any_qdrant, monkeypatch) as context:
        create = {} if any_qdrant.is_embedded else {"shard_number": 2}
        work = await backfilled(context, name, seeded={"points": POINTS, "create": create}, **KNOWN)
        assert (await cutovers.verify(work)).is_complete
        await swap(work)
        await writes(work, OLD, 3, 904, words="written after the swap", collection=f"{name}-alias")
        found = await verify(work, provenance_sample=SAMPLE)
        checked = found.provenance
        assert (checked.others, checked.others_checked, checked.others_wrong, checked.is_rest_own) == (None, 2, 2, False)
        assert any(f"2 of 2 points that another writer wrote hold vectors of the old model {OLD!r}" in p for p in found.problems)
