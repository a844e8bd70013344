"""Does a rollback bring to the old collection what was written through the alias, with vectors of the old model, and nothing else?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.embedders.retrying import Failure, embed_resilient
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations import carry_back as module
from qdrant_model_migration.operations import swap as swapping
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.fencing import check_fence_age
from qdrant_model_migration.operations.report import markdown_report
from qdrant_model_migration.operations.status import read_status
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.results import SourceMatch
from tests.faults.test_edges import driven_until
from tests.qdrant.cutovers import (
    acting_before,
    backend_of,
    delete,
    impatient,
    planned_finish,
    planned_swap,
    swap,
    swapped,
    to_source,
    to_target,
    verify,
)
from tests.qdrant.seeds import OLD, opened, text
from tests.qdrant.works import held
from tests.servers import QdrantServer

MATCH = SourceMatch(model=OLD, text_field="text", sampled=32, threshold=0.99, is_match=True)
KNOWN: dict[str, Any] = {"current_model": OLD, "source_match": MATCH}
UUID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


async def sources(work: Work) -> dict[PointId, Point]:
    points, offset = await work.source.points.scroll(work.migration.source.collection, offset=None, limit=1000, vectors=[""])
    assert offset is None
    return {p.id: p for p in points}


async def old_vector(work: Work, words: str) -> list[float]:
    return [float(x) for x in (await (await work.context.model(OLD)).embed([words], Side.DOCUMENT))[0]]


async def backfilled_again(work: Work) -> Migration:
    """After a rollback: the migration once the target is up to date, or its driver stopped."""
    work.context.ensure_driver = _nobody
    await start_backfill(work.context, migration_id=work.id)
    return await driven_until(work, Phase.BACKFILLED)


async def set_payload(work: Work, point_id: int, payload: dict[str, Any]) -> None:
    """Through the alias, without a vector."""
    client = work.target.points._call.rest
    await client.set_payload(work.migration.target.collection, payload, points=[point_id], wait=True)


@pytest.mark.parametrize("fence", [True, False], ids=["fenced", "unfenced"])
async def test_what_the_alias_got_goes_back_and_what_the_source_got_stays(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, fence: bool
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        before = await sources(work)
        await to_target(work, 5, {"text": "another text"})
        await set_payload(work, 6, {"flag": [1, None, {"a": 2**60}]})
        await to_target(work, 500, {"text": "a new point"})
        await work.target.points.write(
            work.migration.target.collection,
            [Point(id=UUID, payload={"text": text(3)}, vectors={"": (await held(work, vectors=("",)))[3].vectors[""]})],
        )
        await delete(work, 7, side="target")
        # By a writer that was not moved; one of them to a point that the alias got a write to as well.
        await to_source(work, 8, {"text": "written late"})
        await to_source(work, 9, {"text": "written late"})
        await to_target(work, 9, {"text": "written through the alias"})
        await delete(work, 10)

        plan = await planned_swap(work, "back", fence=fence)
        assert "is carried back" in " ".join(plan.breaks)
        assert ("answered with 429" in " ".join(plan.breaks)) is fence
        outcome = await swap(work, "back", code=plan.code)
        assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (5, 1)
        assert outcome.write_gap.unresolved_samples[0].startswith("i:9 ")

        after = await sources(work)
        expected: dict[PointId, tuple[dict[str, Any], list[float] | None]] = {
            5: ({"text": "another text"}, await old_vector(work, "another text")),
            6: ({**before[6].payload, "flag": [1, None, {"a": 2**60}]}, before[6].vectors[""]),
            8: ({"text": "written late"}, None),
            9: ({"text": "written late"}, None),
            500: ({"text": "a new point"}, await old_vector(work, "a new point")),
            UUID: ({"text": text(3)}, await old_vector(work, text(3))),
        }
        assert before.keys() - after.keys() == {7, 10}
        assert after.keys() - before.keys() == {500, UUID}
        for point_id, (payload, vector) in expected.items():
            assert after[point_id].payload == payload
            if vector is not None:
                assert np.allclose(after[point_id].vectors[""], vector, atol=1e-6), point_id
        for point_id in after.keys() - expected.keys():
            assert (after[point_id].payload, after[point_id].vectors) == (before[point_id].payload, before[point_id].vectors)


async def test_a_rollback_and_a_second_swap_lose_none_of_three_rounds_of_writes(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round writes to the points of the round before, through the alias, wherever it points."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        for point_id in (1, 2, 3):
            await to_target(work, point_id, {"text": f"first round {point_id}"})
        await swap(work, "back")
        for point_id in (2, 3, 4):
            await to_source(work, point_id, {"text": f"second round {point_id}"})
        found = await backfilled_again(work)
        assert found.error is None
        assert (await verify(work)).is_complete
        await swap(work)
        for point_id in (3, 4, 5):
            await to_target(work, point_id, {"text": f"third round {point_id}"})
        await swap(work, "back")
        texts = {i: p.payload["text"] for i, p in (await sources(work)).items() if i in (1, 2, 3, 4, 5)}
    assert texts == {1: "first round 1", 2: "second round 2", 3: "third round 3", 4: "third round 4", 5: "third round 5"}


async def test_only_what_both_sides_were_written_to_keeps_the_target_from_being_brought_up_to_date(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await to_target(work, 5, {"text": "through the alias"})
        await to_target(work, 9, {"text": "through the alias"})
        await to_source(work, 9, {"text": "written late"})
        await swap(work, "back")
        await to_source(work, 5, {"text": "edited since the rollback"})
        found = await backfilled_again(work)
        assert found.phase is Phase.ROLLED_BACK
        assert found.error is not None
        assert "1 points" in found.error
        assert "i:9 " in found.error
        await to_source(work, 9, {"text": "through the alias"})
        assert (await backfilled_again(work)).phase is Phase.BACKFILLED
        assert (await held(work))[5].payload == {"text": "edited since the rollback"}


async def _nobody(_: Any) -> None:
    """Starts no driver."""


async def test_without_the_old_model_the_plan_counts_what_stays_behind_and_nothing_is_written(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name)
        await to_target(work, 5, {"text": "another text"})
        await to_target(work, 500, {"text": "a new point"})
        before = await sources(work)
        told = " ".join((await planned_swap(work, "back")).breaks)
        assert "is NOT carried back" in told
        assert "the old model was not stated" in told
        assert "2 points of" in told
        assert "i:500 (not in the source)" in told
        assert "429" not in told
        outcome = await swap(work, "back")
        assert outcome.write_gap.carried_over == 0
        assert {i: (p.payload, p.vectors) for i, p in (await sources(work)).items()} == {
            i: (p.payload, p.vectors) for i, p in before.items()
        }


async def test_a_text_that_the_old_model_cannot_embed_is_listed_and_the_rest_goes_back(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await to_target(work, 5, {"text": "a poison text"})
        await to_target(work, 6, {"text": "a good text"})
        real = embed_resilient

        async def some_fail(embedder: Any, texts: Any, side: Any, **options: Any) -> Any:
            rows, failures = await real(embedder, texts, side, **options)
            poison = texts.index("a poison text")
            rows[poison] = None
            return rows, [*failures, Failure(index=poison, reason="the text is poison")]

        monkeypatch.setattr(module, "embed_resilient", some_fail)
        outcome = await swap(work, "back")
        assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (1, 1)
        assert "poison" in outcome.write_gap.unresolved_samples[0]
        found = await sources(work)
        assert (found[5].payload["text"], found[6].payload["text"]) == (text(5), "a good text")


@pytest.mark.parametrize("remembered", [5_000, 1])
async def test_writes_between_two_passes_of_a_rollback_go_back_as_well(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """To points that an earlier pass, or a rollback that failed, carried back already: its own writes to the source are no late writes.

    However many they were: of most only that it wrote them is remembered.
    """
    async with opened(backend_of(server, name), monkeypatch) as context:
        monkeypatch.setattr(module, "MOST_CARRIED", remembered)
        work = await swapped(context, name, **KNOWN)
        for point_id in (5, 500, 501):
            await to_target(work, point_id, {"text": f"first {point_id}"})
        real = check_fence_age
        monkeypatch.setattr(swapping, "check_fence_age", _refuse)
        with pytest.raises(Refused, match="a failed attempt"):
            await swap(work, "back")
        monkeypatch.setattr(swapping, "check_fence_age", real)
        assert (await sources(work))[500].payload["text"] == "first 500"
        await to_target(work, 5, {"text": "second 5"})
        await delete(work, 500, side="target")
        await to_target(work, 501, {"text": "second 501"})
        outcome = await swap(work, "back")
        assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (3, 0)
        found = await sources(work)
    assert (found[5].payload["text"], found[501].payload["text"]) == ("second 5", "second 501")
    assert 500 not in found


def _refuse(_: Work) -> None:
    raise Refused("Nothing was changed: a failed attempt.")


async def test_a_conflict_is_told_again_by_the_attempt_after_one_that_failed(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await to_source(work, 9, {"text": "written late"})
        await to_target(work, 9, {"text": "written through the alias"})

        async def no_longer_yours() -> None:
            raise Refused("Nothing was changed: the alias is not yours.")

        with (
            acting_before(monkeypatch, work.target, "point_alias", no_longer_yours),
            pytest.raises(Refused, match="the aliases are as before"),
        ):
            await swap(work, "back")
        outcome = await swap(work, "back")
        assert outcome.write_gap.unresolved == 1
        found = await backfilled_again(work)
        assert found.phase is Phase.ROLLED_BACK
        assert (await held(work))[9].payload == {"text": "written through the alias"}


async def test_a_target_that_was_cleared_after_the_plan_clears_nothing_of_the_source(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, seeded={"points": 120}, **KNOWN)
        plan = await planned_swap(work, "back")
        for point_id in range(1, 111):
            await delete(work, point_id, side="target")
        await to_target(work, 115, {"text": "written through the alias"})
        outcome = await swap(work, "back", code=plan.code)
        assert outcome.write_gap.carried_over == 1
        assert outcome.write_gap.unresolved >= 109
        assert "none of them was deleted" in outcome.write_gap.unresolved_samples[0]
        found = await sources(work)
        assert len(found) == 120
        assert found[115].payload["text"] == "written through the alias"
        told = await planned_finish(work, "discard_new")
        assert any("are still in" in text and "110 points" in text for text in told.warnings)


async def test_so_many_deletes_that_a_person_has_to_agree_go_back_once_the_plan_said_how_many(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come between the plan and the swap, as long as they are few."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, seeded={"points": 160}, **KNOWN)
        for point_id in range(1, 111):
            await delete(work, point_id, side="target")
        # Nobody deleted these two through the alias.
        await delete(work, 120)
        await to_source(work, 700, {"text": "inserted late"})
        plan = await planned_swap(work, "back")
        assert any("110 points" in text and "Agreeing deletes them" in text for text in plan.breaks)
        for point_id in range(111, 116):
            await delete(work, point_id, side="target")
        outcome = await swap(work, "back", code=plan.code)
        assert (outcome.write_gap.carried_over, outcome.write_gap.unresolved) == (115, 0)
        found = await sources(work)
    assert found.keys() == ({*range(160)} - {*range(1, 116), 120}) | {700}


async def test_deletes_agreed_to_for_a_plan_that_was_refused_do_not_count_for_the_next(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, seeded={"points": 260}, **KNOWN)
        for point_id in range(1, 111):
            await delete(work, point_id, side="target")
        monkeypatch.setattr(swapping, "check_fence_age", _refuse)
        with pytest.raises(Refused, match="a failed attempt"):
            await swap(work, "back")
        monkeypatch.setattr(swapping, "check_fence_age", check_fence_age)
        plan = await planned_swap(work, "back")
        for point_id in range(111, 221):
            await delete(work, point_id, side="target")
        await swap(work, "back", code=plan.code)
        found = await sources(work)
    assert found.keys() == {*range(260)} - {*range(1, 111)}


async def test_few_deletes_need_no_word_of_their_own(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await delete(work, 5, side="target")
        plan = await planned_swap(work, "back")
        assert not any("Agreeing deletes them" in text for text in plan.breaks)


async def test_what_only_the_target_holds_after_a_rollback_is_listed_and_told_before_it_is_discarded(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        for point_id in range(1, 16):
            await to_source(work, point_id, {"text": "written late"})
            await to_target(work, point_id, {"text": "written through the alias"})
        assert (await swap(work, "back")).write_gap.unresolved == 15
        report = await markdown_report(work.ledger, await work.ledger.migration(work.id))
        assert all(f"- i:{point_id}\n" in report for point_id in range(1, 16))
        status = await read_status(context, work.ledger, await work.ledger.migration(work.id))
        assert status.next_step is None, "start_backfill would refuse"
        assert any("15 points were written on both sides" in text and "start_backfill refuses" in text for text in status.warnings)
        told = " ".join((await planned_finish(work, "discard_new")).warnings)
        assert "15 points" in told
        assert "i:1" in told
        assert f"migration://{work.id}/report" in told


async def test_what_was_not_carried_back_is_told_before_the_target_is_discarded(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name)
        await to_target(work, 5, {"text": "through the alias"})
        await swap(work, "back")
        told = " ".join((await planned_finish(work, "discard_new")).warnings)
        assert "was not carried back" in told


async def test_a_writer_that_was_not_moved_does_not_keep_the_target_from_being_brought_up_to_date(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only the source got since the swap is newer than the target, and simply due."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await to_source(work, 700, {"text": "inserted late"})
        await to_source(work, 3, {"text": "edited late"})
        await swap(work, "back")
        found = await backfilled_again(work)
        assert (found.phase, found.error) == (Phase.BACKFILLED, None)
        texts = {i: p.payload["text"] for i, p in (await held(work)).items() if i in (3, 700)}
    assert texts == {3: "edited late", 700: "inserted late"}


async def test_a_source_that_is_edited_while_the_old_vector_is_made_keeps_the_edit(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that names the collection itself; the fence holds back those that use the alias."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await swapped(context, name, **KNOWN)
        await to_target(work, 5, {"text": "through the alias"})

        async def edit() -> None:
            await to_source(work, 5, {"text": "edited in the source"})

        with acting_before(monkeypatch, module, "embed_resilient", edit):
            outcome = await swap(work, "back")
        assert (await sources(work))[5].payload == {"text": "edited in the source"}
        assert outcome.write_gap.unresolved == 1
