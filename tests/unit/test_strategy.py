"""The decision table: every strategy, both sides of every gate, and the order in which they are offered."""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.guidance import guidance_sections
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.strategy import (
    GUIDANCE,
    IMPLEMENTED,
    SERVES,
    STRATEGIES,
    Advice,
    Goal,
    Observations,
    advise,
    is_matryoshka,
    size_remark,
)
from qdrant_model_migration.qdrant.gateway import ServerFacts
from qdrant_model_migration.results import SourceMatch

DENSE = VectorField(name="", kind=FieldKind.DENSE, size=384, distance="Cosine")
SMALL = ModelSpec(name="fastembed:small", dimensions=256)
BM25 = ModelSpec(name="qdrant:bm25", kind=ModelKind.SPARSE)
SPLADE = ModelSpec(name="fastembed:prithivida/Splade_PP_en_v1", kind=ModelKind.SPARSE)
COLBERT = ModelSpec(name="fastembed:colbert-ir/colbertv2.0", kind=ModelKind.MULTIVECTOR, dimensions=128)
NEW = ModelSpec(name="fastembed:new", dimensions=768)
MRL = ModelSpec(name="openai:text-embedding-3-large", dimensions=384)
MRL_256 = ModelSpec(name="openai:text-embedding-3-large@256", dimensions=256)


def matched(model: str, *, is_match: bool = True) -> SourceMatch:
    return SourceMatch(model=model, text_field="text", sampled=32, threshold=0.99, is_match=is_match)


def seen(
    version: str = "1.17.0", *, is_embedded: bool = False, points: int = 10_000, collection: dict[str, Any] | None = None, **changes: Any
) -> Observations:
    facts = ServerFacts(version=version, is_embedded=is_embedded)
    field = changes.get("field", DENSE)
    values: dict[str, Any] = {
        "goal": Goal.REPLACE_MODEL,
        "collection": Collection(name="docs", points=points, fields=(field,) if field else (), config={}, **(collection or {})),
        "data_bytes": 100_000_000,
        "field": DENSE,
        "text_field": "text",
        "text_coverage": 1.0,
        "model": NEW,
        "has_alias": True,
    }
    return Observations(server=version, capabilities=frozenset(facts.capabilities), is_embedded=is_embedded, **{**values, **changes})


def judged(strategy: str, observations: Observations) -> Advice:
    return next(a for a in advise(observations) if a.strategy == strategy)


GATES = [
    # strategy, what is observed, the last version that cannot, the first that can, what the refusal names
    ("new_collection", {}, "1.15.3", "1.15.4", "1.15.4"),
    ("new_collection", {"writes": "frozen"}, "1.15.3", "1.15.4", "1.15.4"),
    ("new_collection", {"readers": "self_resolving"}, "1.15.9", "1.16.0", "1.16"),
    ("side_by_side", {}, "1.15.3", "1.15.4", "1.15.4"),
    ("named_vector", {}, "1.17.9", "1.18.0", "1.18"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": BM25}, "1.15.1", "1.15.4", "1.15.2"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": SPLADE}, "1.15.3", "1.15.4", "1.15.4"),
    ("add_multivector", {"goal": Goal.ADD_MULTIVECTOR, "model": COLBERT}, "1.15.3", "1.15.4", "1.15.4"),
    ("linear_map", {}, "1.15.3", "1.15.4", "1.15.4"),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "changes", "before", "since", "named"), GATES)
def test_both_sides_of_each_version_gate(strategy: str, changes: dict[str, Any], before: str, since: str, named: str) -> None:
    refused = judged(strategy, seen(before, **changes))
    assert not refused.is_feasible
    assert any(named in r and before in r for r in refused.refusals)
    assert judged(strategy, seen(since, **changes)).refusals == []


