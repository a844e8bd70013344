"""What are the rows of a texts file? JSONL, plain or compressed, and Parquet, read piece by piece; what is wrong is named with its line."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.texts_file import columns_read, file_format, read_row, unusable
from qdrant_model_migration.errors import Refused

MAX_LINE_BYTES = 16 * 1024 * 1024
BATCH_ROWS = 512
MOST_TIMES = 200
"""How many times its packed size a file may unpack to; texts come to a tenth of that, and a bomb of gzip to a thousand."""
FREE_BYTES = 64 * 1024 * 1024
"""Unpacked bytes that are not counted: a small file may hold one sentence many times."""
_BOM = b"\xef\xbb\xbf"

Row = tuple[int, PointId, str | None]
"""Number of the line or row (from 1), point, text."""


def read_rows(stream: IO[bytes], name: str, source: TextSource) -> Iterator[Row]:
    """Every row of the file, checked; the name tells the format.

    Raises:
        Refused: names the first bad line; or the format is none of ours, or its library is not installed.
    """
    kind, is_compressed = file_format(name)
    if kind == "parquet":
        return _parquet_rows(stream, name, source)
    return _json_rows(stream, name, source, is_compressed=is_compressed)


def _json_rows(stream: IO[bytes], name: str, source: TextSource, *, is_compressed: bool) -> Iterator[Row]:
    if not is_compressed:
        yield from _lines(stream, name, source)
        return
    seen = 0
    bound = _Bound(name, stream)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as unpacked:
            for row in _lines(unpacked, name, source, bound):
                seen = row[0]
                yield row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unusable(name, f"after line {seen}", f"what follows cannot be unpacked as gzip: {error}.") from None


class _Bound:
    """Counts what a packed file unpacks to."""

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        self._name = name
        self._packed = os.fstat(stream.fileno()).st_size
        self._most = max(FREE_BYTES, self._packed * MOST_TIMES)
        self._seen = 0

    def add(self, size: int) -> None:
        """Raises:
        Refused: it is more than a file of texts unpacks to.
        """
        self._seen += size
        if self._seen > self._most:
            raise unusable(
                self._name,
                "",
                f"its {self._packed:,} bytes unpack to more than {self._most // 1024**2:,} MiB, {MOST_TIMES} times as much at most is read. Is it a file of texts? "
                "Unpacked beforehand it may have any size.",
            )


def _lines(stream: IO[bytes] | gzip.GzipFile, name: str, source: TextSource, bound: _Bound | None = None) -> Iterator[Row]:
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if bound is not None:
            bound.add(len(line))
        if len(line) > MAX_LINE_BYTES:
            raise unusable(name, f"line {number}", f"it is longer than {MAX_LINE_BYTES // 1024**2} MiB.")
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        found = read_row(_object(line, name, number, decoder), source)
        if isinstance(found, str):
            raise unusable(name, f"line {number}", found)
        yield number, *found


def _object(line: bytes, name: str, number: int, decoder: json.JSONDecoder) -> dict[str, Any]:
    where = f"line {number}"
    try:
        row = decoder.decode(line.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        raise unusable(name, where, f"byte {error.start + 1} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise unusable(name, where, f"it is not JSON: {error.msg} at character {error.pos + 1}.") from None
    except RecursionError:
        raise unusable(name, where, "it is nested too deeply.") from None
    except ValueError as error:
        # A number of thousands of digits, or NaN.
        raise unusable(name, where, f"it is not JSON: {error}.") from None
    if not isinstance(row, dict):
        raise unusable(name, where, 'it is not an object such as {"id": 42, "text": "..."}.')
    return row


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _parquet_rows(stream: IO[bytes], name: str, source: TextSource) -> Iterator[Row]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise Refused(
            f"Texts file {name!r} was not read and nothing was changed: Parquet needs the extra 'parquet' (pip install 'qdrant-model-migration[parquet]'), which is "
            "not installed. A file of JSON lines (.jsonl) needs nothing."
        ) from None
    number = 0
    bound = _Bound(name, stream)
    try:
        # A buffer instead of whole column chunks: the memory does not grow with the row groups.
        with parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1024 * 1024) as table:
            schema = table.schema_arrow
            columns = columns_read(name, schema.names, source)
            if arrow.types.is_floating(kind := schema.field("id").type):
                raise unusable(
                    name,
                    "",
                    f"its column 'id' is of type {kind}, in which ids above 2^53 lose digits. Write it as uint64, or as text (pandas turns integers with gaps into "
                    "floats).",
                )
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
                # A dictionary repeats a text at no cost until it is made into rows.
                bound.add(_row_bytes(arrow, batch))
                for row in batch.to_pylist():
                    number += 1
                    found = read_row(row, source)
                    if isinstance(found, str):
                        raise unusable(name, f"row {number}", found)
                    text = found[1]
                    # Four bytes are the most that a character takes.
                    if text is not None and len(text) * 4 > MAX_LINE_BYTES and len(text.encode()) > MAX_LINE_BYTES:
                        raise unusable(name, f"row {number}", f"its text is longer than {MAX_LINE_BYTES // 1024**2} MiB.")
                    yield number, *found
    except UnicodeDecodeError:
        raise unusable(name, f"rows {number + 1} to {number + BATCH_ROWS}", "a text is not UTF-8.") from None
    except (arrow.lib.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise unusable(name, f"after row {number}" if number else "", f"it cannot be read as Parquet: {reason}.") from None


def _row_bytes(arrow: Any, batch: Any) -> int:
    """Of a batch once its rows are made."""
    columns = (c.cast(c.type.value_type) if arrow.types.is_dictionary(c.type) else c for c in batch.columns)
    return sum(int(column.nbytes) for column in columns)
