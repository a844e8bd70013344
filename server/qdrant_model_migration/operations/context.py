"""What does every operation work with? Settings, connections, models, ledgers; all opened when first used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

import anyio

from qdrant_model_migration.errors import Refused
from qdrant_model_migration.settings import Settings

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.domain.texts_file import TextsFile
    from qdrant_model_migration.embedders.base import AnyEmbedder, Embedder
    from qdrant_model_migration.embedders.catalogue import Catalogue
    from qdrant_model_migration.embedders.server_side import Infer
    from qdrant_model_migration.operations.texts_file import FileTexts
    from qdrant_model_migration.operations.texts_files import TextsFiles
    from qdrant_model_migration.qdrant.gateway import Gateway
    from qdrant_model_migration.qdrant.ledger import Ledger

EnsureDriver = Callable[["Migration"], Awaitable[None]]
"""Sees to it that somebody works the migration's recorded operations."""


_Load = Callable[[], Awaitable["AnyEmbedder"]]
_Key = tuple[str, str | None, bool]


class _Server(TypedDict, total=False):
    infer: Infer
    place: str


async def _nobody(migration: Migration) -> None:
    raise RuntimeError("this context starts no drivers")


class OperationContext:
    """One a process (or a worker). Enter it before use; leaving closes what was opened."""

    def __init__(
        self, settings: Settings, *, patience_s: float = 6.0, model_wait_s: float | None = None, ensure_driver: EnsureDriver = _nobody
    ) -> None:
        self.settings = settings
        self.ensure_driver = ensure_driver
        self._patience_s = patience_s
        self._model_wait_s = model_wait_s
        self._catalogue: Catalogue | None = None
        self._texts_files: TextsFiles | None = None
        self._loading: dict[_Key, _Loading] = {}
        self._gateways: dict[str, Gateway] = {}
        self._opening = anyio.Lock()
        self._exit = AsyncExitStack()
        self._background: TaskGroup | None = None

    async def __aenter__(self) -> OperationContext:
        self._background = await self._exit.enter_async_context(anyio.create_task_group())
        return self

    @property
    def starts_drivers(self) -> bool:
        """Whether `ensure_driver` starts one; a worker's own context starts none."""
        return self.ensure_driver is not _nobody

    @property
    def background(self) -> TaskGroup:
        """Tasks that outlive a call, in this process. A task must not raise: it would end the whole server."""
        assert self._background is not None
        return self._background

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._texts_files is not None:
            self._texts_files.close()
        self.background.cancel_scope.cancel()
        await self._exit.aclose()
        with anyio.CancelScope(shield=True):
            for gateway in self._gateways.values():
                await gateway.close()
            self._gateways.clear()
            if self._catalogue is not None:
                await self._catalogue.close()

    @property
    def catalogue(self) -> Catalogue:
        """The models, by name."""
        if self._catalogue is None:
            from qdrant_model_migration.embedders.catalogue import Catalogue

            self._catalogue = Catalogue(self.settings)
        return self._catalogue

    @property
    def _files(self) -> TextsFiles:
        if self._texts_files is None:
            from qdrant_model_migration.operations.texts_files import TextsFiles

            self._texts_files = TextsFiles(self.settings, self._model_wait_s)
        return self._texts_files

    async def gateway(self, connection: str | None = None) -> Gateway:
        """The gateway of a named connection, opened at its first use.

        Raises:
            NotFound: no such connection is configured.
            AlreadyExists: the embedded database is held by another process.
        """
        from qdrant_model_migration.qdrant.gateway import Gateway

        wanted = self.settings.connection(connection)
        async with self._opening:
            if wanted.name not in self._gateways:
                self._gateways[wanted.name] = Gateway.open(wanted, patience_s=self._patience_s, timeout_s=self.settings.request_timeout_s)
            return self._gateways[wanted.name]

    async def ledger(self, connection: str | None = None) -> Ledger:
        """The ledger kept beside the targets of a connection; not created by asking for it."""
        from qdrant_model_migration.qdrant.ledger import Ledger

        return Ledger(await self.gateway(connection), self.settings.ledger)

    async def model(self, name: str, connection: str | None = None) -> Embedder:
        """A loaded dense model, within the time a call has; a download that takes longer goes on in the background.

        Args:
            name: As a person writes it.
            connection: Whose server a server-side model (`qdrant:…`) is computed by.

        Raises:
            Refused: it is still being loaded (the same call later finds it), or it is a sparse or multivector model.
            MigrationError: as `Catalogue.load`.
        """

        async def load() -> AnyEmbedder:
            return await self.catalogue.load(name, **await self._server(name, connection))

        from qdrant_model_migration.embedders.base import is_dense

        found = await self._within_time(name, (name, connection, True), load)
        assert is_dense(found)
        return found

    async def any_model(self, name: str, connection: str | None = None) -> AnyEmbedder:
        """As `model`, of whichever kind: `spec.kind` tells, and `is_dense`, `is_sparse`, `is_multivector` of embedders/base.py narrow it."""

        async def load() -> AnyEmbedder:
            return await self.catalogue.load_any(name, **await self._server(name, connection))

        return await self._within_time(name, (name, connection, False), load)

    async def awaited_model(self, name: str, connection: str | None = None) -> AnyEmbedder:
        """As `any_model`, however long loading or a download takes: for work that outlives a call."""
        return await self.catalogue.load_any(name, **await self._server(name, connection))

    async def _server(self, name: str, connection: str | None) -> _Server:
        """What `Catalogue.load_any` needs of a server; the connection is opened only for a model that is computed there.

        Raises:
            Refused: read-only mode, in which no scratch collection may be written.
        """
        resolved = await anyio.to_thread.run_sync(self.catalogue.resolve, name)
        if not self.catalogue.is_server_side(resolved):
            return {}
        if self.settings.is_read_only:
            raise Refused(
                f"Nothing was changed: {str(resolved)!r} is computed by the Qdrant server, which shows its vectors only once they are written, to a scratch "
                "collection; QDRANT_MIGRATION_READ_ONLY forbids that."
            )
        from qdrant_model_migration.qdrant.inference import ServerInference

        return {"infer": ServerInference(await self.gateway(connection)), "place": self.settings.connection(connection).name}

    async def _within_time(self, name: str, key: _Key, load: _Load) -> AnyEmbedder:
        if self._model_wait_s is None:
            return await load()
        loading = self._loading.get(key)
        if loading is None:
            loading = self._loading[key] = _Loading()
            self.background.start_soon(loading.run, load)
        with anyio.move_on_after(self._model_wait_s):
            await loading.is_over.wait()
        if not loading.is_over.is_set():
            raise Refused(
                f"Nothing was changed: model {name!r} is still being loaded or downloaded after {self._model_wait_s:.0f} s. That goes on in the "
                "background; make the same call again in a minute."
            )
        self._loading.pop(key, None)
        return loading.outcome()

    async def texts_file(self, name: str, text_field: str | None = None) -> FileTexts:
        """A texts file named in an argument, checked and indexed (`.recorded` says what it is); held until this context ends.

        Raises:
            Refused: what is wrong with it; or it is still being read after the time a call has, and the same call later finds it ready.
        """
        return await self._files.read(self.background, name, text_field)

    async def recorded_texts(self, recorded: TextsFile) -> FileTexts:
        """The texts file that a migration recorded; held until this context ends.

        Raises:
            Refused: as `texts_file`; or the bytes are not the recorded ones.
        """
        return await self._files.open(self.background, recorded)

    def notice(self, connection: str | None = None) -> str:
        """How a summary begins when the embedded database serves because nothing else was set."""
        wanted = self.settings.connection(connection)
        if not (self.settings.is_default_location and wanted.name == "default"):
            return ""
        return f"[Embedded database at {wanted.path}: no server is set. Set QDRANT_URL to connect one.] "


class _Loading:
    """A model on its way."""

    def __init__(self) -> None:
        self.is_over = anyio.Event()
        self._loaded: AnyEmbedder | None = None
        self._failure: Exception | None = None

    async def run(self, load: _Load) -> None:
        try:
            self._loaded = await load()
        except Exception as error:  # noqa: BLE001 - raised again for the caller; here it would end the server's task group
            self._failure = error
        finally:
            self.is_over.set()

    def outcome(self) -> AnyEmbedder:
        if self._failure is not None:
            raise self._failure
        if self._loaded is None:
            raise Refused("Nothing was changed: the server is shutting down.")
        return self._loaded


def now(ledger: Ledger | None = None) -> str:
    """The wall clock of this machine, for people; with a ledger the clock that all who work with it share, for what is decided by time."""
    return (datetime.now(UTC) if ledger is None else ledger.now()).isoformat(timespec="milliseconds")
