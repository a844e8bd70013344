"""How does a driver come to life? As a process of its own that outlives the chat, or inside this one where a side is the embedded database."""

from __future__ import annotations

import logging
import subprocess
import time
from datetime import datetime
from typing import TYPE_CHECKING

from qdrant_model_migration.errors import LeaseLost, MigrationError, Refused

if TYPE_CHECKING:
    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.domain.records import Lease
    from qdrant_model_migration.operations.context import OperationContext

LOG = logging.getLogger(__name__)
RESPAWN_S = 15.0
"""A process that was just started needs a moment to take the lease."""


class Drivers:
    """Starts drivers for one process's calls."""

    def __init__(self, context: OperationContext) -> None:
        self._context = context
        self._children: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._former: list[subprocess.Popen[bytes]] = []
        """Replaced by another, but not seen to have ended yet."""
        self._inside: set[str] = set()

    async def ensure(self, migration: Migration) -> None:
        """See to a driver for the migration, unless one is at work.

        Raises:
            Refused: in read-only mode nothing is driven.
        """
        if self._context.settings.is_read_only:
            raise Refused("Nothing was changed: QDRANT_MIGRATION_READ_ONLY is set.")
        sides = (migration.source.connection, migration.target.connection)
        if any(self._context.settings.connection(name).is_embedded for name in sides):
            # An embedded database is locked by this process; another one could open neither side of it.
            if migration.id not in self._inside:
                self._inside.add(migration.id)
                self._context.background.start_soon(self._drive_inside, migration)
            return
        ledger = await self._context.ledger(migration.target.connection)
        _, lease = await ledger.lease(migration.id)
        if not needs_driver(lease, ledger.now()) or self._has_young_child(migration.id, lease):
            return
        self._spawn(migration)

    def _has_young_child(self, migration_id: str, lease: Lease) -> bool:
        """Whether a process of ours is about to take the lease; one that had it and gave it back is leaving."""
        found = self._children.get(migration_id)
        if found is None:
            return False
        child, started = found
        return child.poll() is None and lease.pid != child.pid and time.monotonic() - started < RESPAWN_S

    def _spawn(self, migration: Migration) -> None:
        from qdrant_model_migration.worker.spawn import spawn_worker

        child = spawn_worker(self._context.settings, migration)
        if migration.id in self._children:
            self._former.append(self._children[migration.id][0])
        self._former = [former for former in self._former if former.poll() is None]
        self._children[migration.id] = (child, time.monotonic())

    async def _drive_inside(self, migration: Migration) -> None:
        from qdrant_model_migration.worker.driver import Driver

        try:
            await Driver(self._context, migration.id, connection=migration.target.connection, idle_exit_s=2.0).run()
        except LeaseLost as error:
            LOG.info("%s", error)
        except MigrationError as error:
            LOG.error("The driver of %s ended: %s", migration.id, error)
        except Exception:
            # Anything that escapes would end the whole server with its task group.
            LOG.exception("The driver of %s failed", migration.id)
        finally:
            self._inside.discard(migration.id)


def needs_driver(lease: Lease, now: datetime) -> bool:
    """Whether nobody seems to drive: free, owner dead, or silent for a lease time. A wrong guess costs a process that ends at once.

    A heartbeat from the future tells that the clocks disagree, and nothing about the driver.
    """
    from qdrant_model_migration.worker.lease import is_certainly_dead

    if lease.owner is None or is_certainly_dead(lease):
        return True
    age_s = (now - datetime.fromisoformat(lease.at)).total_seconds() if lease.at else 0.0
    return not -lease.lease_s <= age_s <= lease.lease_s