@pytest.mark.parametrize(
    ("strategy", "goal", "model"), [("add_sparse", Goal.ADD_SPARSE, SPLADE), ("add_multivector", Goal.ADD_MULTIVECTOR, COLBERT)]
)
@pytest.mark.parametrize(("version", "is_in_place"), [("1.17.9", False), ("1.18.0", True)])
def test_a_field_is_added_in_place_from_1_18(strategy: str, goal: Goal, model: ModelSpec, version: str, is_in_place: bool) -> None:
    advice = judged(strategy, seen(version, goal=goal, model=model))
    assert advice.is_feasible
    assert advice.is_in_place is is_in_place
    assert any("second collection" in p for p in advice.prerequisites) is not is_in_place


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("new_collection", {"text_field": None, "text_coverage": 0.0}, "texts_file"),
    ("side_by_side", {"text_field": None, "text_coverage": 0.0}, "No payload field holds text"),
    ("named_vector", {"version": "1.18.0", "text_coverage": 0.0}, "No payload field holds text"),
    ("linear_map", {"text_coverage": 0.0}, "No payload field holds text"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": BM25, "text_coverage": 0.0}, "No payload field holds text"),
    ("new_collection", {"model": None}, "No model was named"),
    ("new_collection", {"model": SPLADE}, "sparse model; a dense field needs a dense one"),
    ("new_collection", {"model": COLBERT}, "multivector model"),
    ("new_collection", {"field": None}, "no dense vector"),
    ("new_collection", {"collection": {"shard_keys": ("a", "b")}}, "2 shard keys"),
    ("new_collection", {"current": NEW, "match": matched(NEW.name)}, "already"),
    ("new_collection", {"goal": Goal.SHRINK_VECTORS}, "not fewer than the 384"),
    ("new_collection", {"goal": Goal.ADD_SPARSE, "model": BM25}, "No substitute"),
    ("new_collection", {"goal": Goal.ADD_MULTIVECTOR, "model": COLBERT}, "No substitute"),
    ("new_collection", {"goal": Goal.CHANGE_QUANTIZATION, "model": None}, "nothing is re-embedded"),
    ("named_vector", {"is_embedded": True, "version": "1.20.0"}, "Take 'side_by_side'"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": NEW}, "sparse vectors need a sparse one"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": None, "is_embedded": True}, "embedded database has none"),
    ("add_multivector", {"goal": Goal.ADD_MULTIVECTOR, "model": NEW}, "late-interaction"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": None}, "pass current_model"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": None, "current": NEW}, "not known to be a Matryoshka"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": SMALL, "current": MRL}, "another model than"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": MRL, "current": MRL}, "384 dimensions are not fewer"),
    (
        "truncate",
        {"goal": Goal.SHRINK_VECTORS, "model": MRL_256, "current": MRL, "match": matched(MRL.name, is_match=False)},
        "source_match",
    ),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": None, "field": None}, "no dense vector"),
    ("requantize", {"goal": Goal.CHANGE_QUANTIZATION, "model": None, "is_embedded": True}, "does not quantize"),
    ("requantize", {"goal": Goal.CHANGE_QUANTIZATION, "model": None, "field": None}, "no dense vector"),
    ("requantize", {}, "does not reach the goal"),
]


@pytest.mark.parametrize(("strategy", "changes", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_with_its_reason(strategy: str, changes: dict[str, Any], words: str) -> None:
    advice = judged(strategy, seen(**changes))
    assert not advice.is_feasible
    assert any(words in r for r in advice.refusals), advice.refusals


FIRST: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["new_collection", "side_by_side", "linear_map"]),
    ({"version": "1.18.0"}, ["new_collection", "named_vector", "side_by_side", "linear_map"]),
    ({"readers": "rolling", "version": "1.18.0"}, ["new_collection", "named_vector", "side_by_side", "linear_map"]),
    ({"points": 200_000_000}, ["new_collection", "linear_map", "side_by_side"]),
    ({"goal": Goal.COMPARE_MODELS}, ["new_collection", "side_by_side"]),
    ({"goal": Goal.COMPARE_MODELS, "version": "1.18.0"}, ["new_collection", "named_vector", "side_by_side"]),
    ({"goal": Goal.ADD_SPARSE, "model": BM25}, ["add_sparse"]),
    ({"goal": Goal.ADD_MULTIVECTOR, "model": COLBERT}, ["add_multivector"]),
    (
        {"goal": Goal.SHRINK_VECTORS, "model": MRL_256, "current": MRL, "match": matched(MRL.name)},
        ["truncate", "requantize", "new_collection"],
    ),
    ({"goal": Goal.SHRINK_VECTORS, "model": SMALL}, ["requantize", "new_collection"]),
    ({"goal": Goal.CHANGE_QUANTIZATION, "model": None}, ["requantize"]),
]


