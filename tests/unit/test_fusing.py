"""Are sparse scores, fused ranks and the best matches of tokens what plain sums say?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from qdrant_model_migration.domain.fusing import SparseIndex, Terms, fused, max_sim

ROWS: list[Terms | None] = [([1, 7], [1.0, 0.5]), ([7], [2.0]), None, ([], []), ([1, 2, 7], [0.5, 3.0, 0.1])]


def plain(query: Terms, is_idf: bool) -> dict[int, float]:
    """Scores by position, written out: five documents, of which three hold term 7."""
    having = {term: sum(row is not None and term in row[0] for row in ROWS) for term in query[0]}
    found: dict[int, float] = {}
    for at, row in enumerate(ROWS):
        held = dict(zip(*row, strict=True)) if row is not None else {}
        for term, weight in zip(*query, strict=True):
            if term in held:
                idf = math.log((5 - having[term] + 0.5) / (having[term] + 0.5) + 1) if is_idf else 1.0
                found[at] = found.get(at, 0.0) + weight * held[term] * idf
    return found


@pytest.mark.parametrize("is_idf", [True, False])
@pytest.mark.parametrize("query", [([1, 7], [1.0, 1.0]), ([2, 9], [1.0, 4.0]), ([7, 1], [3.0, 0.1])])
def test_documents_are_ordered_by_their_weighted_terms(query: Terms, is_idf: bool) -> None:
    expected = plain(query, is_idf)
    assert SparseIndex(ROWS, is_idf=is_idf).best(query, 10) == sorted(expected, key=lambda at: -expected[at])


def test_rare_terms_weigh_more_only_where_the_modifier_says_so() -> None:
    rows: list[Terms | None] = [([1], [1.0]), ([2], [1.1]), ([2], [1.0]), ([2], [1.0])]
    assert SparseIndex(rows, is_idf=True).best(([1, 2], [1.0, 1.0]), 1) == [0]
    assert SparseIndex(rows, is_idf=False).best(([1, 2], [1.0, 1.0]), 1) == [1]


def test_what_shares_no_term_is_not_found() -> None:
    index = SparseIndex(ROWS, is_idf=True)
    assert index.best(([], []), 10) == []
    assert index.best(([5], [1.0]), 10) == []
    assert len(index.best(([7], [1.0]), 2)) == 2
    assert SparseIndex([None, ([], [])], is_idf=True).best(([1], [1.0]), 10) == []


def test_reciprocal_ranks_are_summed() -> None:
    # 5: 1/3 + 1/2, 3: 1/2, 8: 1/3 + nothing, 4: 1/4.
    assert fused([[3, 5, 4], [5, 8]], 10) == ([5, 3, 8, 4], False)
    assert fused([[3, 5, 4], [5, 8]], 1) == ([5], False)
    assert fused([[1, 2], []], 10) == ([1, 2], False)
    assert fused([[], []], 10) == ([], False)


def test_equal_ranks_are_a_tie_and_the_first_ranking_leads() -> None:
    assert fused([[1], [2]], 10) == ([1, 2], True)
    assert fused([[1], [2]], 1) == ([1], False)


def test_each_token_of_the_query_takes_its_best_match() -> None:
    random = np.random.default_rng(0)
    query = random.normal(size=(4, 6)).astype(np.float32)
    documents = [random.normal(size=(n, 6)).astype(np.float32) for n in (1, 5, 3)]
    expected = [sum(max(float(q @ d) for d in document) for q in query) for document in documents]
    assert max_sim(query, documents) == pytest.approx(expected, abs=1e-5)
    assert len(max_sim(query, [])) == 0
