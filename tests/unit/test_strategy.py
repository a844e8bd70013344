"""The decision table: every strategy, both sides of every gate, and the order in which they are offered."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, FieldKind, VectorField
from qdrant_model_migration.domain.guidance import guidance_sections
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.strategies import STRATEGY
from qdrant_model_migration.domain.strategy import SERVES, STRATEGIES, Advice, Goal, Observations, advise, is_matryoshka, size_remark
from qdrant_model_migration.domain.strategy_facts import is_added_in_place
from qdrant_model_migration.qdrant.gateway import ServerFacts
from qdrant_model_migration.results import DimensionQuality, SourceMatch

DENSE = VectorField(name="text", kind=FieldKind.DENSE, size=384, distance="Cosine")
UNNAMED = DENSE.model_copy(update={"name": ""})
WIDE = DENSE.model_copy(update={"size": 3072})
UINT8 = DENSE.model_copy(update={"datatype": "uint8"})
SAME = ModelSpec(name="fastembed:same-size", dimensions=384)
NEW = ModelSpec(name="fastembed:new", dimensions=768)
SMALL = ModelSpec(name="fastembed:small", dimensions=256)
BM25 = ModelSpec(name="qdrant:bm25", kind=ModelKind.SPARSE, is_server_side=True)
SPLADE = ModelSpec(name="fastembed:prithivida/Splade_PP_en_v1", kind=ModelKind.SPARSE)
COLBERT = ModelSpec(name="fastembed:colbert-ir/colbertv2.0", kind=ModelKind.MULTIVECTOR, dimensions=128)
MRL = ModelSpec(name="openai:text-embedding-3-large", dimensions=384, is_local=False)
MRL_256 = ModelSpec(name="openai:text-embedding-3-large@256", dimensions=256, is_local=False)
PLAIN = ModelSpec(name="fastembed:plain", dimensions=384)
PLAIN_256 = ModelSpec(name="fastembed:plain@256", dimensions=256)
FOUND = DimensionQuality(dimensions=192, recall_at_k=0.62, ci_low=0.6, ci_high=0.64, k=10, sample=1000)

HYBRID: dict[str, Any] = {"goal": Goal.ADD_SPARSE, "model": BM25}
SPLADED: dict[str, Any] = {"goal": Goal.ADD_SPARSE, "model": SPLADE}
RERANK: dict[str, Any] = {"goal": Goal.ADD_MULTIVECTOR, "model": COLBERT}
QUANTIZE: dict[str, Any] = {"goal": Goal.CHANGE_QUANTIZATION, "model": None}
SHRINK: dict[str, Any] = {"goal": Goal.SHRINK_VECTORS, "model": MRL_256, "current": MRL}


def matched(model: str, *, is_match: bool = True) -> SourceMatch:
    return SourceMatch(model=model, text_field="text", sampled=32, threshold=0.99, is_match=is_match)


CUT: dict[str, Any] = {**SHRINK, "match": matched(MRL.name)}


def seen(
    version: str = "1.17.0",
    *,
    is_embedded: bool = False,
    points: int = 10_000,
    collection: dict[str, Any] | None = None,
    target: str | None = None,
    **changes: Any,
) -> Observations:
    """What was observed; `target` is the version of another server, or 'embedded'."""
    facts = ServerFacts(version=version, is_embedded=is_embedded)
    field = changes.get("field", DENSE)
    values: dict[str, Any] = {
        "goal": Goal.REPLACE_MODEL,
        "collection": Collection(
            **{"name": "docs", "points": points, "fields": (field,) if field else (), "config": {}, **(collection or {})}
        ),
        "data_bytes": 100_000_000,
        "field": DENSE,
        "text_field": "text",
        "text_coverage": 1.0,
        "model": NEW,
        "has_alias": True,
    }
    if target is not None:
        other = ServerFacts(version="1.20.0" if target == "embedded" else target, is_embedded=target == "embedded")
        values |= {
            "target_server": other.version,
            "target_capabilities": frozenset(other.capabilities),
            "is_target_embedded": other.is_embedded,
        }
    return Observations(server=version, capabilities=frozenset(facts.capabilities), is_embedded=is_embedded, **{**values, **changes})


def judged(strategy: str, observations: Observations) -> Advice:
    return next(a for a in advise(observations) if a.strategy == strategy)


def feasible(observations: Observations) -> list[str]:
    return [a.strategy for a in advise(observations) if a.is_feasible]


# --- version gates

GATES: list[tuple[str, dict[str, Any], str, str, str]] = [
    # strategy, what is observed, the last version that cannot, the first that can, what the refusal names
    ("new_collection", {}, "1.15.3", "1.15.4", "1.15.4"),
    ("new_collection", {"writes": "frozen"}, "1.15.3", "1.15.4", "1.15.4"),
    ("new_collection", {"readers": "self_resolving"}, "1.15.9", "1.16.0", "1.16"),
    ("side_by_side", {}, "1.15.3", "1.15.4", "1.15.4"),
    ("side_by_side", {"readers": "self_resolving"}, "1.15.9", "1.16.0", "1.16"),
    ("named_vector", {}, "1.17.9", "1.18.0", "1.18"),
    ("named_vector", {"field": UNNAMED}, "1.17.9", "1.18.0", "1.18"),
    ("add_sparse", HYBRID, "1.15.1", "1.15.4", "1.15.2"),
    ("add_sparse", SPLADED, "1.15.3", "1.15.4", "1.15.4"),
    ("add_multivector", RERANK, "1.15.3", "1.15.4", "1.15.4"),
    ("truncate", CUT, "1.15.3", "1.15.4", "1.15.4"),
    ("linear_map", {}, "1.15.3", "1.15.4", "1.15.4"),
    ("requantize", QUANTIZE, "1.15.3", "1.15.4", "1.15.4"),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "changes", "before", "since", "named"), GATES)
def test_both_sides_of_each_version_gate(strategy: str, changes: dict[str, Any], before: str, since: str, named: str) -> None:
    refused = judged(strategy, seen(before, **changes))
    assert not refused.is_feasible
    assert any(named in r and before in r for r in refused.refusals)
    assert judged(strategy, seen(since, **changes)).refusals == []


@pytest.mark.parametrize(("strategy", "changes", "before", "since", "named"), [g for g in GATES if STRATEGY[g[0]].placement != "in_place"])
def test_the_target_s_version_decides_about_a_target_elsewhere(
    strategy: str, changes: dict[str, Any], before: str, since: str, named: str
) -> None:
    changes = {k: v for k, v in changes.items() if k != "readers"}
    if named == "1.16":
        before, since, named = "1.15.3", "1.15.4", "1.15.4"
    refused = judged(strategy, seen("1.20.0", target=before, **changes))
    assert any(named in r and f"the target's server is {before}" in r for r in refused.refusals)
    assert judged(strategy, seen("1.14.0", target=since, **changes)).refusals == []


@pytest.mark.parametrize(("version", "is_refused"), [("1.15.1", True), ("1.15.2", False)])
def test_bm25_in_the_server_begins_at_1_15_2(version: str, is_refused: bool) -> None:
    refusals = judged("add_sparse", seen(version, **HYBRID)).refusals
    assert any("BM25 in the server" in r for r in refusals) is is_refused
    assert any("1.15.4" in r for r in refusals)


PAIRS: list[dict[str, Any]] = [{}, {"goal": Goal.COMPARE_MODELS}, HYBRID, SPLADED, RERANK, CUT, QUANTIZE]


@pytest.mark.parametrize("changes", PAIRS)
def test_update_mode_of_1_17_makes_nothing_possible_that_was_not(changes: dict[str, Any]) -> None:
    """Before 1.17 it is silently ignored; the guard that holds everywhere is used instead."""
    assert feasible(seen("1.16.3", **changes)) == feasible(seen("1.17.0", **changes)) != []


@pytest.mark.parametrize(("strategy", "changes"), [("add_sparse", SPLADED), ("add_multivector", RERANK)])
@pytest.mark.parametrize(("version", "is_in_place"), [("1.17.9", False), ("1.18.0", True)])
def test_a_field_is_added_in_place_from_1_18(strategy: str, changes: dict[str, Any], version: str, is_in_place: bool) -> None:
    advice = judged(strategy, seen(version, **changes))
    assert advice.is_feasible
    assert advice.is_in_place is is_in_place
    assert any("second collection" in p for p in advice.prerequisites) is not is_in_place
    # Not to another server, whatever its version.
    assert not judged(strategy, seen(version, target="1.18.0", **changes)).is_in_place


@pytest.mark.parametrize(
    ("strategy", "field", "is_embedded", "expected"),
    [
        ("add_sparse", UNNAMED, True, False),
        ("add_sparse", DENSE, True, True),
        ("add_multivector", UNNAMED, True, False),
        ("add_multivector", DENSE, True, True),
        ("add_multivector", UNNAMED, False, True),
        ("side_by_side", DENSE, True, False),
        ("named_vector", DENSE, False, True),
    ],
)
def test_where_a_field_goes_avoids_the_trap_of_the_unnamed_vector(
    strategy: str, field: VectorField, is_embedded: bool, expected: bool
) -> None:
    collection = Collection(name="c", points=1, fields=(field,), config={})
    assert is_added_in_place(strategy, collection, can_add_field=True, is_embedded=is_embedded) is expected


# --- refusals

NO_TEXT: dict[str, Any] = {"text_field": None, "text_coverage": 0.0}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("new_collection", NO_TEXT, "texts_file"),
    ("side_by_side", NO_TEXT, "No payload field holds text"),
    ("named_vector", {"version": "1.18.0", **NO_TEXT}, "No payload field holds text"),
    ("linear_map", NO_TEXT, "No payload field holds text"),
    ("add_sparse", {**HYBRID, **NO_TEXT}, "No payload field holds text"),
    ("add_multivector", {**RERANK, **NO_TEXT}, "No payload field holds text"),
    ("new_collection", {**NO_TEXT, "has_texts_file": True}, "holds no text for any sampled point"),
    ("new_collection", {"model": None}, "No model was named"),
    ("new_collection", {"model": SPLADE}, "sparse model; a dense field needs a dense one"),
    ("new_collection", {"model": COLBERT}, "multivector model"),
    ("new_collection", {"model": MRL_256, "model_problem": "no such size."}, "cannot be asked for vectors here: no such size."),
    ("new_collection", {"field": None}, "no dense vector"),
    ("new_collection", {"current": NEW, "match": matched(NEW.name)}, "already"),
    ("new_collection", {"goal": Goal.SHRINK_VECTORS}, "not fewer than the 384"),
    ("new_collection", HYBRID, "No substitute"),
    ("new_collection", RERANK, "No substitute"),
    ("new_collection", QUANTIZE, "nothing is re-embedded"),
    ("new_collection", {"collection": {"shard_keys": ("a", "b")}, "target": "1.17.0", "is_target_cluster": False}, "2 shard keys"),
    ("truncate", {**CUT, "collection": {"shard_keys": ("a",)}, "target": "embedded"}, "cluster mode"),
    ("new_collection", {"readers": "self_resolving", "target": "1.17.0"}, "none points to another server"),
    ("named_vector", {"version": "1.17.0"}, "'side_by_side' does it by a copy"),
    ("named_vector", {"version": "1.18.0", "target": "1.18.0"}, "not across servers"),
    ("requantize", {**QUANTIZE, "target": "1.17.0"}, "not across servers"),
    ("named_vector", {"is_embedded": True, "version": "1.20.0", "field": UNNAMED}, "Take 'side_by_side'"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": NEW}, "sparse vectors need a sparse one"),
    ("add_sparse", {"goal": Goal.ADD_SPARSE, "model": None, "is_embedded": True}, "embedded database has none"),
    ("add_sparse", {**HYBRID, "target": "embedded"}, "embedded database has none"),
    ("add_multivector", {"goal": Goal.ADD_MULTIVECTOR, "model": NEW}, "late-interaction"),
    ("add_multivector", {"goal": Goal.ADD_MULTIVECTOR, "model": None}, "No model was named"),
    ("truncate", {**CUT, "model": None, "current": None}, "pass current_model"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": None, "current": PLAIN}, "not known to be a Matryoshka"),
    (
        "truncate",
        {"goal": Goal.SHRINK_VECTORS, "model": PLAIN_256, "current": PLAIN, "cut": FOUND},
        "Cut to 192 they find 62% of their true neighbours",
    ),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": SMALL, "current": MRL}, "another model than"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": MRL, "current": MRL}, "384 dimensions are not fewer"),
    ("truncate", {**SHRINK, "match": matched(MRL.name, is_match=False)}, "source_match"),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": None, "field": None}, "no dense vector"),
    ("truncate", {**CUT, "field": UINT8}, "uint8"),
    ("linear_map", {"field": UINT8}, "uint8"),
    ("linear_map", {"points": 399}, "399 texts are too few"),
    ("linear_map", {"points": 4_000, "text_coverage": 0.05}, "200 texts are too few"),
    ("linear_map", {"goal": Goal.COMPARE_MODELS}, "would not judge the model itself"),
    ("requantize", {**QUANTIZE, "is_embedded": True}, "does not quantize"),
    ("requantize", {**QUANTIZE, "field": None}, "no dense vector"),
    ("requantize", {**QUANTIZE, "field": UINT8}, "nothing to gain"),
    ("requantize", {}, "does not reach the goal"),
]


@pytest.mark.parametrize(("strategy", "changes", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_with_its_reason(strategy: str, changes: dict[str, Any], words: str) -> None:
    advice = judged(strategy, seen(**changes))
    assert not advice.is_feasible
    assert any(words in r for r in advice.refusals), advice.refusals


ALLOWED: list[tuple[str, dict[str, Any]]] = [
    # the other side of a refusal above
    ("truncate", {**CUT, **NO_TEXT}),
    ("requantize", {**QUANTIZE, **NO_TEXT}),
    ("truncate", {"goal": Goal.SHRINK_VECTORS, "model": PLAIN_256, "current": PLAIN, "has_passed_comparison": True}),
    ("requantize", {**QUANTIZE, "field": UINT8, "collection": {"config": {"quantization_config": {"scalar": {}}}}}),
    ("truncate", {**CUT, "field": DENSE.model_copy(update={"datatype": "float16"})}),
    ("new_collection", {"text_field": None, "has_texts_file": True}),
    ("new_collection", {"collection": {"shard_keys": ("a", "b")}}),
    ("new_collection", {"collection": {"shard_keys": ("a", "b")}, "target": "1.17.0", "is_target_cluster": True}),
    ("side_by_side", {"is_embedded": True, "version": "1.20.0", "field": UNNAMED}),
    ("add_multivector", {**RERANK, "is_embedded": True, "version": "1.20.0", "field": UNNAMED}),
    ("add_sparse", {**SPLADED, "is_embedded": True, "version": "1.20.0", "field": UNNAMED}),
    ("add_sparse", {**HYBRID, "is_embedded": True, "target": "1.17.0"}),
    ("linear_map", {"points": 400}),
]


@pytest.mark.parametrize(("strategy", "changes"), ALLOWED)
def test_what_can_be_done_is_not_refused(strategy: str, changes: dict[str, Any]) -> None:
    assert judged(strategy, seen(**changes)).refusals == []


# --- the order

FIRST: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["new_collection", "side_by_side", "linear_map"]),
    ({"model": SAME}, ["new_collection", "side_by_side", "linear_map"]),
    ({"version": "1.18.0"}, ["new_collection", "named_vector", "side_by_side", "linear_map"]),
    ({"readers": "rolling"}, ["side_by_side", "new_collection", "linear_map"]),
    ({"readers": "rolling", "version": "1.18.0"}, ["named_vector", "side_by_side", "new_collection", "linear_map"]),
    ({"readers": "rolling", "target": "1.18.0"}, ["side_by_side", "new_collection", "linear_map"]),
    ({"readers": "self_resolving"}, ["new_collection", "side_by_side", "linear_map"]),
    ({"points": 200_000_000}, ["linear_map", "new_collection", "side_by_side"]),
    ({"points": 200_000_000, "field": UINT8}, ["new_collection", "side_by_side"]),
    ({"is_embedded": True, "version": "1.20.0"}, ["new_collection", "named_vector", "side_by_side", "linear_map"]),
    ({"is_embedded": True, "version": "1.20.0", "field": UNNAMED}, ["new_collection", "side_by_side", "linear_map"]),
    ({"target": "1.17.0"}, ["new_collection", "side_by_side", "linear_map"]),
    ({"model": MRL_256, "current": MRL, "match": matched(MRL.name)}, ["truncate", "new_collection", "side_by_side", "linear_map"]),
    ({"model": PLAIN_256, "current": PLAIN, "match": matched(PLAIN.name)}, ["new_collection", "side_by_side", "linear_map"]),
    ({"goal": Goal.COMPARE_MODELS}, ["side_by_side", "new_collection"]),
    ({"goal": Goal.COMPARE_MODELS, "version": "1.18.0"}, ["named_vector", "side_by_side", "new_collection"]),
    (HYBRID, ["add_sparse"]),
    (RERANK, ["add_multivector"]),
    (CUT, ["truncate", "requantize", "new_collection"]),
    ({**CUT, "model": None}, ["truncate", "requantize"]),
    ({**CUT, "target": "1.17.0"}, ["truncate", "new_collection"]),
    ({"goal": Goal.SHRINK_VECTORS, "model": SMALL}, ["requantize", "new_collection"]),
    ({"goal": Goal.SHRINK_VECTORS, "model": SMALL, "is_embedded": True}, ["new_collection"]),
    (QUANTIZE, ["requantize"]),
]


@pytest.mark.parametrize(("changes", "expected"), FIRST)
def test_what_can_be_done_comes_first_and_in_order(changes: dict[str, Any], expected: list[str]) -> None:
    ranked = advise(seen(**changes))
    assert [a.strategy for a in ranked if a.is_feasible] == expected
    assert [a.strategy for a in ranked][: len(expected)] == expected
    assert sorted(a.strategy for a in ranked) == sorted(STRATEGIES)
    assert all(a.reasons or a.refusals for a in ranked)
    assert all(len(" ".join([*a.reasons, *a.prerequisites, *a.risks, *a.app_changes, a.undo])) < 2_400 for a in ranked)


VERSIONS = ("1.15.4", "1.16.3", "1.17.0", "1.18.0", "embedded")
MODELS = {"other size": NEW, "same size": SAME, "same base, smaller": MRL_256}


@pytest.mark.parametrize(
    ("version", "writes", "readers", "has_alias", "pair"),
    list(product(VERSIONS, ("frozen", "dual_write", "live"), ("one_deploy", "rolling", "self_resolving"), (True, False), MODELS)),
)
def test_the_first_strategy_for_a_new_model(version: str, writes: str, readers: str, has_alias: bool, pair: str) -> None:
    """Worked out here a second time, from the guidance: what keeps both query models answered, at the least copying."""
    is_embedded = version == "embedded"
    observed = seen(
        "1.20.0" if is_embedded else version,
        is_embedded=is_embedded,
        writes=writes,
        readers=readers,
        has_alias=has_alias,
        model=MODELS[pair],
        current=MRL,
        match=matched(MRL.name),
    )
    has_metadata = version != "1.15.4"
    can_add = version in ("1.18.0", "embedded")
    if readers == "self_resolving" and not has_metadata:
        expected = None  # whatever lies in a new collection
    elif pair == "same base, smaller":
        expected = "truncate"
    elif readers == "rolling":
        expected = "named_vector" if can_add else "side_by_side"
    else:
        expected = "new_collection"
    best = advise(observed)[0]
    assert (best.strategy if best.is_feasible else None) == expected
    told = " ".join([*best.reasons, *best.prerequisites, *best.risks, *best.app_changes])
    if expected in ("new_collection", "side_by_side"):
        assert ("No alias" in told or "no alias" in told) is not has_alias
    if expected in ("new_collection", "truncate"):
        assert {"frozen": "No writes from", "dual_write": "source first", "live": "Writers stay as they are"}[writes] in told
    if expected in ("side_by_side", "named_vector"):
        assert {"frozen": "before writes resume", "dual_write": "Writers give both", "live": "is then filled again"}[writes] in told
    if expected == "side_by_side":
        assert ("need no dual write" in told) is (writes == "live")
    if pair == "same size" and expected is not None:
        assert "nonsense without an error" in told


# --- what is told

TOLD: list[tuple[str, dict[str, Any], str]] = [
    ("new_collection", {"model": SAME}, "nonsense without an error"),
    ("new_collection", {}, "384 -> 768 dimensions"),
    ("new_collection", {"text_coverage": 0.9}, "10.0% of the sampled points have no text in 'text'"),
    ("new_collection", {"text_coverage": 0.9, "has_texts_file": True}, "10.0% of the sampled points have no text in the texts file"),
    ("new_collection", {"has_alias": False}, "No alias points"),
    ("new_collection", {"model": MRL}, "leave this machine"),
    ("new_collection", {"model": ModelSpec(name="m", dimensions=8, note="lexical only")}, "lexical only"),
    ("new_collection", {"model": ModelSpec(name="m", dimensions=8, distance="Dot")}, "trained for Dot"),
    ("new_collection", {}, "current model is not proven"),
    ("new_collection", {"writes": "live", "collection": {"config": {"params": {"shard_number": 3}}}}, "prefer dual_write"),
    ("new_collection", {"collection": {"shard_keys": ("a", "b")}}, "2 shard keys are created on the target"),
    ("new_collection", {"target": "1.17.0"}, "Readers change their connection"),
    ("new_collection", {"target": "embedded"}, "For trying out only"),
    ("new_collection", {"goal": Goal.COMPARE_MODELS}, "compare_models on a sample answers first"),
    ("side_by_side", {}, "cutover can come early"),
    ("side_by_side", {"version": "1.18.0"}, "'named_vector' does the same without the copy"),
    ("side_by_side", {"is_embedded": True, "version": "1.20.0", "field": UNNAMED}, 'write {"": vector}'),
    ("named_vector", {"version": "1.18.0"}, "keeps its name"),
    ("named_vector", {"version": "1.18.0", "field": UNNAMED}, "scratch collection"),
    ("add_sparse", HYBRID, "modifier=idf"),
    ("add_sparse", HYBRID, "words of chunks, not of documents"),
    ("add_sparse", {**HYBRID, "foreign_letters": 0.06}, "Set 'language'"),
    ("add_sparse", {**SPLADED, "foreign_letters": 0.9}, "knows their language"),
    ("add_sparse", HYBRID, "dense vectors are not re-embedded"),
    ("add_sparse", HYBRID, "fused by RRF"),
    ("add_multivector", RERANK, "HNSW off"),
    ("add_multivector", RERANK, "13 s"),
    ("add_multivector", {**RERANK, "rows": 50.0, "points": 1000}, "25.6 MB of disk for token vectors: 50 (measured) of 128"),
    ("truncate", CUT, "nothing is re-embedded, and no text is needed"),
    ("truncate", CUT, "384 -> 256 dimensions"),
    ("truncate", {**CUT, "model": None}, "A choice of dimensions"),
    ("truncate", {**CUT, "has_passed_comparison": True}, "has passed"),
    ("truncate", {**CUT, "cut": FOUND}, "find 62% of their true neighbours"),
    ("linear_map", {"points": 200_000_000}, "only a sample"),
    ("linear_map", {}, "below the floor"),
    ("requantize", QUANTIZE, "no text, no model, no copy"),
    ("requantize", QUANTIZE, "lie in RAM"),
    ("requantize", QUANTIZE, "at 384 take scalar"),
    ("requantize", QUANTIZE, "rescore"),
]


@pytest.mark.parametrize(("strategy", "changes", "words"), TOLD)
def test_what_speaks_for_and_against_a_strategy_is_told(strategy: str, changes: dict[str, Any], words: str) -> None:
    advice = judged(strategy, seen(**changes))
    assert advice.refusals == []
    assert any(words in line for line in [*advice.reasons, *advice.prerequisites, *advice.risks, *advice.app_changes]), advice


def test_plain_english_needs_no_word_about_languages() -> None:
    advice = judged("add_sparse", seen(**HYBRID, foreign_letters=0.004))
    assert not any("language'" in r or "their language" in r for r in advice.risks)


def test_a_proven_current_model_takes_the_risk_away() -> None:
    advice = judged("new_collection", seen(current=MRL, match=matched(MRL.name)))
    assert not any("not proven" in r for r in advice.risks)


@pytest.mark.parametrize(
    ("field", "present", "expected"),
    [
        (DENSE, {}, "scalar"),
        (WIDE, {}, "scalar"),
        (DENSE, {"binary": {}}, "scalar"),
        (WIDE, {"scalar": {"type": "int8"}}, "binary"),
        (DENSE, {"scalar": {"type": "int8"}}, None),
    ],
)
def test_the_quantization_to_begin_with(field: VectorField, present: dict[str, Any], expected: str | None) -> None:
    advice = judged("requantize", seen(**QUANTIZE, field=field, collection={"config": {"quantization_config": present}}))
    assert advice.quantization == expected
    assert any("A choice of 'quantization'" in p for p in advice.prerequisites) is (expected is None)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("version", ["1.17.0", "1.18.0"])
def test_every_row_of_the_table_is_kept_by_its_rule(name: str, version: str) -> None:
    """Placement, need of texts, need of a model: the table of the guidance and the rules say the same."""
    plan = STRATEGY[name]
    goal, model, extra = next(
        (g, m, e)
        for g, m, e in (
            (Goal.ADD_SPARSE, BM25, {}),
            (Goal.ADD_MULTIVECTOR, COLBERT, {}),
            (Goal.CHANGE_QUANTIZATION, None, {}),
            (Goal.SHRINK_VECTORS, MRL_256, {"current": MRL}),
            (Goal.REPLACE_MODEL, NEW, {}),
        )
        if name in SERVES[g]
    )
    changes: dict[str, Any] = {"goal": goal, "model": model, **extra}
    advice = judged(name, seen(version, **changes))
    if name == "named_vector" and version == "1.17.0":
        assert not advice.is_feasible
        assert plan.needs == "server >= 1.18"
        return
    assert advice.refusals == []
    assert advice.undo
    assert advice.is_in_place is (plan.placement == "in_place" or (plan.placement == "either" and version == "1.18.0"))
    without_text = judged(name, seen(version, **{**changes, **NO_TEXT}))
    assert without_text.is_feasible is not plan.needs_text
    if plan.model_kind is not None and plan.made != "truncate":
        wrong = {ModelKind.DENSE: SPLADE, ModelKind.SPARSE: COLBERT, ModelKind.MULTIVECTOR: NEW}[plan.model_kind]
        assert not judged(name, seen(version, **{**changes, "model": wrong})).is_feasible
    if plan.placement == "in_place":
        assert not judged(name, seen(version, target=version, **changes)).is_feasible


def test_every_strategy_has_a_section_a_goal_and_a_rule() -> None:
    titles = {s.title for s in guidance_sections()}
    assert {s.guidance for s in STRATEGY.values()} <= titles
    assert set(SERVES) == set(Goal)
    assert {s for names in SERVES.values() for s in names} == set(STRATEGIES) == set(STRATEGY)
    assert all(name == plan.name for name, plan in STRATEGY.items())


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


def test_a_source_on_another_server_is_only_read() -> None:
    """Its version gates reading alone; in place it would have to write."""
    old = judged("new_collection", seen("1.11.0", target="1.17.0"))
    assert old.is_feasible
    assert any("This one (1.11.0) is only read, which any version from 1.11 on allows" in line for line in old.prerequisites)
    assert not judged("new_collection", seen("1.11.0")).is_feasible
    older = judged("new_collection", seen("1.10.1", target="1.17.0"))
    assert older.refusals == ["Reading a source needs Qdrant 1.11; this one is 1.10.1. Upgrade it first."]


def test_bm25_in_the_server_is_known_under_any_configured_name() -> None:
    """As `{"lexical": {"provider": "qdrant", "model": "bm25"}}`."""
    lexical = ModelSpec(name="lexical", kind=ModelKind.SPARSE, is_server_side=True, modifier="idf")
    advice = judged("add_sparse", seen(is_embedded=True, goal=Goal.ADD_SPARSE, model=lexical))
    assert "the embedded database has none" in advice.refusals[0]
    advice = judged("add_sparse", seen(goal=Goal.ADD_SPARSE, model=lexical))
    assert advice.is_feasible
    assert any("language and tokenizer" in p for p in advice.prerequisites)
