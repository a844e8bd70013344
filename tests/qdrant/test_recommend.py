"""Does recommend_strategy measure before it advises, and refuse with the facts?"""

from __future__ import annotations

from functools import partial

import pytest

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.operations.recommend import recommend
from tests.conftest import Backend, Cranfield
from tests.qdrant.seeds import NEW, OLD, SHAPES, opened, seed, text


async def test_without_a_model_the_usable_ones_are_listed(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        result = await recommend(context, collection=name, goal="replace_model")
    assert "builtin:hashing-256" in [m.name for m in result.models]
    assert result.recommendations == []
    assert result.next_step is None


async def test_a_proven_current_model_reaches_the_next_step(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        result = await recommend(
            context, collection=f"{name}-live", goal="replace_model", model=NEW, current_model=OLD, writes="frozen", readers="rolling"
        )
    assert result.source_match is not None
    assert result.source_match.is_match
    assert result.source_match.sampled == 32
    best = result.recommendations[0]
    assert (best.strategy, best.is_feasible, best.is_implemented) == ("new_collection", True, True)
    assert result.next_step == best.next_step
    assert best.next_step is not None
    assert best.next_step.tool == "create_target"
    assert best.next_step.arguments == {
        "collection": f"{name}-live",
        "strategy": "new_collection",
        "model": NEW,
        "text_field": "text",
        "current_model": OLD,
        "writes": "frozen",
        "readers": "rolling",
    }
    card = best.card
    assert card.points == 60
    assert card.tokens == 60 * 12
    assert card.seconds is not None
    assert card.disk_bytes is not None
    assert card.disk_bytes > 60 * 128 * 4
    assert card.cost_usd is None
    assert "texts embedded on this machine" in card.measured_from
    assert {r.strategy for r in result.recommendations if r.next_step} == {"new_collection"}
    # The other four do not serve the goal; saying only that would be noise.
    assert {r.strategy for r in result.recommendations} == {"new_collection", "side_by_side", "named_vector", "linear_map"}
    assert len(result.model_dump_json()) / 4 < 1_700


async def test_another_model_of_equal_size_is_found_out(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model="builtin:hashing-64-words")
    assert result.source_match is not None
    assert not result.source_match.is_match
    assert result.source_match.min_cosine is not None
    assert result.source_match.min_cosine < result.source_match.threshold
    assert "another model" in result.source_match.likely_causes[0]
    assert result.next_step is None
    step = result.recommendations[0].next_step
    assert step is not None
    assert "current_model" not in step.arguments


async def test_other_dimensions_are_answered_without_embedding(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model="builtin:hashing-32")
    assert result.source_match is not None
    assert (result.source_match.sampled, result.source_match.is_match) == (0, False)
    assert "gives 32, stored are 64" in result.source_match.likely_causes[0]


async def test_the_field_that_was_really_embedded_is_named(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": text(n + 500), "summary": text(n)})
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD, text_field="text")
    assert result.source_match is not None
    assert result.source_match.likely_causes == ["another text: the stored vectors are those of text_field='summary'"]


async def test_a_few_edited_texts_do_not_unmake_a_match(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=32, payload=lambda n: {"text": text(n) if n else "edited since without embedding it anew"})
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD)
    assert result.source_match is not None
    assert result.source_match.is_match
    assert "1 of 32" in result.source_match.likely_causes[0]


@pytest.mark.parametrize("framework", SHAPES)
async def test_the_text_field_of_a_framework_is_the_default(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    payload, field = SHAPES[framework]
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=payload)
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD)
    assert result.next_step is not None
    assert result.next_step.arguments["text_field"] == field
    assert result.source_match is not None
    assert result.source_match.is_match


async def test_one_of_several_vectors_has_to_be_named(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = {"a": {"size": 64, "distance": "Cosine"}, "b": {"size": 4, "distance": "Dot"}}
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, vector="a", create={"vectors": vectors}, others=lambda n: {"b": [1.0, 2.0, 3.0, float(n)]})
        with pytest.raises(Refused, match=r"2 dense vectors \(a, b\)"):
            await recommend(context, collection=name, goal="replace_model", model=NEW)
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD, vector="a")
    assert result.next_step is not None
    assert result.next_step.arguments["vector"] == "a"
    assert result.source_match is not None
    assert result.source_match.is_match