@pytest.mark.parametrize(("changes", "expected"), FIRST)
def test_what_can_be_done_comes_first_and_in_order(changes: dict[str, Any], expected: list[str]) -> None:
    ranked = advise(seen(**changes))
    assert [a.strategy for a in ranked if a.is_feasible] == expected
    assert [a.strategy for a in ranked][: len(expected)] == expected
    assert sorted(a.strategy for a in ranked) == sorted(STRATEGIES)
    assert all(a.reasons or a.refusals for a in ranked)


def test_a_better_strategy_that_is_not_carried_out_yet_is_named() -> None:
    best = advise(seen(readers="rolling"))[0]
    assert best.strategy == "new_collection"
    assert "'side_by_side' would fit better here, but this version only explains it." in best.reasons
    assert any("drained" in r for r in best.risks)
    assert not any("would fit better" in r for r in advise(seen())[0].reasons)


def test_what_is_not_implemented_says_so_before_anything_else() -> None:
    assert {"new_collection"} == IMPLEMENTED
    for goal in Goal:
        for advice in advise(seen("1.18.0", goal=goal)):
            if advice.serves_goal and not advice.is_implemented:
                assert "later version" in advice.prerequisites[0]


def test_every_guidance_title_is_a_section_of_the_guidance() -> None:
    titles = {s.title for s in guidance_sections()}
    assert set(GUIDANCE) == set(STRATEGIES)
    assert set(GUIDANCE.values()) <= titles
    assert set(SERVES) == set(Goal)
    assert {s for names in SERVES.values() for s in names} == set(STRATEGIES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ModelSpec(name="m", dimensions=384)}, "nonsense without an error"),
        ({}, "384 -> 768 dimensions"),
        ({"text_coverage": 0.9}, "10.0% of the sampled points"),
        ({"has_alias": False}, "No alias points"),
        ({"model": ModelSpec(name="m", dimensions=8, is_local=False)}, "leave this machine"),
        ({"model": ModelSpec(name="m", dimensions=8, note="lexical only")}, "lexical only"),
        ({"model": ModelSpec(name="m", dimensions=8, distance="Dot")}, "trained for Dot"),
        ({}, "current model is not proven"),
    ],
)
def test_risks_of_a_new_collection_are_told(changes: dict[str, Any], words: str) -> None:
    assert any(words in r for r in judged("new_collection", seen(**changes)).risks)


def test_a_proven_current_model_takes_the_risk_away() -> None:
    advice = judged("new_collection", seen(current=MRL, match=matched(MRL.name)))
    assert not any("not proven" in r for r in advice.risks)


@pytest.mark.parametrize(("writes", "words"), [("frozen", "No writes"), ("dual_write", "source first"), ("live", "wait for seconds")])
def test_what_the_writers_have_to_do_is_said(writes: str, words: str) -> None:
    assert any(words in change for change in judged("new_collection", seen(writes=writes)).app_changes)


def test_an_unhealthy_collection_is_a_prerequisite() -> None:
    assert any("Health first" in p for p in judged("new_collection", seen(collection={"status": "grey"})).prerequisites)


@pytest.mark.parametrize(
    ("size", "words"),
    [(24_999_999, "re-indexing from the source"), (25_000_000, None), (399_999_999_999, None), (400_000_000_000, "plan for days")],
)
def test_very_small_and_very_large_collections_are_remarked_upon(size: int, words: str | None) -> None:
    remark = size_remark(size)
    assert (remark is None) if words is None else (remark is not None and words in remark)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai:text-embedding-3-small", True),
        ("fastembed:nomic-ai/nomic-embed-text-v1.5", True),
        ("fastembed:nomic-ai/nomic-embed-text-v1", False),
        ("openai:text-embedding-ada-002", False),
        ("fastembed:BAAI/bge-small-en-v1.5", False),
    ],
)
def test_only_models_trained_for_it_may_be_cut(model: str, expected: bool) -> None:
    assert is_matryoshka(model) is expected
