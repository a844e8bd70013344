"""Where does the demonstration run, and how is all that it made there removed again?

Without QDRANT_URL: an embedded database in a temporary folder, never the person's. With it: collections whose names share a prefix.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import MigrationError, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.settings import Connection, Settings
from qdrant_model_migration.worker.lease import is_certainly_dead

WORKER_ENDS_S = 15.0
MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes a folder of its own there
LEAST_FREE_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A Qdrant and the names that the demonstration uses there."""

    settings: Settings
    folder: Path
    """Temporary: the worker's logs, and the embedded database."""
    prefix: str | None
    """Begins the name of everything that is made on a server; None when embedded."""

    @property
    def is_embedded(self) -> bool:
        return self.prefix is None

    @property
    def alias(self) -> str:
        return f"{self.prefix or ''}docs"

    @property
    def source(self) -> str:
        return f"{self.prefix or ''}docs_v1"


@contextmanager
def prepared_place(*, keep: bool) -> Iterator[Place]:
    """The place for one run; its folder is deleted afterwards unless it is kept.

    Raises:
        SettingsError: the environment is malformed.
        Refused: it allows no collections to be made.
    """
    configured = read_settings()
    folder = Path(tempfile.mkdtemp(prefix="qdrant-model-migration-demo-", dir=None if keep else _fast_folder()))
    try:
        if configured.connection(None).is_embedded:
            connection = Connection(name="default", path=folder / "qdrant")
            yield Place(settings=Settings(connections={"default": connection}, log_directory=folder / "logs"), folder=folder, prefix=None)
        else:
            prefix = f"demo_{secrets.token_hex(4)}_"
            # The detached worker is a process of its own: it learns the ledger's name as every worker does, from its environment.
            with _variables({"QDRANT_MIGRATION_LEDGER": f"{prefix}ledger", "QDRANT_MIGRATION_LOG_DIRECTORY": str(folder / "logs")}):
                place = Place(settings=read_settings(), folder=folder, prefix=prefix)
                if place.settings.is_read_only:
                    raise Refused("Nothing was done: the demonstration creates collections, and QDRANT_MIGRATION_READ_ONLY is set.")
                place.settings.check_collection_allowed(place.source)
                yield place
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _fast_folder() -> str | None:
    """Memory, where there is room: the embedded database commits every point by itself, which takes a slow disk longer than all the rest."""
    try:
        has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > LEAST_FREE_BYTES
    except OSError:
        return None
    return MEMORY if has_room else None


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


async def remove_from_server(place: Place) -> list[str]:
    """End the worker, then delete the aliases and collections that bear the prefix; their names.

    Raises:
        MigrationError: something is left, or may be; how it is named.
    """
    try:
        return await _remove(place)
    except MigrationError as error:
        raise MigrationError(
            f"What the demonstration made could not be removed: {error} Delete by hand what begins with '{place.prefix}'."
        ) from None


async def _remove(place: Place) -> list[str]:
    assert place.prefix is not None
    async with OperationContext(place.settings) as context:
        gateway, ledger = await context.gateway(), await context.ledger()
        for migration in await ledger.migrations():
            await _end_worker(ledger, migration.id)
        removed = []
        for alias in sorted(await gateway.aliases()):
            if alias.startswith(place.prefix):
                await gateway.delete_alias(alias)
                removed.append(alias)
        for name in await gateway.collections():
            if name.startswith(place.prefix):
                await gateway.delete_collection(name)
                removed.append(name)
        left = [name for name in (*await gateway.collections(), *await gateway.aliases()) if name.startswith(place.prefix)]
    if left:
        raise MigrationError(f"The server still lists {', '.join(map(repr, left))}.")
    return removed


async def _end_worker(ledger: Ledger, migration_id: str) -> None:
    """Ask this run's worker to leave, and wait until it gave the lease back."""
    _, lease = await ledger.lease(migration_id)
    if lease.owner is None or lease.pid is None or lease.host != socket.gethostname() or is_certainly_dead(lease):
        return
    try:
        os.kill(lease.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    with anyio.move_on_after(WORKER_ENDS_S):
        while True:
            _, lease = await ledger.lease(migration_id)
            if lease.owner is None or is_certainly_dead(lease):
                return
            await anyio.sleep(0.2)
