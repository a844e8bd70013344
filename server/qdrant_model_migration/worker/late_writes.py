"""What do writers that are still on the old server write after the swap? Carried over until the migration ends.

Beside the source a swap moves every writer that uses the alias, so that one sweep suffices. On another server it moves nobody: each writer
moves with a release of the app, and until then its writes reach the source.
"""

from __future__ import annotations

import logging
from typing import Literal

import anyio

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.errors import ConnectionFailed
from qdrant_model_migration.operations.sweep import carry_what_was_written, has_numbers
from qdrant_model_migration.operations.work import Work

Step = Literal["worked", "waiting", "idle"]

LOG = logging.getLogger(__name__)
PAUSE_S = 5.0
AWAY_PAUSE_S = 60.0
"""Between two looks at an old server that does not answer."""
GIVE_UP_S = 1800.0
"""After that it counts as switched off; finish_migration tries once more."""


class LateWrites:
    """One driver's looks at the source of a migration that was cut over to another server."""

    def __init__(self) -> None:
        self._looked_at: float | None = None
        self._pause_s = PAUSE_S
        self._away_since: float | None = None

    async def step(self, work: Work) -> Step:
        """Carry over what the source got since the last look; "idle" where nothing can come any more."""
        if not _may_come(work.migration) or work.source.connection.is_embedded:
            return "idle"
        began = anyio.current_time()
        if self._looked_at is not None and began - self._looked_at < self._pause_s:
            return "waiting"
        try:
            if work.is_source_away:
                await work.find_source()
            if not has_numbers(work.source_collection):
                return "idle"
            gap = await carry_what_was_written(work)
        except ConnectionFailed as error:
            # The old server may be switched off any time now. Whatever else is due on the new one goes on.
            LOG.warning("Nothing was carried over: %s", error)
            self._away_since = self._away_since or began
            self._looked_at, self._pause_s = anyio.current_time(), AWAY_PAUSE_S
            return "idle" if began - self._away_since > GIVE_UP_S else "waiting"
        self._away_since = None
        if gap is not None and (gap.carried_over or gap.superseded):
            counts = f"carried over {gap.carried_over}, superseded {gap.superseded}, unresolved {gap.unresolved}"
            await work.record("swept", counts)
        self._looked_at = anyio.current_time()
        # A sweep reads both collections: they are to be read at most a quarter of the time.
        self._pause_s = max(PAUSE_S, 3 * (self._looked_at - began))
        return "waiting" if gap is None else "worked"


def _may_come(migration: Migration) -> bool:
    is_between = migration.phase is Phase.CUT_OVER and migration.intent is None
    return is_between and migration.is_across_servers and migration.writes != "frozen"
