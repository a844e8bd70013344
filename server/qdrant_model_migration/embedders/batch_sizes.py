"""How many texts should one call of a local model take on this machine?

Measured on texts that have to be embedded anyway: in a window that is sorted by length, neighbours go in batches of each size in turn, there
and back, so that no size is given the shorter texts. What counts is the time a character takes next to the usual size of the same round,
in the middle of several rounds: another process that is busy for a moment decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
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

    def window(self, lengths: Sequence[int], most: int) -> Trial:
        """The batches of a window of texts of these lengths, of which one call takes at most `most` characters."""
        fitting = [size for size in SIZES if size * max(lengths, default=1) <= most]
        is_worth = self.chosen is None and USUAL in fitting and len(lengths) >= sum(fitting)
        return Trial(self, fitting if is_worth else [])

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
    """Of one window: `size` for each next batch, then `took` when it was embedded."""

    def __init__(self, sizes: BatchSizes, tried: Sequence[int]) -> None:
        self._sizes = sizes
        self._round = len(tried)
        self._turns: Iterator[int] = cycle([*tried, *reversed(tried)])
        self._planned: int | None = None
        self._seconds: dict[int, float] = {}

    @property
    def is_over(self) -> bool:
        return self._round == 0 or self._sizes.chosen is not None

    def size(self) -> int:
        """Texts of the next batch, at most."""
        self._planned = None if self.is_over else next(self._turns)
        return self._planned or self._sizes.best

    def took(self, texts: int, characters: int, seconds: float) -> None:
        """How long a batch took, waiting for others left out."""
        if self._planned is None:
            return
        if texts != self._planned:
            # The window's last one: what is missing of this round is not found any more.
            self._round = 0
            return
        self._seconds[texts] = max(seconds, 1e-9) / max(1, characters)
        if len(self._seconds) == self._round:
            self._sizes.add(self._seconds)
            self._seconds = {}
