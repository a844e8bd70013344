"""Does recommend_strategy measure before it advises, and refuse with the facts?"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.records import Evidence
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.errors import MigrationError, NotFound, Refused
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.recommend import recommend
from tests.conftest import Backend, Cranfield
from tests.qdrant.seeds import NEW, OLD, SHAPES, opened, seed, text
from tests.servers import QdrantServer, delete_collections


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
    # Also in the embedded database, where an unnamed vector beside a named one takes no plain upserts.
    assert (best.strategy, best.is_feasible) == ("side_by_side", True)
    assert result.next_step == best.next_step
    steps = {r.strategy: r.next_step for r in result.recommendations if r.next_step}
    assert set(steps) == {"new_collection", "side_by_side"} == {r.strategy for r in result.recommendations if r.is_feasible}
    assert any("60 texts are too few" in r.refusals[0] for r in result.recommendations if r.strategy == "linear_map")
    for strategy, step in steps.items():
        assert step.tool == "create_target"
        assert step.arguments == {
            "collection": f"{name}-live",
            "strategy": strategy,
            "model": NEW,
            "text_field": "text",
            "current_model": OLD,
            "writes": "frozen",
            "readers": "rolling",
        }
    cards = {r.strategy: r.card for r in result.recommendations if r.is_feasible}
    for card in cards.values():
        assert card.points == 60
        assert card.tokens == 60 * 12
        assert card.seconds is not None
        assert card.disk_bytes is not None
        assert card.disk_bytes > 60 * 128 * 4
        assert card.ram_bytes is not None
        assert card.disk_after_bytes is not None
        assert card.ram_after_bytes is not None
        assert card.cost_usd is None
    assert "texts embedded on this machine" in best.card.measured_from
    assert cards["new_collection"].measured_from == "as for 'side_by_side'"
    assert (cards["side_by_side"].disk_after_bytes or 0) > (cards["new_collection"].disk_after_bytes or 0) > 0
    # The other four do not serve the goal; saying only that would be noise.
    assert {r.strategy for r in result.recommendations} == {"new_collection", "side_by_side", "named_vector", "linear_map"}
    assert len(result.model_dump_json()) / 4 < 1_500


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
    assert result.source_match.likely_causes == ["another text: the stored vectors are most like those of text_field='summary'"]


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


async def test_hybrid_search_needs_no_model_to_be_named_where_the_server_has_bm25(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        result = await recommend(context, collection=name, goal="add_sparse")
    assert {m.kind for m in result.models} == {"sparse"}
    if any_qdrant.is_embedded:  # it has no BM25 of its own
        assert result.recommendations == []
        return
    best = result.recommendations[0]
    assert best.strategy == "add_sparse"
    substitute = next(r for r in result.recommendations if r.strategy == "new_collection")
    assert "No substitute" in substitute.refusals[0]
    assert result.next_step is not None
    assert result.next_step.arguments["model"] == "qdrant:bm25"
    assert result.next_step.arguments["text_field"] == "text"
    assert best.card.seconds is not None
    assert "entries a sampled text" in best.card.measured_from
    assert any("idf" in p for p in best.prerequisites)


async def test_sparse_and_token_vectors_are_sized_by_sampled_texts(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, asset_models: str, cranfield: Cranfield
) -> None:
    documents = [d for d in cranfield.documents if d.body.strip()][:60]
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=asset_models) as context:
        await seed(context, name, vector="dense", points=60, payload=lambda n: {"text": documents[n].body})
        sparse = await recommend(context, collection=name, goal="add_sparse", model="bm25")
        tokens = await recommend(context, collection=name, goal="add_multivector", model="colbert")
        choice = await recommend(context, collection=name, goal="add_multivector")
        with pytest.raises(Refused, match=r"is a dense model, and a sparse one is needed.*goal='replace_model'"):
            await recommend(context, collection=name, goal="add_sparse", model=NEW)
        with pytest.raises(Refused, match=r"is a multivector model, and a dense one is needed.*goal='add_multivector'"):
            await recommend(context, collection=name, goal="replace_model", model="colbert")
        with pytest.raises(Refused, match="no goal 'reranking'"):
            await recommend(context, collection=name, goal="reranking")
    for result, strategy, least in ((sparse, "add_sparse", 60 * 30 * 16), (tokens, "add_multivector", 60 * 50 * 96 * 4)):
        best = result.recommendations[0]
        assert (best.strategy, best.is_feasible) == (strategy, True)
        assert result.next_step is not None
        assert result.next_step.arguments["model"] == ("bm25" if strategy == "add_sparse" else "colbert")
        assert best.card.seconds is not None
        assert "a sampled text" in best.card.measured_from
        assert (best.card.disk_after_bytes or 0) > least
        # In place on the embedded database, which can; a second collection on servers before 1.18.
        assert any("in place" in r for r in best.reasons) is any_qdrant.is_embedded
    assert any("(measured) of 96" in p for p in tokens.recommendations[0].prerequisites)
    assert choice.recommendations == []
    assert {m.kind for m in choice.models} == {"multivector"}


async def test_texts_that_are_not_english_are_noticed(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": f"Prüfung der Größe für Flügel Nummer {n}"})
        result = await recommend(context, collection=name, goal="add_sparse", model="qdrant:bm25")
    best = result.recommendations[0]
    if not any_qdrant.is_embedded:
        assert any("Set 'language'" in r for r in best.risks)


async def test_quantization_needs_neither_model_nor_text(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"n": n})
        result = await recommend(context, collection=name, goal="change_quantization", writes="dual_write")
    best = result.recommendations[0]
    assert best.strategy == "requantize"
    if any_qdrant.is_embedded:
        assert result.next_step is None
        assert "does not quantize" in best.refusals[0]
        return
    assert result.next_step is not None
    assert result.next_step.arguments == {
        "collection": name,
        "strategy": "requantize",
        "quantization": "scalar",
        "writes": "dual_write",
        "readers": "one_deploy",
    }
    assert best.card.tokens == 0
    assert best.card.disk_after_bytes == 40 * 64


async def test_texts_may_come_from_a_file(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "text": text(n)}) for n in range(30)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "other.jsonl").write_text(json.dumps({"id": 4711, "text": "of another collection"}))
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=str(tmp_path)) as context:
        await seed(context, name, payload=lambda n: {"n": n})
        result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD, texts_file="texts.jsonl")
        with pytest.raises(Refused, match=r"none of 40 sampled points"):
            await recommend(context, collection=name, goal="replace_model", model=NEW, texts_file="other.jsonl")
        # Nothing is embedded, so no text is needed.
        await recommend(context, collection=name, goal="change_quantization", texts_file="other.jsonl")
    best = result.recommendations[0]
    assert best.is_feasible
    assert any("25.0% of the sampled points have no text in the texts file" in risk for risk in best.risks)
    assert best.card.tokens == 30 * 12
    assert result.source_match is not None
    assert result.source_match.is_match
    assert result.next_step is not None
    assert result.next_step.arguments["texts_file"] == "texts.jsonl"
    assert "text_field" not in result.next_step.arguments


async def test_the_column_of_a_texts_file_reaches_the_next_step(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it the default column would be embedded, silently."""
    lines = [json.dumps({"id": n, "text": "a caption", "body": text(n)}) for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=str(tmp_path)) as context:
        await seed(context, name, payload=lambda n: {"n": n})
        result = await recommend(
            context, collection=name, goal="replace_model", model=NEW, current_model=OLD, texts_file="texts.jsonl", text_field="body"
        )
        assert result.source_match is not None
        assert result.source_match.is_match
        assert result.next_step is not None
        await create_target(context, Request(**result.next_step.arguments), dry_run=True)
    assert result.next_step.arguments["text_field"] == "body"


