"""When has catching up converged, although production goes on writing?"""

from __future__ import annotations

SMALL_LAG = 100
"""Differences that a pass may always find while an app writes."""


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


def is_caught_up(found: list[int], total: int) -> bool:
    """Whether the readers may move: the last pass found nothing, or little after a pass before it. A lag that stopped shrinking is none."""
    if not found:
        return False
    return found[-1] == 0 or (len(found) >= 2 and found[-1] <= max(SMALL_LAG, total // 1000))
