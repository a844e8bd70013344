"""How is the backfill split? Consecutive ranges of point ids, recorded as they are drawn and never drawn again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.points import PointId, order_key, untag


class Range(BaseModel):
    """Ids from `start` up to, but without, `end`. The first range is open below, the last above.

    Every point of the range before `cursor` that the source held when it was read is durable in the target or accounted for.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    start: str | None = None
    end: str | None = None
    cursor: str | None = None
    is_done: bool = False
    is_started: bool = False
    read: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    tokens: int = 0
    truncated: int = 0
    foreign: tuple[str, ...] = ()
    """Some of the points that the target held already when we came: perhaps written by somebody else. The verification looks at them first."""

    @property
    def position(self) -> PointId | None:
        """Where reading goes on; None is the beginning of the collection."""
        text = self.cursor or self.start
        return untag(text) if text else None

    def holds(self, point_id: PointId) -> bool:
        """Whether the id lies before the end of the range."""
        return self.end is None or order_key(point_id) < order_key(untag(self.end))


def range_size(points: int) -> int:
    """Points a range: enough ranges to share out and to resume cheaply, few enough to record."""
    return max(512, min(16_384, points // 64))


def next_to_draw(last: Range | None) -> tuple[int, PointId | None] | None:
    """Number and start of the range to draw after the last one, or of the first; None when the last one is open above."""
    if last is None:
        return (0, None)
    return None if last.end is None else (last.number + 1, untag(last.end))
