"""Which two searches does a comparison set against each other, and when is it refused?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.comparison_sides import Asked, SidePlan, refusal, sides_of
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.recipe import Endpoint, Filled, Recipe
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.status import is_comparable
from qdrant_model_migration.results import IndexRecall, RequantizeOutcome, SourceMatch

MATCH = SourceMatch(model="old", text_field="t", sampled=32, threshold=0.98, mean_cosine=1.0, is_match=True)
OLD, NEW = Asked(field="", model="old"), Asked(field="new", model="new")
COPY = Recipe(field="", kind="copy", source_field="")


def migration(made: Recipe | None, *copies: Recipe, kind: ModelKind = ModelKind.DENSE, **more: Any) -> Migration:
    fields: dict[str, Any] = {
        "phase": Phase.VERIFIED,
        "strategy": "new_collection",
        "current_model": "old",
        "source_match": MATCH,
        "dense_field": "",
        "model": None if made is None else ModelSpec(name="new", kind=kind),
        "total_points": 1000,
        **more,
    }
    return Migration(
        id="m-1",
        arguments_digest="",
        created_at="",
        source=Endpoint(collection="docs"),
        target=Endpoint(collection="docs__new"),
        recipes=(*([made] if made else []), *copies),
        **fields,
    )


FILLED = Filled(points=1000, with_vector=990, without_text=10, at="", has_converged=True)
BESIDE = Recipe(field="new", kind="embed", source_field="", stage="fill")
SPARSE = Recipe(field="new", kind="embed", vector_kind=FieldKind.SPARSE)
TOKENS = Recipe(field="new", kind="embed", vector_kind=FieldKind.MULTIVECTOR)
ON_SOURCE, ON_TARGET = SidePlan(where="source", dense=OLD), SidePlan(where="target", dense=OLD)
MADE = SidePlan(where="target", dense=NEW)


@pytest.mark.parametrize(
    ("found", "baseline", "candidate"),
    [
        pytest.param(migration(Recipe(field="new", kind="embed", source_field="")), ON_SOURCE, MADE, id="new_collection"),
        pytest.param(
            migration(Recipe(field="new", kind="embed", source_field=""), phase=Phase.CUT_OVER), ON_SOURCE, MADE, id="after the swap"
        ),
        pytest.param(migration(Recipe(field="new", kind="truncate", source_field="")), ON_SOURCE, MADE, id="truncate"),
        pytest.param(migration(Recipe(field="new", kind="linear_map", source_field="")), ON_SOURCE, MADE, id="linear_map"),
        pytest.param(migration(BESIDE, COPY, is_filling=True, filled=FILLED), ON_SOURCE, MADE, id="side_by_side, filled before the swap"),
        pytest.param(
            migration(BESIDE, COPY, is_filling=True, filled=FILLED, phase=Phase.CUT_OVER),
            ON_TARGET,
            MADE,
            id="side_by_side, after the swap",
        ),
        pytest.param(migration(BESIDE, placement="in_place", is_filling=True, filled=FILLED), ON_TARGET, MADE, id="named_vector"),
        pytest.param(
            migration(SPARSE, COPY, kind=ModelKind.SPARSE),
            ON_TARGET,
            SidePlan(where="target", dense=OLD, how="hybrid", added=NEW),
            id="add_sparse",
        ),
        pytest.param(
            migration(TOKENS, COPY, kind=ModelKind.MULTIVECTOR),
            ON_TARGET,
            SidePlan(where="target", dense=OLD, how="rerank", added=NEW),
            id="add_multivector",
        ),
    ],
)
def test_sides_follow_from_what_was_made_and_where_the_readers_are(found: Migration, baseline: SidePlan, candidate: SidePlan) -> None:
    assert sides_of(found) == (baseline, candidate)
    assert is_comparable(found)


def test_labels_say_what_is_compared() -> None:
    dense, bm25 = Asked(field="", model="minilm"), Asked(field="sparse", model="qdrant:bm25")
    assert SidePlan(where="target", dense=dense).label == "minilm"
    assert SidePlan(where="target", dense=dense, how="hybrid", added=bm25).label == "minilm + qdrant:bm25 (RRF)"
    assert (
        SidePlan(where="target", dense=dense, how="rerank", added=Asked(field="t", model="colbert")).label == "minilm, reranked by colbert"
    )


RECALLS = [
    IndexRecall(k=10, queries=200, recall=r, ci_low=r - 0.01, ci_high=r + 0.01, quantization=q) for r, q in ((0.99, None), (0.93, "binary"))
]


def outcome(before: IndexRecall | None, after: IndexRecall | None) -> RequantizeOutcome:
    return RequantizeOutcome(kind="binary", field="", before=before, after=after, is_ready=True, seconds=1)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (migration(None, placement="in_place"), "changes no model, only the quantization of 'docs'.*start_backfill measures"),
        (
            migration(None, placement="in_place", requantized=outcome(*RECALLS)),
            r"recall@10 0.990 \(0.980 to 1.000, not quantized, 200 queries\) before, recall@10 0.930 \(0.920 to 0.940, binary, 200 queries\) after",
        ),
        (migration(None, placement="in_place", requantized=outcome(None, RECALLS[1])), "only one side of it: recall@10 0.930"),
        (migration(None, placement="in_place", requantized=outcome(None, None)), "nothing, as no vector could be searched"),
        (migration(BESIDE, COPY), "'new' was not filled yet: 0 of 1,000 points of 'docs__new' hold it. Call start_backfill"),
        (
            migration(BESIDE, COPY, is_filling=True, phase=Phase.CUT_OVER, filled=Filled(points=1200, with_vector=300, at="")),
            r"300 of 1,200 points of 'docs__new' hold it \(25.0%\)",
        ),
        (
            migration(SPARSE, COPY, kind=ModelKind.SPARSE, current_model=None, source_match=None),
            "without current_model.*dense vectors alone and together.*discard_new.*start over with the right current_model",
        ),
        (
            migration(TOKENS, kind=ModelKind.MULTIVECTOR, current_model=None, source_match=None, dense_field=None),
            "without vector, which names",
        ),
        (
            migration(SPARSE, COPY, kind=ModelKind.SPARSE, source_match=MATCH.model_copy(update={"is_match": False, "mean_cosine": 0.31})),
            "mean cosine 0.3100 over 32 texts, 0.98 needed.*discard_new",
        ),
        (
            migration(Recipe(field="", kind="truncate", source_field=""), current_model=None, source_match=None),
            "without text_field or texts_file, by which current_model would have been tested",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_numbers_and_the_way(found: Migration, message: str) -> None:
    with pytest.raises(Refused, match=f"^Nothing was compared: .*{message}"):
        sides_of(found)
    assert refusal(found) is not None
    assert not is_comparable(found)
