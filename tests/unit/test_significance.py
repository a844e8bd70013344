"""Is the randomisation test the one of the books, and is nothing called better that the test does not call so?"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.significance import corrected, decide, p_values


def test_p_values_agree_with_all_assignments() -> None:
    """Twelve queries have 4,096 ways to exchange the two models; the share that differs as much is the p value."""
    random = np.random.default_rng(1)
    differences = np.column_stack([random.normal(0.15, 0.2, 12), random.choice([-0.5, 0.0, 0.5], 12), np.full(12, 0.1)])
    exact = [
        np.mean([abs(np.dot(signs, column)) >= abs(column.sum()) - 1e-9 for signs in product((1, -1), repeat=12)])
        for column in differences.T
    ]
    assert p_values(differences, seed=0) == pytest.approx(exact, abs=0.015)
    # All twelve on one side: two of the 4,096 assignments.
    assert exact[2] == 2 / 4096


def test_p_values_are_the_same_for_the_same_seed_and_never_zero() -> None:
    differences = np.random.default_rng(0).normal(1.0, 0.1, size=(400, 1))
    one, other = p_values(differences, seed=3), p_values(differences, seed=3)
    assert np.array_equal(one, other)
    assert one[0] == pytest.approx(1 / 10_001)
    assert p_values(np.zeros((30, 1)), seed=0)[0] == 1.0


def test_p_values_of_equal_models_are_spread_evenly() -> None:
    """A p below 0.05 is as frequent as it says, and so is one below a half."""
    random = np.random.default_rng(5)
    found = np.array([p_values(random.normal(size=(20, 1)), seed=seed, resamples=500)[0] for seed in range(400)])
    assert np.mean(found <= 0.05) == pytest.approx(0.05, abs=0.033)
    assert np.mean(found <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_correction_is_that_of_holm() -> None:
    assert corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert corrected([0.9, 0.6]) == [1.0, 1.0]
    assert corrected([0.02]) == [0.02]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_correction_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    found = corrected(values)
    assert all(a <= b + 1e-12 <= 1 + 1e-9 for a, b in zip(values, found, strict=True))
    order = np.argsort(values, kind="stable")
    assert list(np.array(found)[order]) == sorted(found)


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "better"), (0.05, "better"), (0.08, "inconclusive")])
def test_nothing_is_better_without_the_test(p: float, verdict: str) -> None:
    assert decide(0.001, 0.2, 0.01, p) == verdict
    assert decide(-0.001, 0.002, 0.01, p) == "equivalent"
