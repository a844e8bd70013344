"""How are texts taken from a file? It is checked as a whole once, and then looked up by point id in an index on disk."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.texts_file import DEFAULT_FIELD, TextsFile, different, file_format, id_key, id_of_key, unusable
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.texts_rows import read_rows
from qdrant_model_migration.settings import Settings

CACHE_KIB = 8 * 1024
"""What SQLite may keep in memory of the index; the rest lies in a temporary file."""
_ROWS_A_BATCH = 1_000
_BYTES_A_BATCH = 1024 * 1024
_HASHED_AT_ONCE = 1024 * 1024

Check = Callable[[], None]
"""Called every thousand rows or few megabytes; raises when nobody waits any longer."""


class FileTexts:
    """Texts by point id. Close it: its temporary file goes then (and with the process, however that ends)."""

    def __init__(self, index: _Index, recorded: TextsFile) -> None:
        self.recorded = recorded
        self._index = index

    @property
    def expression(self) -> str:
        return self.recorded.expression

    def of(self, point: Point) -> str | None:
        """The text that the file has for the point's id; the payload is not looked at."""
        return self._index.text(point.id)

    def close(self) -> None:
        self._index.close()

    def __enter__(self) -> FileTexts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def describe_texts_file(settings: Settings, name: str, text_field: str | None = None, *, check: Check | None = None) -> TextsFile:
    """Read the whole file once and say what it is; nothing is kept. Blocks: seconds a million rows.

    Raises:
        Refused: outside the allowed directories; a bad line, which is named; an id that occurs twice; no text at all.
    """
    with index_texts_file(settings, name, text_field, keeps_texts=False, check=check) as texts:
        return texts.recorded


def open_texts_file(settings: Settings, recorded: TextsFile, *, check: Check | None = None) -> FileTexts:
    """The texts of a file that a migration recorded, once it is certain that these are the same bytes. Blocks while the index is built.

    Raises:
        Refused: the file is not readable here, or is another one; says what differs.
    """
    return index_texts_file(settings, recorded.name, recorded.text_field, expected=recorded, check=check)


def index_texts_file(
    settings: Settings,
    name: str,
    text_field: str | None = None,
    *,
    expected: TextsFile | None = None,
    keeps_texts: bool = True,
    check: Check | None = None,
) -> FileTexts:
    """Check a file and index it in one go; `describe_texts_file` and `open_texts_file` for a caller that needs both.

    Raises:
        Refused: as those two.
    """
    check = check or _nothing
    source = TextSource.parse(DEFAULT_FIELD if text_field is None else text_field)
    kind, _ = file_format(name)
    with _opened(settings, name) as stream:
        before = os.fstat(stream.fileno())
        sha256 = _digest(stream, check)
        if expected is not None and sha256 != expected.sha256:
            raise different(expected, sha256, before.st_size)
        index = _Index(name)
        try:
            counts = _fill(index, stream, name, source, keeps_texts=keeps_texts, check=check)
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise unusable(name, "", "it was changed while it was read. Try again when it is complete.")
            recorded = TextsFile(
                name=name,
                format=kind,
                text_field=source.expression,
                sha256=sha256,
                size_bytes=before.st_size,
                rows=counts.rows,
                blank=counts.blank,
                integers=counts.integers,
                uuids=counts.rows - counts.integers,
                first_id=tag(counts.first),
            )
        except BaseException:
            index.close()
            raise
    return FileTexts(index, recorded)


def _nothing() -> None: ...


@contextmanager
def _opened(settings: Settings, name: str) -> Iterator[IO[bytes]]:
    try:
        with settings.opened_file(name) as stream:
            yield stream
    except OSError as error:
        raise Refused(f"Texts file {name!r} was not read and nothing was changed: {error.strerror or error}.") from None


def _digest(stream: IO[bytes], check: Check) -> str:
    found = hashlib.sha256()
    for number, piece in enumerate(iter(lambda: stream.read(_HASHED_AT_ONCE), b"")):
        found.update(piece)
        if number % 8 == 0:
            check()
    stream.seek(0)
    return found.hexdigest()


