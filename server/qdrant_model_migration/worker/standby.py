"""Who lets the writers in again when the driver dies while they wait? A second one, which stands by for those seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio

from qdrant_model_migration.errors import ConnectionFailed, LeaseLost
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.worker.driver import Driver

LOG = logging.getLogger(__name__)
POLL_S = 0.5
GIVE_UP_S = 24 * 3600.0
"""A Qdrant that is away for longer does not come back with this fence."""


async def drive_when_needed(
    context: OperationContext, driver: Driver, migration_id: str, connection: str | None, *, is_stopping: Callable[[], bool]
) -> None:
    """Take the migration over as soon as its driver is dead, or silent for a lease time, and writers wait; return when they no longer do.

    Raises:
        ConnectionFailed: Qdrant was away for a day.
        MigrationError: as `Driver.run`.
    """
    ledger = await context.ledger(connection)
    away_since: float | None = None
    while not is_stopping():
        try:
            if (await ledger.migration(migration_id)).fence is None:
                return
            away_since = None
            await driver.run()
        except LeaseLost as error:
            # It lives, and lifts the fence itself.
            LOG.debug("%s", error)
        except ConnectionFailed as error:
            # Who stands by must not leave because of an outage.
            away_since = away_since or anyio.current_time()
            if anyio.current_time() - away_since > GIVE_UP_S:
                raise
            LOG.warning("%s", error)
        await anyio.sleep(POLL_S)
