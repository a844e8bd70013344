"""How long must a backfill wait to keep to a rate? A budget that is spent in windows and refilled by the clock."""

from __future__ import annotations

from collections.abc import Callable


class Budget:
    """Points spent against points allowed. The rate may change at any time; what was saved up is at most one second's worth."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._debt = 0.0
        self._at: float | None = None

    def spend(self, points: int) -> None:
        """Record points just written."""
        if self._at is None:
            self._at = self._clock()
        self._debt += points

    def wait_s(self, points_per_second: float | None) -> float:
        """Seconds until the debt is paid at this rate; 0 without a rate."""
        now = self._clock()
        elapsed, self._at = now - (self._at if self._at is not None else now), now
        if points_per_second is None:
            self._debt = 0.0
            return 0.0
        self._debt = max(self._debt - elapsed * points_per_second, -points_per_second)
        return max(0.0, self._debt / points_per_second)


class Ceiling:
    """Which rate keeps the searches of a server under a latency? Begun slowly, raised while they are, cut as soon as one is not."""

    def __init__(self) -> None:
        self.points_per_second: float = FIRST_RATE
        """What is allowed now."""
        self._good = 0

    def note(self, latency_ms: float, ceiling_ms: float) -> None:
        """Take the latency of one search; infinite where it failed."""
        if latency_ms > ceiling_ms:
            self.points_per_second = max(LEAST_RATE, self.points_per_second * CUT)
            self._good = 0
        elif latency_ms <= ROOM * ceiling_ms:
            self._good += 1
            if self._good >= LOOKS_BEFORE_RAISE:
                self.points_per_second = min(MOST_RATE, self.points_per_second * RAISE)
                self._good = 0


FIRST_RATE, LEAST_RATE, MOST_RATE = 100.0, 1.0, 1e6
"""Points a second."""
CUT, RAISE = 0.5, 1.25
ROOM = 0.8
"""Share of the ceiling below which there is room for more."""
LOOKS_BEFORE_RAISE = 4


LEAST_WINDOW = 128
"""Points. Sorting the texts by length gains nothing more beyond that (measured with FastEmbed)."""
MOST_WINDOW = 1024
QUICK_S, SLOW_S = 0.5, 4.0


class WindowSize:
    """How many points are made and written between two checkpoints: more where that takes no time, so that checkpoints cost nothing either.

    What a driver that dies has to make again is a few seconds' work at most. With a pace, windows stay small, so that it is kept evenly.
    """

    def __init__(self) -> None:
        self.points = LEAST_WINDOW

    def note(self, points: int, seconds: float, *, is_paced: bool) -> None:
        """Take what a window of so many points took."""
        if is_paced:
            self.points = LEAST_WINDOW
        elif seconds > SLOW_S:
            self.points = max(LEAST_WINDOW, self.points // 2)
        elif seconds < QUICK_S and points >= self.points:
            self.points = min(MOST_WINDOW, self.points * 2)


def eta_seconds(total: int, done: int, points_per_second: float | None) -> int | None:
    """Seconds until `total` is reached at the rate seen."""
    if not points_per_second or points_per_second <= 0:
        return None
    return int(max(0, total - done) / points_per_second)


class Rate:
    """Points a second over the last half minute."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def forget(self) -> None:
        """Begin anew, as after a pause."""
        self._seen.clear()

    def note(self, at: float, points: int) -> float | None:
        """Take a reading of the clock and the counter; the rate, once there is a second between readings."""
        self._seen = [(t, n) for t, n in self._seen if at - t <= 30.0] + [(at, points)]
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return round((after - before) / (last - first), 1) if last - first >= 1.0 else None