@dataclass
class _Counts:
    """What the rows of a file are."""

    rows: int = 0
    blank: int = 0
    integers: int = 0
    first: PointId = 0

    def add(self, point_id: PointId, text: str | None) -> None:
        if self.rows == 0:
            self.first = point_id
        self.rows += 1
        self.blank += text is None
        self.integers += isinstance(point_id, int)


def _fill(index: _Index, stream: IO[bytes], name: str, source: TextSource, *, keeps_texts: bool, check: Check) -> _Counts:
    counts = _Counts()
    for number, point_id, text in read_rows(stream, name, source):
        counts.add(point_id, text)
        index.add(number, point_id, text if keeps_texts else None)
        if counts.rows % _ROWS_A_BATCH == 0:
            check()
    if counts.rows == 0:
        raise unusable(name, "", 'it holds no row. A row reads {"id": 42, "text": "..."}.')
    if counts.blank == counts.rows:
        raise unusable(
            name,
            "",
            f"none of its {counts.rows:,} rows has a text in {source.expression!r}. Say with text_field which field of the rows holds the text, or give a template "
            "such as '{title}\\n{body}'.",
        )
    index.complete("row" if file_format(name)[0] == "parquet" else "line")
    return counts


class _Index:
    """Point id -> text, in a private database of SQLite: beyond its cache in a file that has no name, so that nothing is left behind."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._pending: list[tuple[int, bytes, bytes | None]] = []
        self._pending_bytes = 0
        # Serves threads, one at a time.
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE texts (line INTEGER PRIMARY KEY, id BLOB NOT NULL, text BLOB)",
            "BEGIN",
        ):
            self._database.execute(statement)

    def add(self, line: int, point_id: PointId, text: str | None) -> None:
        data = None if text is None else text.encode()
        self._pending.append((line, id_key(point_id), data))
        self._pending_bytes += len(data or b"")
        if len(self._pending) >= _ROWS_A_BATCH or self._pending_bytes >= _BYTES_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        with self._room():
            self._database.executemany("INSERT INTO texts VALUES (?, ?, ?)", self._pending)
        self._pending, self._pending_bytes = [], 0

    def complete(self, unit: str) -> None:
        """Make the ids searchable.

        Raises:
            Refused: an id occurs twice; names both places.
        """
        self._flush()
        with self._room():
            self._database.execute("COMMIT")
            try:
                # After the rows: sorting is far quicker than inserting UUIDs in random order.
                self._database.execute("CREATE UNIQUE INDEX by_id ON texts (id)")
            except sqlite3.IntegrityError:
                raise self._repeated(unit) from None
            self._database.execute("PRAGMA query_only = ON")

    def _repeated(self, unit: str) -> Refused:
        later = "SELECT id, line, row_number() OVER (PARTITION BY id ORDER BY line) AS nth FROM texts"
        (count, line) = self._database.execute(f"SELECT count(*), min(line) FROM ({later}) WHERE nth = 2").fetchone()  # noqa: S608 - no value of the file
        (key,) = self._database.execute("SELECT id FROM texts WHERE line = ?", (line,)).fetchone()
        (first,) = self._database.execute("SELECT min(line) FROM texts WHERE id = ?", (key,)).fetchone()
        others = f" {count:,} ids are repeated in all." if count > 1 else ""
        return unusable(
            self._name,
            f"{unit} {line}",
            f"point {tag(id_of_key(key))} is in {unit} {first} already.{others} Each point may occur once; leave one row of each.",
        )

    def text(self, point_id: PointId) -> str | None:
        with self._lock:
            row = self._database.execute("SELECT text FROM texts WHERE id = ?", (id_key(point_id),)).fetchone()
        return row[0].decode() if row is not None and row[0] is not None else None

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise Refused(
                f"Texts file {self._name!r} was not taken and nothing was changed: its index could not be written to the folder for temporary files ({error}). It "
                "needs about as much room as the texts; SQLITE_TMPDIR names another folder."
            ) from None
