"""When has catching up converged, although production goes on writing?"""

from __future__ import annotations

import math

SMALL_LAG = 100
"""Differences that a pass may always find while an app writes."""
SHORT_PASS_S = 15.0
"""A target that is behind its source by this much is as good as caught up."""


def has_converged(found: list[int], total: int, *, is_frozen: bool) -> bool:
    """Judge by the differences that each pass found, oldest first.

    With writes frozen only a pass that finds nothing converges. While an app writes, every pass finds what was written during the
    pass before: it has converged when that is small, or when it stopped shrinking, which is the writers' own rate.
    """
    if not found:
        return False
    if found[-1] == 0:
        return True
    if is_frozen:
        return False
    if len(found) >= 2 and found[-1] <= max(SMALL_LAG, total // 1000):
        return True
    return len(found) >= 4 and found[-1] >= found[-2] * 0.7


def is_caught_up(found: list[int], total: int, took_s: float = math.inf, *, most_s: float = SHORT_PASS_S) -> bool:
    """Whether the readers may move: the last pass found nothing, or, after a pass before it, little or what an app writes in seconds.

    `took_s` is how long the last pass took: the target is behind by no more than that, however much is written in it, and the sweep after
    the swap carries that over. `most_s` is how far behind it may be. A lag that stopped shrinking is none where passes take long: then the writers outrun them.
    """
    if not found:
        return False
    is_behind_by_seconds = took_s <= most_s
    return found[-1] == 0 or (len(found) >= 2 and (found[-1] <= max(SMALL_LAG, total // 1000) or is_behind_by_seconds))
