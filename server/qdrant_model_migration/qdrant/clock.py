"""What time is it for everybody who works with one Qdrant? Its own, as its answers are dated: machines' clocks differ, by hours at times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from httpx import Request, Response

TOLERATED = timedelta(seconds=10)
"""Dates have whole seconds and answers take their time. A clock that is off by less is as good as right."""


class SharedClock:
    """This machine's clock, set by the server's where that shows another time."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._is_known = False
        """The server's clock against this machine's."""

    async def note(self, request: Request, send: Callable[[Request], Awaitable[Response]]) -> Response:
        """Middleware of the REST client: looks at the date of every answer. Without one, as by some proxies, this machine's clock counts."""
        answer = await send(request)
        with suppress(KeyError, TypeError, ValueError):
            self._ahead = parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)
            self._is_known = True
        return answer

    @property
    def ahead(self) -> timedelta | None:
        """The server's clock against this machine's, as the last answer showed it; None where no answer bore a date."""
        return self._ahead if self._is_known else None

    def now(self) -> datetime:
        here = datetime.now(UTC)
        return here if abs(self._ahead) < TOLERATED else here + self._ahead
