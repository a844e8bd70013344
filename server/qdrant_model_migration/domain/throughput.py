"""How fast did a backfill go, and when? Points of each stretch of work; of too many, the shortest neighbours become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

Stage = Literal["backfilling", "filling"]

MOST_STRETCHES = 120
"""Kept of a migration, however long it takes: as many as a chart can show."""
LEAST_S = 1.0
"""Windows are over in bursts: a stretch holds several of them."""


class Stretch(BaseModel):
    """Points that were read, made and written in a stretch of work without a break."""

    model_config = ConfigDict(frozen=True)

    stage: Stage
    end: float
    """Seconds since the epoch, by the clock of the Qdrant that keeps the ledger."""
    seconds: float
    """Of work, by the driver's own clock. What passes while nobody works belongs to no stretch."""
    points: int

    @property
    def points_per_second(self) -> float:
        return self.points / self.seconds if self.seconds > 0 else 0.0


class ThroughputRecord(BaseModel):
    """What the ledger keeps of it, oldest first."""

    model_config = ConfigDict(frozen=True)

    stretches: tuple[Stretch, ...] = ()


class Throughput:
    """Takes the readings of one driver's counter, and goes on with what drivers before it recorded."""

    def __init__(self, record: ThroughputRecord, *, clock: Callable[[], float], epoch: Callable[[], float]) -> None:
        self._clock = clock
        self._epoch = epoch
        self._stage: Stage | None = None
        self._since = 0.0
        self._before = self._points = 0
        self._is_continued = False
        self.record = record
        self.is_changed = False

    def begin(self, stage: Stage, points: int) -> None:
        """Work begins at this state of the counter: what was done before it is no speed of this driver."""
        self._stage, self._since, self._is_continued = stage, self._clock(), False
        self._before = self._points = points

    def note(self, points: int) -> None:
        """Take a reading of the counter; nothing happens outside of `begin` and `end`."""
        self._points = points
        if self._stage is not None and self._clock() - self._since >= LEAST_S:
            self._add(self._stage)

    def end(self) -> None:
        """Work ends or is interrupted."""
        if self._stage is not None and self._points > self._before:
            self._add(self._stage)
        self._stage = None

    def _add(self, stage: Stage) -> None:
        now = self._clock()
        found = Stretch(
            stage=stage, end=round(self._epoch(), 3), seconds=round(max(now - self._since, 0.001), 3), points=self._points - self._before
        )
        kept = list(self.record.stretches)
        if self._is_continued and kept and found.seconds < LEAST_S:
            found = merged(kept.pop(), found)
        self.record = ThroughputRecord(stretches=tuple(thinned([*kept, found])))
        self._since, self._before, self._is_continued, self.is_changed = now, self._points, True, True


def merged(one: Stretch, other: Stretch) -> Stretch:
    """Two stretches that follow one another, as one."""
    return Stretch(stage=one.stage, end=other.end, seconds=round(one.seconds + other.seconds, 3), points=one.points + other.points)


def thinned(stretches: Sequence[Stretch], most: int = MOST_STRETCHES) -> list[Stretch]:
    """At most so many stretches: those two neighbours of a stage that span the least time become one, again and again."""
    kept = list(stretches)
    while len(kept) > most:
        pairs = [i for i in range(len(kept) - 1) if kept[i].stage == kept[i + 1].stage]
        if not pairs:
            return kept
        closest = min(pairs, key=lambda i: kept[i + 1].end - kept[i].end + kept[i].seconds)
        kept[closest : closest + 2] = [merged(kept[closest], kept[closest + 1])]
    return kept
