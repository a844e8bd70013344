"""Does a backfill keep to its rate, whatever its windows take and however the rate is changed?"""

from __future__ import annotations

import math

import pytest

from qdrant_model_migration.domain.pacing import LEAST_RATE, LOOKS_BEFORE_RAISE, RAISE, Budget, Ceiling, eta_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_window_is_paid_by_waiting() -> None:
    clock = Clock()
    budget = Budget(clock)
    budget.spend(100)
    assert budget.wait_s(50.0) == 2.0
    clock.now += 1.5
    assert budget.wait_s(50.0) == 0.5
    clock.now += 0.5
    assert budget.wait_s(50.0) == 0.0


def test_the_time_that_the_work_itself_took_counts() -> None:
    clock = Clock()
    budget = Budget(clock)
    budget.spend(100)
    assert budget.wait_s(100.0) == 1.0
    clock.now += 1.0
    assert budget.wait_s(100.0) == 0.0
    clock.now += 0.75  # embedding the next window
    budget.spend(100)
    assert budget.wait_s(100.0) == pytest.approx(0.25)


def test_no_more_than_a_second_is_saved_up() -> None:
    """After an hour without work the rate is exceeded by one second's worth, not by an hour's."""
    clock = Clock()
    budget = Budget(clock)
    budget.spend(1)
    clock.now += 3600
    assert budget.wait_s(10.0) == 0.0
    budget.spend(30)
    assert budget.wait_s(10.0) == pytest.approx(2.0)


def test_without_a_rate_nothing_is_owed_and_nothing_saved() -> None:
    clock = Clock()
    budget = Budget(clock)
    budget.spend(10_000)
    assert budget.wait_s(None) == 0.0
    budget.spend(10)
    assert budget.wait_s(10.0) == 1.0


def test_a_changed_rate_holds_at_once() -> None:
    clock = Clock()
    budget = Budget(clock)
    budget.spend(100)
    assert budget.wait_s(10.0) == 10.0
    assert budget.wait_s(1000.0) == pytest.approx(0.1)


def test_the_rate_is_kept_over_many_windows_of_two_ranges() -> None:
    clock = Clock()
    budget = Budget(clock)
    for _ in range(200):
        budget.spend(64)
        budget.spend(32)
        clock.now += 0.01
        clock.now += budget.wait_s(1000.0)
    assert 200 * 96 / (clock.now - 1000.0) == pytest.approx(1000.0, rel=0.06)


@pytest.mark.parametrize(
    ("total", "done", "rate", "seconds"),
    [(100, 50, 10.0, 5), (100, 100, 10.0, 0), (100, 120, 10.0, 0), (100, 0, None, None), (100, 0, 0.0, None), (100, 0, -1.0, None)],
)
def test_time_left(total: int, done: int, rate: float | None, seconds: int | None) -> None:
    assert eta_seconds(total, done, rate) == seconds


def test_a_ceiling_halves_the_rate_at_once_and_raises_it_after_some_good_searches() -> None:
    ceiling = Ceiling()
    before = ceiling.points_per_second
    ceiling.note(30.0, 20.0)
    assert ceiling.points_per_second == before / 2
    for _ in range(LOOKS_BEFORE_RAISE - 1):
        ceiling.note(10.0, 20.0)
    assert ceiling.points_per_second == before / 2
    ceiling.note(10.0, 20.0)
    assert ceiling.points_per_second == before / 2 * RAISE


def test_a_search_near_the_ceiling_neither_raises_nor_cuts_and_a_bad_one_begins_the_count_anew() -> None:
    ceiling = Ceiling()
    before = ceiling.points_per_second
    for _ in range(50):
        ceiling.note(19.0, 20.0)
    assert ceiling.points_per_second == before
    for _ in range(LOOKS_BEFORE_RAISE - 1):
        ceiling.note(1.0, 20.0)
    ceiling.note(math.inf, 20.0)
    cut = ceiling.points_per_second
    ceiling.note(1.0, 20.0)
    assert ceiling.points_per_second == cut < before


def test_a_ceiling_never_stops_a_backfill_for_good() -> None:
    ceiling = Ceiling()
    for _ in range(1000):
        ceiling.note(math.inf, 20.0)
    assert ceiling.points_per_second == LEAST_RATE