async def test_what_this_version_does_not_carry_out_is_said(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        sparse = await recommend(context, collection=name, goal="add_sparse", model="qdrant:bm25")
        quantized = await recommend(context, collection=name, goal="change_quantization")
    best = sparse.recommendations[0]
    assert best.strategy == "add_sparse"
    assert best.is_feasible is not any_qdrant.is_embedded  # the embedded database has no BM25 of its own
    assert best.is_implemented is False
    assert sparse.next_step is None
    substitute = next(r for r in sparse.recommendations if r.strategy == "new_collection")
    assert "No substitute" in substitute.refusals[0]
    assert quantized.recommendations[0].strategy == "requantize"
    assert quantized.recommendations[0].is_feasible is not any_qdrant.is_embedded
    if not any_qdrant.is_embedded:
        assert any("explains it only" in w for w in sparse.warnings)


async def test_every_bad_argument_is_refused_with_the_facts(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await seed(context, f"{name}-docs", payload=lambda n: {"text": text(n), "title": text(n + 1) if n % 2 else ""})
        await seed(context, f"{name}-empty", points=0)
        await gateway.create_collection(f"{name}-bare", {"vectors": {}})
        await gateway.points.write(f"{name}-bare", [Point(id=1, payload={"text": text(1)})])

        async def refusal(kind: type[MigrationError], **arguments: str) -> str:
            call = {"collection": f"{name}-docs", "goal": "replace_model", "model": NEW, **arguments}
            with pytest.raises(kind) as refused:
                await recommend(context, **call)  # type: ignore[arg-type]
            return str(refused.value)

        assert f"Did you mean '{name}-docs'" in await refusal(NotFound, collection=f"{name}-dosc")
        assert "is empty" in await refusal(Refused, collection=f"{name}-empty")
        assert "no dense vector" in await refusal(Refused, collection=f"{name}-bare")
        assert "Fields holding text: 'text' (100%), 'title' (50%)" in await refusal(Refused, text_field="body")
        assert "no goal 'magic'" in await refusal(Refused, goal="magic")
        assert "builtin" in await refusal(NotFound, model="bultin:hashing-64")
        assert "no dense vector 'x'" in await refusal(Refused, vector="x")
        assert "hashing" in await refusal(NotFound, current_model="builtin:hashing-5")


async def test_points_without_text_are_refused_or_counted(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, f"{name}-none", payload=lambda n: {"n": n})
        await seed(context, f"{name}-some", payload=lambda n: {"text": text(n)} if n % 4 else {"n": n})
        none = await recommend(context, collection=f"{name}-none", goal="replace_model", model=NEW, current_model=OLD)
        some = await recommend(context, collection=f"{name}-some", goal="replace_model", model=NEW)
    assert not any(r.is_feasible for r in none.recommendations)
    assert none.next_step is None
    assert any("texts_file" in refusal for refusal in none.recommendations[0].refusals)
    assert any("25.0% of the sampled points have no text" in risk for risk in some.recommendations[0].risks)


async def test_a_quantized_model_matches_its_own_vectors_and_the_template_is_found(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, asset_models: str, cranfield: Cranfield
) -> None:
    """Dynamic int8 vectors depend on their batch-mates: a fixed threshold would call them foreign."""
    documents = [d for d in cranfield.documents if d.body.strip()][:60]
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        await seed(
            context,
            name,
            points=len(documents),
            model="minilm-l2",
            embedded=lambda n: documents[n].text,
            payload=lambda n: {"title": documents[n].title, "text": documents[n].body},
        )
        ask = partial(recommend, context, collection=name, goal="replace_model", model="minilm-1152")
        right = await ask(current_model="minilm-l2", text_field="{title}\n{text}")
        untitled = await ask(current_model="minilm-l2", text_field="text")
        other = await ask(current_model="minilm", text_field="{title}\n{text}")
    assert right.source_match is not None
    assert right.source_match.is_match
    assert right.source_match.sampled == 32
    assert right.recommendations[0].card.truncated_share is not None
    assert untitled.source_match is not None
    assert untitled.source_match.likely_causes == ["another text: the stored vectors are those of text_field='{title}\\n{text}'"]
    assert other.source_match is not None
    assert "another model" in other.source_match.likely_causes[0]
