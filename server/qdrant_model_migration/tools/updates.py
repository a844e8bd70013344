"""Who wants to hear that a migration went on? Clients subscribe to `migration://{id}`; the ledger is looked at only while somebody does.

Both eras of the protocol: `resources/subscribe`, with a message to that connection, and `subscriptions/listen`, whose streams the SDK serves from
the bus. A message says that the resource changed, never what it holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.connection import Connection
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.tools.support import connection_of

if TYPE_CHECKING:
    from qdrant_model_migration.results import StatusResult

LOG = logging.getLogger(__name__)
SCHEME = "migration://"
LOOK_S = 2.0
"""Between two looks at the ledger, while somebody listens."""
MOST_SUBSCRIBED = 1000
"""Resources of all connections; more are refused silently, as one that never changes."""


class Updates(InMemorySubscriptionBus):
    """The bus of one server process, and what connections of the older protocol subscribed to."""

    def __init__(self) -> None:
        super().__init__()
        self._listening = 0
        self._subscribed: dict[str, list[Connection]] = {}
        self._seen: dict[str, object] = {}

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        end = super().subscribe(listener)
        self._listening += 1
        is_open = True

        def unsubscribe() -> None:
            nonlocal is_open
            end()
            self._listening -= is_open
            is_open = False

        return unsubscribe

    async def on_subscribe(self, ctx: Any, params: SubscribeRequestParams) -> EmptyResult:
        """`resources/subscribe` of the 2025-11-25 protocol."""
        connection, uri = connection_of(ctx), str(params.uri)
        if connection not in self._subscribed.get(uri, []) and sum(map(len, self._subscribed.values())) < MOST_SUBSCRIBED:
            self._subscribed.setdefault(uri, []).append(connection)
            connection.exit_stack.callback(self._forget, uri, connection)
        return EmptyResult()

    async def on_unsubscribe(self, ctx: Any, params: UnsubscribeRequestParams) -> EmptyResult:
        """`resources/unsubscribe` of the 2025-11-25 protocol."""
        self._forget(str(params.uri), connection_of(ctx))
        return EmptyResult()

    def _forget(self, uri: str, connection: Connection) -> None:
        connected = [kept for kept in self._subscribed.get(uri, []) if kept is not connection]
        if connected:
            self._subscribed[uri] = connected
        else:
            self._subscribed.pop(uri, None)

    @property
    def is_wanted(self) -> bool:
        return bool(self._listening or self._subscribed)

    async def watch(self, context: OperationContext) -> None:
        """Look and tell until cancelled. A Qdrant that is away, or a fault of a look, ends nothing."""
        while True:
            await anyio.sleep(LOOK_S)
            if not self.is_wanted:
                # What changes while nobody listens is told to nobody, also later.
                self._seen.clear()
                continue
            try:
                await self._look(context)
            except MigrationError as error:
                LOG.info("Nothing is told of running migrations: %s", error)
            except Exception:
                # An error in a background task would end the whole server.
                LOG.exception("Nothing is told of running migrations.")

    async def _look(self, context: OperationContext) -> None:
        from qdrant_model_migration.operations.finding import migrations_everywhere
        from qdrant_model_migration.operations.status import read_status

        for ledger, migration in await migrations_everywhere(context):
            uri = f"{SCHEME}{migration.id}"
            if not migration.is_open and self._seen.get(uri) is None:
                continue
            now = _standing(await read_status(context, ledger, migration)) if migration.is_open else migration.phase.value
            before = self._seen.get(uri)
            self._seen[uri] = now
            if before is not None and before != now:
                await self._tell(uri)

    async def _tell(self, uri: str) -> None:
        for told in (uri, f"{uri}/report", f"{uri}/report.html"):
            await self.publish(ResourceUpdated(uri=told))
            for connection in list(self._subscribed.get(told, [])):
                try:
                    await connection.send_resource_updated(told)
                except Exception:
                    # It is gone; how that shows depends on the transport.
                    LOG.debug("One that had subscribed to %s is gone.", told, exc_info=True)
                    self._forget(told, connection)


def _standing(found: StatusResult) -> object:
    """What has to change before it is worth a message; a heartbeat, or the time that is left, is not."""
    progress, last = found.progress, found.events[-1:]
    return found.phase, found.error, found.is_paused, progress.stage, progress.read, progress.written, [(e.at, e.event) for e in last]
