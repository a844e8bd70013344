"""How does a call ask for work that may outlive it? It records an operation, sees to a driver, and waits a bounded time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

from qdrant_model_migration.errors import MigrationError, Refused
from qdrant_model_migration.operations.context import now

if TYPE_CHECKING:
    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.domain.records import Operation, OperationKind
    from qdrant_model_migration.operations.context import OperationContext

WAIT_S = 30.0
"""Every call answers within 40 s."""
ENSURE_EVERY_S = 3.0

Report = Callable[[float, float | None, str], Awaitable[None]]
"""Progress to the host: done, total, message."""


async def no_report(done: float, total: float | None, message: str) -> None:
    """For callers that show no progress."""


def operation_key(kind: str, arguments: dict[str, Any]) -> str:
    """The same for the same request, so that a repeated call attaches to it."""
    return f"{kind}-{hashlib.sha256(json.dumps(arguments, sort_keys=True, default=str).encode()).hexdigest()[:12]}"


async def carry_out(
    context: OperationContext,
    migration: Migration,
    kind: OperationKind,
    arguments: dict[str, Any],
    *,
    wait_s: float = WAIT_S,
    report: Report = no_report,
    key: str | None = None,
) -> Operation:
    """Have the driver carry out an operation; `state` tells whether it was finished in time.

    Raises:
        Refused, MigrationError: the operation failed, with its reason.
    """
    from qdrant_model_migration.domain.records import Operation

    ledger = await context.ledger(migration.target.connection)
    wanted = Operation(key=key or operation_key(kind, arguments), kind=kind, arguments=arguments, requested_at=now(ledger))
    operation = await ledger.request(migration.id, wanted)
    ensured_at: float | None = None
    with anyio.move_on_after(wait_s):
        while operation.state not in ("done", "failed"):
            if ensured_at is None or anyio.current_time() - ensured_at > ENSURE_EVERY_S:
                await context.ensure_driver(migration)
                ensured_at = anyio.current_time()
            progress = operation.progress
            if progress is not None:
                await report(progress.read, progress.total or None, progress.stage)
            await anyio.sleep(0.3)
            operation = await ledger.operation(migration.id, operation.key) or operation
    if operation.state in ("done", "failed"):
        await ledger.deliver(migration.id, operation.key)
    if operation.state == "failed":
        raise (Refused if operation.is_refusal else MigrationError)(operation.error or "The operation failed.")
    return operation


class LocalOperations:
    """Operations without a migration, or without the right to record one: carried out in this process, attached to by their key."""

    def __init__(self) -> None:
        self._running: dict[str, _Local] = {}

    async def carry_out(
        self,
        context: OperationContext,
        key: str,
        act: Callable[[Report], Awaitable[Any]],
        *,
        wait_s: float = WAIT_S,
        report: Report = no_report,
    ) -> Any | None:
        """The outcome, or None while it goes on.

        Raises:
            MigrationError: the operation failed.
        """
        local = self._running.get(key)
        if local is None:
            local = self._running[key] = _Local()
            context.background.start_soon(local.run, act)
        with anyio.move_on_after(wait_s):
            while not local.is_over.is_set():
                await report(*local.progress)
                with anyio.move_on_after(1.0):
                    await local.is_over.wait()
        if not local.is_over.is_set():
            return None
        # Another call that waited for the same may have taken it out already.
        self._running.pop(key, None)
        if local.error is not None:
            raise local.error
        return local.outcome


class _Local:
    def __init__(self) -> None:
        self.is_over = anyio.Event()
        self.progress: tuple[float, float | None, str] = (0.0, None, "starting")
        self.outcome: Any = None
        self.error: MigrationError | None = None

    async def run(self, act: Callable[[Report], Awaitable[Any]]) -> None:
        try:
            self.outcome = await act(self._note)
        except MigrationError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - anything else would end the server's task group; its kind is told, its text kept in
            self.error = MigrationError(f"The operation failed unexpectedly ({type(error).__name__}); nothing was changed.")
        finally:
            self.is_over.set()

    async def _note(self, done: float, total: float | None, message: str) -> None:
        self.progress = (done, total, message)
