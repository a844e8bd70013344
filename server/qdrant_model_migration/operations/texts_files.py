"""Which texts files does this process hold ready? Each is checked and indexed once, in a thread; a call waits only as long as it may."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from qdrant_model_migration.domain.texts_file import DEFAULT_FIELD, TextsFile, different, unusable
from qdrant_model_migration.errors import Interrupted, Refused
from qdrant_model_migration.operations.texts_file import FileTexts, index_texts_file
from qdrant_model_migration.settings import Settings

_Key = tuple[str, str, int, int, int]
"""Path, text field, inode, size and time of the last change: another file under the old name is another key."""


class TextsFiles:
    """Indexes by file, until `close`: what a running backfill reads is never taken from it."""

    def __init__(self, settings: Settings, wait_s: float | None) -> None:
        self._settings = settings
        self._wait_s = wait_s
        self._indexing: dict[_Key, _Indexing] = {}
        self._is_closed = threading.Event()

    async def read(self, background: TaskGroup, name: str, text_field: str | None = None) -> FileTexts:
        """A file named in an argument, checked as a whole; its record is `.recorded`. The caller does not close it.

        Raises:
            Refused: what is wrong with the file; or it is still being read, and the same call later finds it ready.
        """
        path = self._settings.allowed_file(name)
        try:
            status = path.stat()
        except OSError as error:
            raise unusable(name, "", f"{error.strerror or error}.") from None
        key = (str(path), text_field or DEFAULT_FIELD, status.st_ino, status.st_size, status.st_mtime_ns)
        indexing = self._indexing.get(key)
        if indexing is None:
            indexing = self._indexing[key] = _Indexing(self._is_closed)
            background.start_soon(indexing.run, self._settings, name, text_field)
        with anyio.move_on_after(self._wait_s):
            await indexing.is_over.wait()
        if not indexing.is_over.is_set():
            raise Refused(
                f"Nothing was changed: texts file {name!r} ({status.st_size / 1e6:,.0f} MB) is still being read after {self._wait_s:.0f} s. That goes on in the "
                "background; make the same call again in a minute."
            )
        if indexing.failure is not None:
            self._indexing.pop(key, None)
            raise indexing.failure
        if indexing.texts is None:
            raise Interrupted(f"Texts file {name!r} was not read: the process is ending.")
        return indexing.texts

    async def open(self, background: TaskGroup, recorded: TextsFile) -> FileTexts:
        """The file that a migration recorded, when its bytes are still the same.

        Raises:
            Refused: as `read`; or it is another file, and what differs.
        """
        texts = await self.read(background, recorded.name, recorded.text_field)
        if texts.recorded.sha256 != recorded.sha256:
            raise different(recorded, texts.recorded.sha256, texts.recorded.size_bytes)
        return texts

    def close(self) -> None:
        """Stop what is being read, and remove the indexes."""
        self._is_closed.set()
        for indexing in self._indexing.values():
            if indexing.texts is not None:
                indexing.texts.close()
        self._indexing.clear()


class _Indexing:
    """A file on its way."""

    def __init__(self, is_closed: threading.Event) -> None:
        self.is_over = anyio.Event()
        self.texts: FileTexts | None = None
        self.failure: Exception | None = None
        self._is_closed = is_closed

    async def run(self, settings: Settings, name: str, text_field: str | None) -> None:
        try:
            texts = await anyio.to_thread.run_sync(lambda: index_texts_file(settings, name, text_field, check=self._check))
            if self._is_closed.is_set():
                texts.close()
            else:
                self.texts = texts
        except Interrupted:
            pass
        except Exception as error:  # noqa: BLE001 - raised again for the caller; here it would end the server's task group
            self.failure = error
        finally:
            self.is_over.set()

    def _check(self) -> None:
        if self._is_closed.is_set():
            raise Interrupted("The process is ending.")
