"""Does a gate hold a swap up until it passed or somebody agreed to its failure, and is that kept?"""

from __future__ import annotations

from pathlib import Path

import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.recipe import Filled, Gate
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.finish_fields import end_of_filling
from qdrant_model_migration.operations.report import markdown_report
from qdrant_model_migration.results import Comparison
from tests.conftest import Backend
from tests.qdrant.cutovers import impatient, planned_swap, swap, swap_plan, verified
from tests.qdrant.seeds import opened
from tests.qdrant.works import MODEL
from tests.unit.test_cutover import comparison
from tests.unit.test_cutover import verified as a_migration

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

GATE = Gate(metric="ndcg@10", margin=0.01)


def compared_as(found: Comparison) -> dict[str, Comparison]:
    return {"comparison": found}


async def test_swap_waits_for_the_gate_or_for_a_plan_that_states_its_failure(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    async with opened(any_qdrant, monkeypatch) as context:
        work = await verified(context, name, gate=GATE)
        before = await planned_swap(work)
        assert "was not made" in before.overrides[0]

        await work.change(lambda m: m.model_copy(update=compared_as(comparison(gate="fail", verdict="worse"))))
        # What was agreed to was another plan: one without the failure.
        with pytest.raises(Refused, match="something the plan rests on has changed"):
            await swap(work, code=before.code)
        failed = await planned_swap(work)
        assert "the gate (ndcg@10, margin 0.01) failed: worse on 20 judged queries" in failed.overrides[0]

        await work.change(lambda m: m.model_copy(update=compared_as(comparison(gate="pass"))))
        assert (await planned_swap(work)).overrides == []
        with pytest.raises(Refused, match="something the plan rests on has changed"):
            await swap(work, code=failed.code)

        await work.change(lambda m: m.model_copy(update=compared_as(comparison(gate="fail", verdict="worse"))))
        await swap(work, code=await swap_plan(work))
        swapped = [event.text for event in await work.ledger.events(work.id) if event.event == "swapped"]
        assert "accepted: the gate (ndcg@10, margin 0.01) failed" in swapped[0]
        await swap(work, "back")
        # The rollback is another decision: it does not undo that somebody agreed.
        kept = await work.ledger.migration(work.id)
        assert "failed" in kept.accepted[0]
        assert "accepted: the gate" in await markdown_report(work.ledger, kept)


async def test_an_asked_for_gate_is_judged_by_the_comparison_of_the_driver(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model on both sides: judged queries pass it, unjudged ones cannot, and both are events."""
    from tests.qdrant.cutovers import carried_out
    from tests.qdrant.test_compare import matched

    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "q")}, version=None)
    impatient(monkeypatch)
    async with opened(backend, monkeypatch) as context:
        work = await verified(context, name, gate=GATE, seeded={"model": MODEL}, current_model=MODEL, source_match=matched(MODEL))
        points, _ = await work.source.points.scroll(work.migration.source.collection, offset=None, limit=20)
        texts = [str(point.payload["text"]) for point in points]
        unjudged = await carried_out(work, "compare", {"queries": texts}, key="compare-1")
        assert (unjudged["gate"], len((await planned_swap(work)).overrides)) == ("fail", 1)
        queries = [{"text": text, "relevant_ids": [str(point.id)]} for text, point in zip(texts, points, strict=True)]
        judged = await carried_out(work, "compare", {"queries": queries, "id_field": "point"}, key="compare-2")
        assert (judged["gate"], judged["verdict"]) == ("pass", "equivalent")
        assert (await planned_swap(work)).overrides == []
        told = [event.text for event in await work.ledger.events(work.id) if event.event == "compared"]
        assert ["gate: fail" in told[0], "gate: pass" in told[1]] == [True, True]


@pytest.mark.parametrize(("found", "told"), [(None, "was not made"), (comparison(gate="fail"), "failed"), (comparison(gate="pass"), None)])
def test_the_end_of_a_filled_field_states_what_the_gate_objects(found: Comparison | None, told: str | None) -> None:
    """No alias moves for it: the plan of the end is the one that somebody agrees to."""
    migration: Migration = a_migration(gate=GATE, comparison=found)
    made = migration.making.model_copy(update={"stage": "fill"})
    recipes = tuple(made if recipe.field == made.field else recipe for recipe in migration.recipes)
    migration = migration.model_copy(update={"recipes": recipes, "filled": Filled(points=1, with_vector=1, at="", has_converged=True)})
    warnings = end_of_filling(migration)
    assert len(warnings) == (1 if told is None else 2)
    assert told is None or ("Agreeing accepts: the" in warnings[1] and told in warnings[1])
