"""Which operations on the target were this tool's own? Their numbers, as spans; every other one was somebody else's.

On a collection of one shard each point tells the number of the last operation on it. Where that is one of ours, nobody wrote the point since
we made its vector of the text it has; every other point is one to be looked at. A number that was lost (a driver that died) makes a point
of ours look like another's: it is embedded once more, and nothing wrong is believed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

MOST_SPANS = 50_000
"""The oldest are forgotten beyond that: a few hundred kilobytes in the ledger."""


def _is_within(spans: Sequence[Sequence[int]], number: int) -> bool:
    at = bisect_right(spans, number, key=lambda span: span[0]) - 1
    return at >= 0 and spans[at][1] >= number


class OwnRecord(BaseModel):
    """As the ledger keeps it."""

    model_config = ConfigDict(frozen=True)

    spans: tuple[tuple[int, int], ...] = ()
    looked_at: int = 0
    """Every point whose last operation is not above this one was embedded again and found right, or is ours."""

    def __contains__(self, number: int) -> bool:
        return _is_within(self.spans, number)


class OwnOperations:
    """The numbers of one driver's hold on a migration."""

    def __init__(self, record: OwnRecord | None = None) -> None:
        found = record or OwnRecord()
        self._spans = [list(span) for span in found.spans]
        self.looked_at = found.looked_at
        self.is_changed = False

    def __contains__(self, number: int) -> bool:
        return _is_within(self._spans, number)

    def add(self, number: int) -> None:
        if number in self:
            return
        at = bisect_right(self._spans, number, key=lambda span: span[0])
        self._spans.insert(at, [number, number])
        for left in (at, at - 1):
            if 0 <= left < len(self._spans) - 1 and self._spans[left][1] + 1 == self._spans[left + 1][0]:
                self._spans[left : left + 2] = [[self._spans[left][0], self._spans[left + 1][1]]]
        self.is_changed = True

    def vouches_for(self, version: int) -> bool:
        """Whether a point whose last operation has this number holds what we made of its text."""
        return version <= self.looked_at or version in self

    def looked(self, up_to: int) -> None:
        """Every point was looked at, after the operation of that number: what is not above it need not be remembered."""
        self.looked_at = up_to
        self._spans = [[max(first, up_to + 1), last] for first, last in self._spans if last > up_to]
        self.is_changed = True

    @property
    def last(self) -> int:
        """The highest number that is known of."""
        return max(self.looked_at, self._spans[-1][1] if self._spans else 0)

    def distrust(self) -> None:
        """The numbers began anew: the collection is not the one that they were given by."""
        self._spans, self.looked_at, self.is_changed = [], 0, True

    @property
    def record(self) -> OwnRecord:
        return OwnRecord(spans=tuple((first, last) for first, last in self._spans[-MOST_SPANS:]), looked_at=self.looked_at)
