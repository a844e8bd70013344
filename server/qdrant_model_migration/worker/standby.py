"""Who lets the writers in again when the driver dies while they wait? A second one, which stands by for those seconds."""

from __future__ import annotations

import logging

import anyio

from qdrant_model_migration.errors import ConnectionFailed, LeaseLost
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.worker.driver import Driver

LOG = logging.getLogger(__name__)
POLL_S = 0.5


async def drive_when_needed(context: OperationContext, driver: Driver, migration_id: str, connection: str | None) -> None:
    """Take the migration over as soon as its driver is dead, or silent for a lease time, and writers wait; return when they no longer do.

    Raises:
        MigrationError: as `Driver.run`.
    """
    ledger = await context.ledger(connection)
    while True:
        try:
            if (await ledger.migration(migration_id)).fence is None:
                return
            await driver.run()
        except LeaseLost as error:
            # It lives, and lifts the fence itself.
            LOG.debug("%s", error)
        except ConnectionFailed as error:
            # Who stands by must not leave because of an outage.
            LOG.warning("%s", error)
        await anyio.sleep(POLL_S)
