"""Who may write for a migration? The holder of its lease, taken by compare-and-set and judged by each side's own clock.

No wall clocks are compared: an observer takes a lease over when it saw `beat` unchanged for a whole lease time on its own clock;
the holder stops writing when its own clock says that it has not renewed for that long. The clock goes on while a machine sleeps
where the system has such a clock.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import anyio

from qdrant_model_migration.domain.records import Lease
from qdrant_model_migration.errors import LeaseLost
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import Progress


def awake_clock() -> float:
    """Seconds that also pass while the machine sleeps, where the system tells (Linux, macOS); else the monotonic clock."""
    if sys.platform == "darwin":
        # Not time.monotonic(), which stands still while a Mac sleeps.
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(boottime) if boottime is not None else time.monotonic()


def process_identity(pid: int) -> str | None:
    """What makes a process unique: boot, pid namespace, pid and start time. None where the system does not tell, or it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return f"{boot} {namespace} {pid} {start}"


def is_certainly_dead(lease: Lease) -> bool:
    """Whether the owner ran in this boot and pid namespace and is gone."""
    mine = process_identity(os.getpid())
    if not (lease.identity and lease.pid and mine) or lease.identity.split()[:2] != mine.split()[:2]:
        return False
    found = process_identity(lease.pid)
    if found is None:
        # Another user's process does not tell; it is alive as long as its number is.
        return not _exists(lease.pid)
    return found != lease.identity or _is_zombie(lease.pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


ATTEMPTS = 5
"""Tries to renew or to give back a lease whose record holds a renewal of our own that was not answered."""


class HeldLease:
    """A lease this process holds. `check` before every write; `renew` every third of its time."""

    def __init__(self, ledger: Ledger, migration_id: str, lease: Lease, revision: int, taken_at: float, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._migration_id = migration_id
        self._clock = clock
        self._revision = revision
        self._turn = anyio.Lock()
        self.lease = lease
        self.deadline = taken_at + lease.lease_s
        self.was_taken_over = False
        """The lease belonged to somebody who did not release it: old requests may still be on their way."""

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    def check(self) -> None:
        """Stop before a write that the lease no longer covers.

        Raises:
            LeaseLost: not renewed for a lease time.
        """
        if self._clock() >= self.deadline:
            raise LeaseLost(
                f"The lease of migration {self._migration_id} ran out on this machine (it was busy or asleep); nothing is written until it is renewed."
            )

    async def renew(self, progress: Progress | None = None) -> None:
        """Extend the lease; also one that ran out but that nobody took.

        Raises:
            LeaseLost: another driver holds it.
        """
        async with self._turn:
            began = self._clock()
            for _ in range(ATTEMPTS):
                renewed = self.lease.model_copy(
                    update={"beat": self.lease.beat + 1, "at": now(self._ledger), "progress": progress or self.lease.progress}
                )
                if await self._ledger.set_lease(self._migration_id, self._revision, renewed):
                    self._revision += 1
                    self.lease = renewed
                    self.deadline = began + renewed.lease_s
                    return
                revision, found = await self._ledger.lease(self._migration_id)
                if found.owner != self.lease.owner:
                    raise LeaseLost(
                        f"Migration {self._migration_id} is now driven by {found.host} (process {found.pid}); this driver stops."
                    )
                # Ours: an earlier renewal whose answer was lost was stored all the same.
                self._revision, self.lease = revision, found
            raise LeaseLost(f"The lease of migration {self._migration_id} could not be renewed: its record changes all the time.")

    async def release(self, progress: Progress | None = None) -> None:
        """Give the lease back, so that nobody has to wait for it to run out; nothing happens when somebody else has it."""
        async with self._turn:
            for _ in range(ATTEMPTS):
                freed = self.lease.model_copy(
                    update={
                        "owner": None,
                        "beat": self.lease.beat + 1,
                        "at": now(self._ledger),
                        "progress": progress or self.lease.progress,
                    }
                )
                if await self._ledger.set_lease(self._migration_id, self._revision, freed):
                    return
                revision, found = await self._ledger.lease(self._migration_id)
                if found.owner != self.lease.owner:
                    return
                # A renewal that was cut off by the end of the work was stored all the same.
                self._revision, self.lease = revision, found


async def take_lease(
    ledger: Ledger,
    migration_id: str,
    *,
    lease_s: float,
    log: str | None = None,
    wait: bool = True,
    clock: Callable[[], float] = awake_clock,
) -> HeldLease:
    """Take a free lease, or one whose owner is dead or silent for a lease time.

    Raises:
        LeaseLost: somebody else holds it (`wait` false), or was first.
    """
    seen: tuple[int, str | None] | None = None
    seen_at = clock()
    while True:
        revision, lease = await ledger.lease(migration_id)
        current = (lease.beat, lease.owner)
        if current != seen:
            if seen is not None and lease.owner is not None:
                raise LeaseLost(f"Migration {migration_id} is driven by {lease.host} (process {lease.pid}).")
            seen, seen_at = current, clock()
        is_silent = clock() - seen_at >= lease.lease_s
        if lease.owner is None or is_silent or is_certainly_dead(lease):
            began = clock()
            mine = Lease(
                owner=uuid.uuid4().hex,
                epoch=lease.epoch + 1,
                beat=lease.beat + 1,
                lease_s=lease_s,
                host=socket.gethostname(),
                pid=os.getpid(),
                identity=process_identity(os.getpid()),
                log=log,
                at=now(ledger),
                progress=lease.progress,
            )
            if not await ledger.set_lease(migration_id, revision, mine):
                raise LeaseLost(f"Migration {migration_id} is driven by another process, which took it at the same moment.")
            held = HeldLease(ledger, migration_id, mine, revision + 1, began, clock)
            held.was_taken_over = lease.owner is not None
            return held
        if not wait:
            raise LeaseLost(f"Migration {migration_id} is driven by {lease.host} (process {lease.pid}).")
        await anyio.sleep(min(1.0, lease_s / 10))
