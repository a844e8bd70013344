"""Are cut vectors what they should be, and is their quality measured as the test measures it?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.nearest import NOBODY, nearest, recalls, unit
from qdrant_model_migration.domain.truncation import cut, dimensions_to_try, quality_by_dimension
from qdrant_model_migration.errors import Refused

Matrix = npt.NDArray[np.float32]
DISTANCES = ["Cosine", "Dot", "Euclid", "Manhattan"]


def sample(count: int, size: int, seed: int = 0, *, decay: float = 0.9) -> Matrix:
    """Rows whose first numbers matter most, as a Matryoshka model's do."""
    return (np.random.default_rng(seed).normal(size=(count, size)) * decay ** np.arange(size) + 0.1).astype(np.float32)


def by_hand(rows: Matrix, query: int, distance: str, k: int) -> set[int]:
    """The nearest rows to one of them, computed one by one."""
    q = rows[query].astype(float)
    scores = {}
    for i, row in enumerate(rows.astype(float)):
        scores[i] = {
            "Cosine": lambda r=row: float(q @ r / np.linalg.norm(r) / np.linalg.norm(q)),
            "Dot": lambda r=row: float(q @ r),
            "Euclid": lambda r=row: -float(((q - r) ** 2).sum()),
            "Manhattan": lambda r=row: -float(np.abs(q - r).sum()),
        }[distance]()
    del scores[query]
    return set(sorted(scores, key=lambda i: -scores[i])[:k])


@given(
    st.integers(2, 40).flatmap(
        lambda size: st.tuples(
            st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=size, max_size=size), max_size=8),
            st.integers(1, size),
            st.just(size),
        )
    )
)
def test_a_cut_keeps_the_length_and_the_direction_of_the_first_numbers(case: tuple[list[list[float]], int, int]) -> None:
    values, dimensions, size = case
    rows = np.array(values, dtype=np.float32).reshape(len(values), size)
    made, is_usable = cut(rows, dimensions)
    assert made.shape == (len(rows), dimensions)
    assert np.isfinite(made).all()
    for row, short, is_good in zip(rows.astype(float), made.astype(float), is_usable, strict=True):
        head = row[:dimensions]
        if not head.any():
            assert not is_good
        if not is_good:
            assert not short.any()
            continue
        assert np.linalg.norm(short) == pytest.approx(np.linalg.norm(row), rel=1e-5)
        assert short == pytest.approx(head * (np.linalg.norm(row) / np.linalg.norm(head)), rel=1e-5, abs=1e-5 * float(np.linalg.norm(row)))


def test_what_is_not_finite_or_too_large_has_no_usable_cut() -> None:
    rows = np.array([[np.nan, 1, 1], [1, 1, np.inf], [1e-30, 0, 1e38], [3e38, 3e38, 3e38], [0, 0, 5], [3, 4, 0]], dtype=np.float32)
    made, is_usable = cut(rows, 2)
    assert is_usable.tolist() == [False, False, True, False, False, True]
    assert np.isfinite(made).all()
    assert made[5].tolist() == [3, 4]
    assert made[2].tolist() == pytest.approx([1e38, 0])


@pytest.mark.parametrize("dimensions", [0, -1, 9])
def test_a_size_that_is_none_is_refused(dimensions: int) -> None:
    with pytest.raises(Refused, match=f"8 dimensions cannot be cut to {dimensions}"):
        cut(np.ones((1, 8), dtype=np.float32), dimensions)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_nearest_rows_are_those_found_one_by_one(distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qdrant_model_migration.domain.nearest.BLOCK_CELLS", 500)
    rows = sample(60, 12) + 1000 * (distance == "Euclid")
    own = np.arange(60, dtype=np.intp)
    found = nearest(rows, rows, distance, 7, own=own)
    for i in range(60):
        assert set(found[i].tolist()) == by_hand(rows, i, distance, 7)
    # Best first.
    first = nearest(rows, rows, distance, 1, own=own)[:, 0]
    assert (found[:, 0] == first).all()


def test_what_cannot_be_found_is_nobody() -> None:
    rows = unit(sample(4, 3))
    found = nearest(rows, rows, "Cosine", 6, own=np.arange(4), is_findable=np.array([True, True, False, True]))
    assert found[2].tolist()[3:] == [NOBODY] * 3
    assert set(found[0].tolist()) == {1, 3, NOBODY}
    assert recalls(found, found).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_quality_agrees_with_a_computation_by_hand(distance: str) -> None:
    rows = sample(150, 32)
    measured = quality_by_dimension(rows, distance, [4, 16, 32], k=5, queries=150, seed=3)
    for quality in measured:
        shorter = rows[:, : quality.dimensions].astype(float)
        shorter *= (np.linalg.norm(rows.astype(float), axis=1) / np.linalg.norm(shorter, axis=1))[:, None]
        shares = [len(by_hand(rows, i, distance, 5) & by_hand(shorter.astype(np.float32), i, distance, 5)) / 5 for i in range(len(rows))]
        assert quality.recall_at_k == pytest.approx(np.mean(shares), abs=0.003)
        assert quality.ci_low <= quality.recall_at_k <= quality.ci_high
        # A normal approximation of the same interval.
        assert quality.ci_high - quality.ci_low == pytest.approx(2 * 1.96 * np.std(shares) / np.sqrt(150), rel=0.15, abs=1e-9)
        assert (quality.k, quality.sample) == (5, 150)
    assert [q.recall_at_k for q in measured] == sorted(q.recall_at_k for q in measured)
    assert measured[-1].recall_at_k == 1.0


def test_rows_that_are_lost_by_the_cut_neither_find_nor_are_found() -> None:
    rows = sample(100, 8)
    rows[::2, :4] = 0.0
    k = 60
    lost = quality_by_dimension(rows, "Euclid", [4], k=k, queries=100)[0]
    # Half of the queries find nothing; the others find all that is left, of which so many are true neighbours.
    left = set(range(1, 100, 2))
    shares = [len(by_hand(rows, i, "Euclid", k) & (left - {i})) / k if i % 2 else 0.0 for i in range(100)]
    assert lost.recall_at_k == pytest.approx(np.mean(shares), abs=1e-9)


def test_unusable_rows_are_left_out_and_too_few_are_refused() -> None:
    rows = sample(120, 8)
    rows[:50] = 0.0
    rows[50] = np.nan
    assert quality_by_dimension(rows, "Dot", [4])[0].sample == 69
    with pytest.raises(Refused, match="49 usable vectors are too few"):
        quality_by_dimension(rows[:100], "Dot", [4])
    assert quality_by_dimension(rows, "Dot", []) == []


def test_the_sizes_to_try_follow_from_the_size() -> None:
    assert dimensions_to_try(768) == [64, 128, 256, 384, 512]
    assert dimensions_to_try(1024) == [128, 256, 384, 512, 768]
    assert dimensions_to_try(3072) == [256, 384, 512, 768, 1024, 1536, 2048]
    assert dimensions_to_try(64) == [32]
    assert dimensions_to_try(1) == dimensions_to_try(0) == []
