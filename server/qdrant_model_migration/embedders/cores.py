"""How many texts may be embedded at once on this machine, and how much memory may that take?

One thread a call and as many calls as there are cores: on two cores a fifth more texts than one call on both (benchmarks/results/streams.md),
because nothing waits for the other half of a small matrix, and no core spins while a text is tokenized.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path

import anyio

from qdrant_model_migration.environment import embedding_threads

THREADS_A_CALL = 1
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Of version 2: microseconds of processor time, and the microseconds in which they may be used; or `max`."""


def calls_at_once() -> int:
    """As the settings say, else the cores that this process may use."""
    return embedding_threads() or usable_cores()


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that a container's limit and the scheduler leave to this process; onnxruntime would count those of the whole machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return max(1, min(cores, ceil(int(allowed) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        # No such file, another version, or no limit.
        return cores


class Room:
    """Bounds what calls at once take together; one that is larger than all of it goes alone.

    Args:
        most: In any unit; the calls state theirs in the same.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._freed = anyio.Event()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Wait until there is room."""
        while self._taken and self._taken + size > self._most:
            await self._freed.wait()
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size
            self._freed.set()
            self._freed = anyio.Event()
