"""How many texts should one call of a local model take on this machine?

Measured on texts that have to be embedded anyway: in a window that is sorted by length, neighbours go in batches of each size in turn, there
and back, so that no size is given the shorter texts. What counts is the time a character takes next to the usual size of the same round,
in the middle of several rounds: another process that is busy for a moment decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from math import ceil
from statistics import median

USUAL = 8
"""Best or close to it for every model measured (facts, "Speed"); 256, FastEmbed's default, costs half the speed and 3 GB."""

SIZES = (1, 4, 8, 16, 32)
"""Tried. More than 32 was never faster."""

ROUNDS = 8
"""That are compared; the one before them only warms up."""

WORTH = 0.97
"""Of the usual size's time: a smaller gain is noise, and vectors of dynamically quantized models depend on their batch-mates."""


class BatchSizes:
    """The size for one model in one process. `chosen` is None until it was measured.

    Args:
        stated: Texts a call by the person's settings; nothing is tried then.
    """

    def __init__(self, stated: int | None = None) -> None:
        self.chosen = stated
        self._relative: dict[int, list[float]] = {size: [] for size in SIZES}
        self._is_warm = False

    @property
    def best(self) -> int:
        return self.chosen or USUAL

    def window(self, lengths: Sequence[int], most: int, calls: int = 1) -> Trial:
        """The batches of a window of texts of these lengths, shared among so many calls, of which each takes at most `most` characters."""
        share = max(1, ceil(len(lengths) / calls))
        fitting = [size for size in SIZES if size * max(lengths, default=1) <= most and size <= share]
        is_worth = self.chosen is None and USUAL in fitting and len(lengths) >= sum(fitting)
        return Trial(self, fitting if is_worth else [], share)

    def add(self, seconds_a_character: dict[int, float]) -> None:
        """One whole round."""
        if not self._is_warm:
            self._is_warm = True
            return
        for size, seconds in seconds_a_character.items():
            self._relative[size].append(seconds / seconds_a_character[USUAL])
        if self.chosen is None and len(self._relative[USUAL]) >= ROUNDS:
            # A size that only short texts allow was tried less often.
            tried = {size: median(ratios) for size, ratios in self._relative.items() if len(ratios) >= ROUNDS // 2}
            fastest = min(tried, key=lambda size: tried[size])
            self.chosen = fastest if tried[fastest] < WORTH else USUAL


class Trial:
    """Of one window: `size` for each next batch, whose `turn` is told again to `took` when it was embedded; several may be under way."""

    def __init__(self, sizes: BatchSizes, tried: Sequence[int], most: int) -> None:
        self._sizes = sizes
        self._most = most
        self._tried = tried
        self._order = cycle([*tried, *reversed(tried)])
        self._seconds: dict[int, dict[int, float]] = {}
        self.turn = -1

    def size(self) -> int:
        """Texts of the next batch, at most."""
        self.turn += 1
        return next(self._order) if self._tried and self._sizes.chosen is None else min(self._sizes.best, self._most)

    def took(self, turn: int, texts: int, characters: int, seconds: float) -> None:
        """How long the batch of a turn took, waiting for others left out."""
        if not self._tried or self._sizes.chosen is not None:
            return
        number, place = divmod(turn, len(self._tried))
        if texts != (self._tried[place] if number % 2 == 0 else self._tried[-1 - place]):
            # The window's last one: this round stays incomplete.
            return
        found = self._seconds.setdefault(number, {})
        found[texts] = max(seconds, 1e-9) / max(1, characters)
        if len(found) == len(self._tried):
            self._sizes.add(found)
