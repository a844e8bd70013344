"""May a helper on another machine write for a driver? As long as it sees that driver's lease being renewed, and not a second longer."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from qdrant_model_migration.errors import LeaseLost, MigrationError
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.worker.lease import awake_clock

LOOKS_A_LEASE = 8


class WatchedLease:
    """A lease that somebody else holds, seen from here. No clocks are compared.

    A renewal that was not there at one look and is at the next came after the first of them: whoever takes the lease over waits a lease time
    longer than that, and so may this one write.
    """

    def __init__(self, ledger: Ledger, migration_id: str, epoch: int, clock: Callable[[], float] = awake_clock) -> None:
        self._ledger = ledger
        self._migration_id = migration_id
        self._epoch = epoch
        self._clock = clock
        self._beat: int | None = None
        self._looked_at = 0.0
        self._deadline = 0.0
        self.lease_s = 0.0
        self.is_lost = False
        """Another driver has it, or it was given back."""

    def check(self) -> None:
        """Stop before a write that the lease no longer covers.

        Raises:
            LeaseLost: it is not the driver's any more, or was not seen renewed for a lease time.
        """
        if self.is_lost or self._clock() >= self._deadline:
            raise LeaseLost(f"The driver of migration {self._migration_id} was not heard of for too long; nothing more is written for it.")

    async def look(self) -> None:
        """Read the lease once.

        Raises:
            MigrationError: Qdrant does not answer.
        """
        began = self._clock()
        _, lease = await self._ledger.lease(self._migration_id)
        if lease.epoch != self._epoch or lease.owner is None:
            self.is_lost = True
            return
        self.lease_s = lease.lease_s
        if lease.beat != self._beat:
            if self._beat is not None:
                self._deadline = self._looked_at + lease.lease_s
            self._beat = lease.beat
        self._looked_at = began

    async def until_seen_renewed(self) -> None:
        """Look until the lease covers a write.

        Raises:
            LeaseLost: it is not the driver's any more.
            MigrationError: Qdrant does not answer.
        """
        while True:
            await self.look()
            if self.is_lost or self._clock() < self._deadline:
                return self.check()
            await anyio.sleep(0.2)

    async def watch(self) -> None:
        """Look again and again; until it is cancelled, or the lease is lost."""
        while not self.is_lost:
            await anyio.sleep(max(0.1, self.lease_s / LOOKS_A_LEASE))
            try:
                await self.look()
            except MigrationError:
                # An outage: the deadline stops the writes when it lasts.
                continue
