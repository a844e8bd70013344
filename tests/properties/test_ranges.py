"""Do the drawn ranges partition the ids, whatever is inserted and deleted between the draws?"""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections.abc import Iterator

import anyio
from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain.points import PointId, order_key, tag, untag
from qdrant_model_migration.domain.ranges import Range, next_to_draw, range_size
from qdrant_model_migration.worker.pipeline import draw_range

ids: st.SearchStrategy[PointId] = st.integers(0, 2**64 - 1) | st.integers(0, 40) | st.uuids().map(str)
changes = st.lists(st.tuples(st.sets(ids, max_size=4), st.sets(ids, max_size=4)), max_size=30)
"""What an app inserts and deletes between two reads."""


class Source:
    """A collection that an app changes before each read of a page of ids."""

    def __init__(self, held: set[PointId], edits: list[tuple[set[PointId], set[PointId]]]) -> None:
        self.held = set(held)
        self.ever_deleted: set[PointId] = set()
        self._edits: Iterator[tuple[set[PointId], set[PointId]]] = iter(edits)

    async def read(self, offset: PointId | None, limit: int) -> tuple[list[PointId], PointId | None]:
        inserted, deleted = next(self._edits, (set(), set()))
        self.held = (self.held | inserted) - deleted
        self.ever_deleted |= deleted
        ordered = sorted(self.held, key=order_key)
        start = 0 if offset is None else bisect_left(ordered, order_key(offset), key=order_key)
        rest = ordered[start:]
        return rest[:limit], rest[limit] if len(rest) > limit else None


def draw(source: Source, recorded: list[Range], *, size: int, page: int | None, most: int) -> list[Range]:
    """Up to `most` further ranges, as a driver draws them."""

    async def go() -> list[Range]:
        ranges = list(recorded)
        while len(ranges) < len(recorded) + most and (following := next_to_draw(ranges[-1] if ranges else None)) is not None:
            ranges.append(await draw_range(source.read, *following, size=size, page=page))
        return ranges

    return anyio.run(go)


def members(ranges: list[Range], point_id: PointId) -> list[int]:
    """Numbers of the ranges between whose bounds the id lies."""
    return [r.number for r in ranges if r.holds(point_id) and (r.start is None or order_key(untag(r.start)) <= order_key(point_id))]


@given(
    held=st.sets(ids, max_size=40),
    probes=st.sets(ids, max_size=20),
    edits=changes,
    size=st.integers(1, 12),
    page=st.none() | st.integers(1, 5),
)
def test_every_id_lies_in_exactly_one_range(
    held: set[PointId], probes: set[PointId], edits: list[tuple[set[PointId], set[PointId]]], size: int, page: int | None
) -> None:
    """Those that stayed, those that came and went, and those that never were."""
    source = Source(held, edits)
    ranges = draw(source, [], size=size, page=page, most=10_000)
    assert [r.number for r in ranges] == list(range(len(ranges)))
    assert (ranges[0].start, ranges[-1].end) == (None, None)
    assert [r.end for r in ranges[:-1]] == [r.start for r in ranges[1:]]
    for point_id in held | source.held | source.ever_deleted | probes:
        assert len(members(ranges, point_id)) == 1


@given(
    held=st.sets(ids, min_size=1, max_size=40),
    edits=changes,
    size=st.integers(1, 8),
    page=st.none() | st.integers(1, 5),
    stops=st.lists(st.integers(1, 3), max_size=20),
)
def test_a_resumed_driver_draws_on_and_never_again(
    held: set[PointId], edits: list[tuple[set[PointId], set[PointId]]], size: int, page: int | None, stops: list[int]
) -> None:
    source = Source(held, edits)
    recorded: list[Range] = []
    for most in [*stops, 10_000]:
        before = list(recorded)
        recorded = draw(source, recorded, size=size, page=page, most=most)
        assert recorded[: len(before)] == before
    assert next_to_draw(recorded[-1]) is None
    for point_id in held | source.held:
        assert len(members(recorded, point_id)) == 1


@given(held=st.sets(ids, min_size=1, max_size=60), size=st.integers(1, 12), page=st.none() | st.integers(1, 5))
def test_a_quiet_collection_is_split_evenly(held: set[PointId], size: int, page: int | None) -> None:
    """All ranges but the last hold just as many points as asked for."""
    source = Source(held, [])
    ranges = draw(source, [], size=size, page=page, most=10_000)
    counts = [sum(members([r], i) != [] for i in held) for r in ranges]
    assert counts[:-1] == [size] * (len(ranges) - 1)
    assert 1 <= counts[-1] <= size


@given(points=st.integers(0, 10**10))
def test_ranges_are_many_enough_to_share_and_few_enough_to_record(points: int) -> None:
    assert 512 <= range_size(points) <= 16_384
    assert range_size(points) <= range_size(points + 1)


@given(point_id=ids)
def test_a_tagged_id_is_read_back(point_id: PointId) -> None:
    assert untag(tag(point_id)) == point_id


@given(ids=st.lists(ids))
def test_integers_come_before_uuids_and_each_in_its_own_order(ids: list[PointId]) -> None:
    ordered = sorted(ids, key=order_key)
    numbers = [i for i in ordered if isinstance(i, int)]
    texts = [i for i in ordered if isinstance(i, str)]
    assert ordered == [*numbers, *texts]
    assert numbers == sorted(numbers)
    assert [uuid.UUID(t).bytes for t in texts] == sorted(uuid.UUID(t).bytes for t in texts)
