"""Is a template read as the app means it, asked of the right field on each side, and refused in words when it cannot be?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.comparison_sides import Asked, SidePlan
from qdrant_model_migration.domain.search_template import MAX_CHARS, QueryText, QueryVector, parsed, sided, template_notes
from qdrant_model_migration.errors import Refused

RED = {"must": [{"key": "colour", "match": {"value": "red"}}]}
BIG = {"must": [{"key": "size", "range": {"gte": 10}}]}
BASE = SidePlan(where="source", dense=Asked(field="", model="old"))
NEW = SidePlan(where="target", dense=Asked(field="dense", model="new"))
ALONE = SidePlan(where="target", dense=Asked(field="dense", model="old"))
ADDED = SidePlan(where="target", dense=Asked(field="dense", model="old"), how="hybrid", added=Asked(field="sparse", model="bm25"))


def test_a_vector_is_asked_by_the_name_that_each_side_has_for_it() -> None:
    """Whether the template names the old field, the new one, or, being unnamed, none."""
    for using in ({}, {"using": ""}, {"using": "dense"}):
        template = parsed({"query": "{query}", **using, "filter": RED, "params": {"hnsw_ef": 64}, "limit": 5})
        old, new = sided(template, (BASE, NEW))
        assert (old.using, new.using) == ("", "dense")
        assert old.filter == new.filter == RED
        assert new.params == {"hnsw_ef": 64}


def test_what_combines_searches_keeps_its_own_names() -> None:
    body = {
        "prefetch": [
            {"query": "{query}", "limit": 50, "filter": RED},
            {"query": {"text": "{text}", "model": "qdrant/bm25"}, "using": "words", "limit": 40},
            {"query": {"nearest": "{query}", "mmr": {"diversity": 0.3}}, "limit": 30},
        ],
        "query": {"fusion": "rrf"},
        "filter": BIG,
        "with_payload": True,
    }
    old, new = sided(parsed(json.dumps(body)), (BASE, NEW))
    assert [s.using for s in old.prefetch] == ["", "words", ""]
    assert [s.using for s in new.prefetch] == ["dense", "words", "dense"]
    assert [s.limit for s in new.prefetch] == [50, 40, 30]
    assert new.prefetch[2].query == QueryVector(mmr={"diversity": 0.3})
    assert new.documents == [QueryText(place=0, model="qdrant/bm25", options={})]
    assert new.is_combining
    # The filter of a search holds for its prefetches as well.
    assert new.filters() == [{"must": [BIG, RED]}, BIG]


def test_the_baseline_of_an_added_field_is_the_template_without_it() -> None:
    fused = {
        "prefetch": [
            {"query": "{query}", "using": "dense", "filter": RED, "limit": 50},
            {"query": "{query}", "using": "sparse", "limit": 50},
        ],
        "query": {"fusion": "rrf"},
        "filter": BIG,
        "limit": 10,
    }
    alone, whole = sided(parsed(fused), (ALONE, ADDED))
    assert (alone.query, alone.using, alone.prefetch, alone.limit) == (QueryVector(), "dense", (), 10)
    assert alone.filter == {"must": [BIG, RED]}
    assert [s.using for s in whole.prefetch] == ["dense", "sparse"]

    reranked = {"prefetch": {"query": "{query}", "using": "dense", "limit": 100}, "query": "{query}", "using": "sparse"}
    alone, whole = sided(parsed(reranked), (ALONE, ADDED))
    assert (alone.using, alone.prefetch, whole.using) == ("dense", (), "sparse")

    third = {"query": {"text": "{text}", "model": "qdrant/bm25"}, "using": "words", "limit": 50}
    alone, _ = sided(parsed({**fused, "prefetch": [*fused["prefetch"], third]}), (ALONE, ADDED))  # type: ignore[misc]
    assert [s.using for s in alone.prefetch] == ["dense", "words"]
    assert alone.is_combining


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("not json", "is not JSON: Expecting value at character 0"),
        ("[" * 5_000, "is not JSON"),
        ([1], "is not an object"),
        ({}, "'query' must be"),
        ({"query": [0.1, 0.2]}, "'query' must be"),
        ({"query": "{query}", "filter": {"must": [{"key": "x" * MAX_CHARS}]}}, "characters; it may have 10,000"),
        ({"query": "{query}", "offset": 10}, "has 'offset', which is not taken here"),
        ({"query": "{query}", "lookup_from": {"collection": "other"}}, "'lookup_from'"),
        ({"query": "{query}", "limit": 0}, "'limit' must be"),
        ({"query": "{query}", "limit": 1e9}, "'limit' must be"),
        ({"query": "{query}", "limit": True}, "'limit' must be"),
        ({"query": "{query}", "filter": "red"}, "'filter' must be an object"),
        ({"query": "{query}", "using": 3}, "'using' must be the name"),
        ({"query": "{query}", "score_threshold": "0.5"}, "'score_threshold' must be a number"),
        ({"query": {"fusion": "rrf"}}, "there is no 'prefetch'"),
        ({"prefetch": [{"query": {"text": "{text}", "model": "qdrant/bm25"}}], "query": {"fusion": "rrf"}}, "has no place for the query"),
        ({"prefetch": "x", "query": {"fusion": "rrf"}}, "'prefetch' must be"),
        ({"prefetch": [{"query": "{query}"}] * 16, "query": {"fusion": "rrf"}}, "makes 17 searches"),
        ({"prefetch": [{"query": "{query}", "limit": 5_000}], "query": "{query}"}, "prefetch 1 of the template: 'limit'"),
        ({"query": {"recommend": {"positive": [1]}}}, "'query' must be"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_place(body: Any, why: str) -> None:
    with pytest.raises(Refused) as caught:
        parsed(body)
    assert str(caught.value).startswith("Nothing was compared: search_template ")
    assert why in str(caught.value)


def test_deep_nesting_is_refused() -> None:
    body: dict[str, Any] = {"query": "{query}"}
    for _ in range(4):
        body = {"prefetch": body, "query": "{query}"}
    with pytest.raises(Refused, match="more than 4 deep"):
        parsed(body)


@pytest.mark.parametrize(
    ("plans", "body", "why"),
    [
        ((BASE, NEW), {"query": "{query}", "using": "image"}, "no model is known; this migration compares '(unnamed)', 'dense'"),
        ((ALONE, ADDED), {"query": "{query}", "using": "dense"}, "does not ask the added vector 'sparse'"),
        ((ALONE, ADDED), {"query": "{query}", "using": "sparse"}, "asks nothing but the added vector"),
        (
            (ALONE, ADDED),
            {"prefetch": [{"query": "{query}", "using": "dense"}, {"query": "{query}"}], "query": "{query}", "using": "sparse"},
            "which of them is the baseline",
        ),
    ],
)
def test_a_template_that_does_not_fit_the_migration_is_refused(plans: tuple[SidePlan, SidePlan], body: Any, why: str) -> None:
    with pytest.raises(Refused) as caught:
        sided(parsed(body), plans)
    assert why in str(caught.value)


def test_what_differs_between_models_by_its_nature_is_said() -> None:
    formula = {"formula": {"sum": ["$score", {"mult": [0.5, "popularity"]}]}}
    template = parsed({"prefetch": {"query": "{query}", "score_threshold": 0.4}, "query": formula, "limit": 20})
    notes = " ".join(template_notes(template, 10))
    assert "limit of 20 was replaced" in notes
    assert "score_threshold" in notes
    assert "formula mixes scores" in notes


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["{query}", "{text}", "rrf", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prefetch", "query", "using", "filter", "limit", "nearest", "text", "model", "fusion"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(body=st.dictionaries(st.sampled_from(["prefetch", "query", "using", "filter", "params", "limit"]), _JSON, max_size=5))
def test_any_object_is_a_template_or_is_refused(body: dict[str, Any]) -> None:
    try:
        found = parsed(body)
    except Refused:
        return
    assert any(isinstance(search.query, QueryVector) for search in found.all())
