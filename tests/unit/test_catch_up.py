"""When has catching up converged, although production goes on writing?"""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.catch_up import has_converged, is_caught_up


@pytest.mark.parametrize(
    ("found", "total", "is_frozen", "is_over"),
    [
        ([], 1000, False, False),
        ([0], 1000, False, True),
        ([0], 1000, True, True),
        ([500, 0], 1000, True, True),
        # Frozen writes: whatever is found was not there at the look before, so only nothing will do.
        ([1], 1000, True, False),
        ([5, 1, 1, 1, 1], 1000, True, False),
        # Live writes: one pass says nothing about the rate, two small ones do.
        ([1], 1000, False, False),
        ([5000, 100], 1000, False, True),
        ([5000, 101], 1000, False, False),
        ([5000, 900], 1_000_000, False, True),
        ([5000, 1001], 1_000_000, False, False),
        # It stopped shrinking: that is the writers' own rate.
        ([9000, 3000, 1000], 10_000, False, False),
        ([9000, 3000, 1000, 700], 10_000, False, True),
        ([9000, 3000, 1000, 699], 10_000, False, False),
        ([9000, 3000, 1000, 2000], 10_000, False, True),
    ],
)
def test_convergence(found: list[int], total: int, is_frozen: bool, is_over: bool) -> None:
    assert has_converged(found, total, is_frozen=is_frozen) is is_over


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], False),
        ([0], True),
        ([50], False),
        ([900, 50], True),
        ([9, 9000], False),
        ([5000, 5000, 5000, 5000], False),
        ([900, 150], False),
    ],
)
def test_readers_move_only_when_the_lag_is_nothing_or_small(found: list[int], *, expected: bool) -> None:
    """A lag that merely stopped shrinking is the writers' own rate: a backfill may end there, a cutover may not."""
    assert is_caught_up(found, 10_000) is expected


@pytest.mark.parametrize(("found", "took_s", "expected"), [([900], 1.0, False), ([900, 600], 15.0, True), ([900, 600], 15.1, False)])
def test_readers_move_when_the_target_is_behind_by_seconds_only(found: list[int], took_s: float, *, expected: bool) -> None:
    """However fast an app writes: what it writes in those seconds is carried over by the sweep after the swap."""
    assert is_caught_up(found, 10_000, took_s) is expected
