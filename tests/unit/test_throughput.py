"""Is what is kept of a backfill's speed true, however often it is interrupted, and bounded, however long it takes?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.throughput import LEAST_S, MOST_STRETCHES, Stretch, Throughput, ThroughputRecord, thinned


class Clock:
    """The driver's own, and the ledger's, which is somewhere else."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def epoch(self) -> float:
        return self.now + 1_000_000


def metered(record: ThroughputRecord | None = None) -> tuple[Throughput, Clock]:
    clock = Clock()
    return Throughput(record or ThroughputRecord(), clock=clock, epoch=clock.epoch), clock


def test_a_stretch_holds_what_was_done_in_it_and_nothing_that_was_done_before() -> None:
    meter, clock = metered()
    meter.begin("backfilling", 700)
    clock.now += 2.0
    meter.note(900)
    clock.now += 4.0
    meter.note(1000)
    meter.end()
    assert [(s.points, s.seconds, s.points_per_second, s.end) for s in meter.record.stretches] == [
        (200, 2.0, 100.0, 1_000_052.0),
        (100, 4.0, 25.0, 1_000_056.0),
    ]


def test_bursts_are_taken_together_and_a_rest_is_added_to_what_came_before_it() -> None:
    meter, clock = metered()
    meter.begin("backfilling", 0)
    for read in (128, 256, 384):
        clock.now += LEAST_S / 2
        meter.note(read)
    meter.end()
    assert [(s.points, s.seconds) for s in meter.record.stretches] == [(384, 1.5)]


def test_time_in_which_nobody_worked_belongs_to_no_stretch() -> None:
    meter, clock = metered()
    meter.begin("backfilling", 0)
    clock.now += 2.0
    meter.note(100)
    meter.end()
    clock.now += 3_600
    meter.note(9_999)
    meter.begin("backfilling", 100)
    clock.now += 0.5
    meter.note(150)
    meter.end()
    # A rest is never added to what another run did.
    assert [(s.points, s.seconds) for s in meter.record.stretches] == [(100, 2.0), (50, 0.5)]


def test_a_driver_goes_on_with_what_the_one_before_recorded() -> None:
    before = Stretch(stage="backfilling", end=1_000_000, seconds=10.0, points=500)
    meter, clock = metered(ThroughputRecord(stretches=(before,)))
    changes = [meter.is_changed]
    meter.begin("filling", 0)
    clock.now += 0.2
    meter.note(10)
    meter.end()
    assert [*changes, meter.is_changed] == [False, True]
    assert [s.points for s in meter.record.stretches] == [500, 10]


def test_a_pass_that_finds_nothing_is_no_stretch() -> None:
    meter, clock = metered()
    meter.begin("filling", 40)
    clock.now += 5.0
    meter.end()
    assert meter.record.stretches == ()


@given(st.lists(st.tuples(st.floats(0.01, 1_000), st.integers(0, 10_000), st.floats(0, 10_000)), max_size=60), st.integers(1, 20))
def test_thinning_keeps_points_time_and_order(given_stretches: list[tuple[float, int, float]], most: int) -> None:
    end, stretches = 0.0, list[Stretch]()
    for seconds, points, pause in given_stretches:
        end += pause + seconds
        stretches.append(Stretch(stage="backfilling", end=end, seconds=seconds, points=points))
    found = thinned(stretches, most)
    assert len(found) == min(most, len(stretches))
    assert sum(s.points for s in found) == sum(s.points for s in stretches)
    assert sum(s.seconds for s in found) == pytest.approx(sum(s.seconds for s in stretches), abs=0.1)
    assert [s.end for s in found] == sorted(s.end for s in found)
    assert not stretches or found[-1].end == stretches[-1].end


def test_thinning_joins_the_shortest_and_no_two_stages() -> None:
    def stretch(stage: str, end: float, seconds: float) -> Stretch:
        return Stretch.model_validate({"stage": stage, "end": end, "seconds": seconds, "points": 1})

    long = [stretch("backfilling", 100, 100), stretch("backfilling", 101, 1), stretch("backfilling", 102, 1), stretch("filling", 103, 1)]
    assert [s.seconds for s in thinned(long, 3)] == [100, 2, 1]
    assert len(thinned([stretch("backfilling", 1, 1), stretch("filling", 2, 1)], 1)) == 2


def test_a_long_backfill_stays_bounded_and_evenly_told() -> None:
    meter, clock = metered()
    meter.begin("backfilling", 0)
    for second in range(1, 10 * MOST_STRETCHES):
        clock.now += 1.0
        meter.note(second * 20)
    meter.end()
    found = meter.record.stretches
    assert len(found) == MOST_STRETCHES
    assert {round(s.points_per_second) for s in found} == {20}
    assert max(s.seconds for s in found) <= 40