MRL = json.dumps({"mrl": {"provider": "builtin", "model": "hashing-128"}})
"""Named like a model that was trained for it; the rules ask the name."""


async def test_what_is_recommended_is_accepted(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, asset_models: str) -> None:
    """Each next step is the exact call: a rehearsal takes its arguments as they are."""
    models = json.dumps({**json.loads(asset_models), **json.loads(MRL)})
    asked: list[dict[str, Any]] = [
        {"goal": "replace_model", "model": NEW, "readers": "rolling"},
        {"goal": "compare_models", "model": NEW, "writes": "dual_write"},
        {"goal": "replace_model", "model": "mrl@64"},
        {"goal": "shrink_vectors", "model": "mrl@64"},
        {"goal": "shrink_vectors", "model": "builtin:hashing-64"},
        {"goal": "add_sparse", "model": "bm25"},
        {"goal": "add_multivector", "model": "colbert"},
        *([] if any_qdrant.is_embedded else [{"goal": "add_sparse"}, {"goal": "change_quantization"}]),
    ]
    accepted: set[str] = set()
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=models) as context:
        await seed(context, name, vector="dense", points=450, model="builtin:hashing-128")
        for more in asked:
            result = await recommend(context, collection=name, current_model="mrl", **more)
            assert result.next_step is not None, (more, result.summary)
            for one in result.recommendations:
                if not one.is_feasible:
                    continue
                assert one.next_step is not None, (more, one.strategy)
                made = await create_target(context, Request(**one.next_step.arguments), dry_run=True)
                assert made.is_dry_run
                accepted.add(one.strategy)
    possible = set(STRATEGY) - ({"requantize"} if any_qdrant.is_embedded else {"named_vector"})
    assert accepted == possible


