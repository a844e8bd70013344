"""How many points are there where strict mode forbids exact counts? Their ids are read, in pages as large as the server allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.errors import RequestRejected

PAGE = 100

Read = Callable[[PointId | None, int], Awaitable[tuple[Sequence[object], PointId | None]]]
"""(where to begin, most of them) -> a page, and where the next begins."""


async def count_by_reading(read: Read) -> int:
    """The number of what `read` gives, page by page; a page that is refused is halved.

    Raises:
        RequestRejected: not even one may be read at a time.
    """
    total, size = 0, PAGE
    offset: PointId | None = None
    while True:
        try:
            page, after = await read(offset, size)
        except RequestRejected:
            if size == 1:
                raise
            size //= 2
            continue
        total += len(page)
        if after is None:
            return total
        offset = after
