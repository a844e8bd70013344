"""What belongs to a range, and where is reading taken up again? The partition itself is tests/properties' question."""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.ranges import Range, next_to_draw, range_size

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"


@pytest.mark.parametrize(
    ("end", "inside", "outside"),
    [
        ("i:10", [0, 9], [10, 2**64 - 1, UUID]),
        (f"u:{UUID}", [0, 2**64 - 1, "00000000-0000-0000-0000-000000000000"], [UUID, "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
        (None, [0, 2**64 - 1, "ffffffff-ffff-ffff-ffff-ffffffffffff"], []),
    ],
)
def test_a_range_ends_before_its_end(end: str | None, inside: list[PointId], outside: list[PointId]) -> None:
    found = Range(number=0, end=end)
    assert all(found.holds(i) for i in inside)
    assert not any(found.holds(i) for i in outside)


def test_reading_goes_on_at_the_cursor() -> None:
    assert Range(number=0).position is None
    assert Range(number=1, start="i:5").position == 5
    assert Range(number=1, start="i:5", cursor=f"u:{UUID}").position == UUID


def test_the_next_range_begins_where_the_last_ends() -> None:
    assert next_to_draw(None) == (0, None)
    assert next_to_draw(Range(number=1, start="i:5", end="i:9")) == (2, 9)
    assert next_to_draw(Range(number=1, start="i:5")) is None


@pytest.mark.parametrize(("points", "size"), [(0, 512), (10_000, 512), (64_000, 1000), (100_000_000, 16_384)])
def test_range_size(points: int, size: int) -> None:
    assert range_size(points) == size