async def test_sizes_are_measured_before_a_person_chooses_one(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=MRL) as context:
        await seed(context, name, points=200, model="builtin:hashing-128", payload=lambda n: {"text": text(n)})
        undecided = await recommend(context, collection=name, goal="shrink_vectors", current_model="mrl")
        decided = await recommend(context, collection=name, goal="shrink_vectors", current_model="mrl", model="mrl@64", writes="frozen")
    assert undecided.dimensions
    assert all(0 < q.recall_at_k < 1 and q.ci_low <= q.recall_at_k <= q.ci_high and q.dimensions < 128 for q in undecided.dimensions)
    assert undecided.recommendations[0].strategy == "truncate"
    assert undecided.recommendations[0].is_feasible
    assert undecided.next_step is None
    assert decided.next_step is not None
    assert decided.next_step.arguments == {
        "collection": name,
        "strategy": "truncate",
        "model": "mrl",
        "dimensions": 64,
        "current_model": "mrl",
        "writes": "frozen",
        "readers": "one_deploy",
    }
    best = decided.recommendations[0]
    assert best.card.tokens == 0
    assert (best.card.disk_after_bytes or 0) == -200 * 64 * 4
    assert any("of their true neighbours in a sample" in r for r in best.reasons)


async def test_a_model_not_trained_for_it_is_cut_only_after_a_comparison(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = json.dumps({"plain": {"provider": "builtin", "model": "hashing-128"}})
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_MODELS=models) as context:
        await seed(context, name, points=60, model="builtin:hashing-128")
        ask = partial(recommend, context, collection=name, goal="shrink_vectors", current_model="plain", model="plain@64")
        result = await ask()
        ledger = await context.ledger()
        await ledger.create()
        evidence = Evidence(baseline="plain", candidate="plain@64", verdict="worse", text="nDCG@10 -0.2", at="2026-01-01T00:00:00+00:00")
        await ledger.save_evidence(name, evidence)
        worse = await ask()
        await ledger.save_evidence(name, evidence.model_copy(update={"verdict": "equivalent"}))
        passed = await ask()
    assert not any(r.is_feasible for r in worse.recommendations if r.strategy == "truncate")
    assert passed.next_step is not None
    assert passed.next_step.tool == "create_target"
    assert (passed.recommendations[0].strategy, passed.next_step.arguments["dimensions"]) == ("truncate", 64)
    (truncate,) = [r for r in result.recommendations if r.strategy == "truncate"]
    assert not truncate.is_feasible
    assert "Cut to 64 they find" in truncate.refusals[0]
    assert truncate.next_step is not None
    assert truncate.next_step.tool == "compare_models"
    assert truncate.next_step.arguments == {"collection": name, "models": ["plain", "plain@64"]}


async def test_a_target_on_another_server_is_judged_by_that_server(
    server_1_16: QdrantServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Backend(name="server 1.16.3", environment={**server_1_16.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}"}, version="1.16.3")
    others = json.dumps({"new": {"url": server_1_17.url}})
    try:
        async with opened(source, monkeypatch, QDRANT_MIGRATION_CONNECTIONS=others) as context:
            await seed(context, name)
            await (await context.gateway()).point_alias(f"{name}-live", name)
            result = await recommend(context, collection=name, goal="replace_model", model=NEW, current_model=OLD, target_connection="new")
            beside = await recommend(
                context, collection=name, goal="replace_model", model=NEW, current_model=OLD, target_connection="default"
            )
            quantized = await recommend(context, collection=name, goal="change_quantization", target_connection="new")
            assert result.next_step is not None
            rehearsed = await create_target(context, Request(**result.next_step.arguments), dry_run=True)
            with pytest.raises(NotFound, match="new"):
                await recommend(context, collection=name, goal="replace_model", model=NEW, target_connection="nwe")
    finally:
        delete_collections(server_1_16.url, name)
    assert (rehearsed.source.connection, rehearsed.target.connection) == ("default", "new")
    best = result.recommendations[0]
    assert best.strategy == "new_collection"
    assert any("1.17.0" in r for r in best.reasons)
    assert any("change their connection" in c for c in best.card.app_changes)
    # Nothing is freed on the other server when the source goes.
    assert (best.card.disk_after_bytes or 0) > 40 * 128 * 4
    assert result.next_step.arguments["target_connection"] == "new"
    refused = {r.strategy: r.refusals for r in result.recommendations if not r.is_feasible}
    assert set(refused) == {"named_vector", "linear_map"}
    assert any("not across servers" in r for r in refused["named_vector"])
    assert quantized.next_step is None
    assert beside.next_step is not None
    assert "target_connection" not in beside.next_step.arguments
    assert not any("1.17.0" in r for r in beside.recommendations[0].reasons)


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
    assert untitled.source_match.likely_causes == ["another text: the stored vectors are most like those of text_field='{title}\\n{text}'"]
    assert other.source_match is not None
    assert "another model" in other.source_match.likely_causes[0]
