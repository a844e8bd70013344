"""Is a candidate of a comparison taken apart as it was written, and refused where its parts do not go together?"""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.candidates import CandidateName, check_kinds, parsed
from qdrant_model_migration.domain.comparison_sides import dense_part, labelled
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.errors import Refused

DENSE, SPARSE, LATE = ModelKind.DENSE, ModelKind.SPARSE, ModelKind.MULTIVECTOR


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("minilm", CandidateName(dense="minilm")),
        ("  openai:text-embedding-3-large@256 ", CandidateName(dense="openai:text-embedding-3-large@256")),
        # No blank, no sign: names may hold a plus.
        ("own:c++", CandidateName(dense="own:c++")),
        ("minilm+bm25", CandidateName(dense="minilm+bm25")),
        ("minilm@256 + qdrant:bm25", CandidateName(dense="minilm@256", how="hybrid", added="qdrant:bm25")),
        ("own:c++  +  bm25", CandidateName(dense="own:c++", how="hybrid", added="bm25")),
        (
            "minilm > fastembed:colbert-ir/colbertv2.0",
            CandidateName(dense="minilm", how="rerank", added="fastembed:colbert-ir/colbertv2.0"),
        ),
    ],
)
def test_a_candidate_is_a_model_or_two_with_a_sign_between(text: str, expected: CandidateName) -> None:
    assert parsed(text) == expected
    assert parsed(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("minilm & bm25", "the sign '&', which is none"),
        ("minilm plus bm25", "the sign 'plus'"),
        ("minilm + bm25 > colbert", "has 3 parts"),
        ("a + b + c + d", "has 4 parts"),
        ("minilm bm25", "is not understood"),
        ("minilm +", "is not understood"),
        ("+ bm25", "is not understood"),
        ("minilm>colbert", "is not understood"),
        ("", "is not understood"),
        ("a + b ? c", "is not understood"),
    ],
)
def test_anything_else_is_refused_with_the_way_to_write_it(text: str, why: str) -> None:
    with pytest.raises(Refused) as refusal:
        parsed(text)
    assert why in str(refusal.value)
    assert "Write 'dense', 'dense + sparse' (fused) or 'dense > late'" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "dense", "added", "why"),
    [
        ("a + b", DENSE, DENSE, "names two dense models"),
        ("a > b", DENSE, DENSE, "names two dense models"),
        ("bm25 + a", SPARSE, DENSE, "begins with 'bm25', a sparse model; the dense one comes first"),
        ("bm25 + late", SPARSE, LATE, "begins with 'bm25'"),
        ("a + late", DENSE, LATE, "takes 'late', a multivector model, where a sparse one belongs: 'a > late'"),
        ("a > bm25", DENSE, SPARSE, "takes 'bm25', a sparse model, where a multivector one belongs: 'a + bm25'"),
    ],
)
def test_models_that_do_not_go_together_are_refused(text: str, dense: ModelKind, added: ModelKind, why: str) -> None:
    with pytest.raises(Refused) as refusal:
        check_kinds(parsed(text), dense, added)
    assert why in str(refusal.value)


def test_models_that_go_together_pass() -> None:
    check_kinds(parsed("a + b"), DENSE, SPARSE)
    check_kinds(parsed("a > b"), DENSE, LATE)


def test_the_dense_model_is_read_off_a_label() -> None:
    for label in ("m@256", labelled("m@256", "hybrid", "qdrant:bm25"), labelled("m@256", "rerank", "late"), "m@256 (#2)"):
        assert dense_part(label) == "m@256"
    assert dense_part(f"{labelled('m', 'hybrid', 's')} (#2)") == "m"
