"""Is a texts file checked as a whole, refused with its line when something is wrong, and read without growing memory?"""

from __future__ import annotations

import builtins
import gzip
import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.texts import NoTexts, Texts, TextSource
from qdrant_model_migration.domain.texts_file import TextsFile, coverage
from qdrant_model_migration.errors import Interrupted, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.texts_file import describe_texts_file, index_texts_file, open_texts_file
from qdrant_model_migration.operations.texts_rows import MAX_LINE_BYTES
from qdrant_model_migration.settings import Connection, Settings

ONE = "3f2a0000-0000-4000-8000-000000000001"
Write = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return Settings(
        connections={"default": Connection(name="default", path=tmp_path / "qdrant")},
        allowed_directories=(folder.resolve(),),
        log_directory=tmp_path / "logs",
    )


@pytest.fixture
def write(settings: Settings) -> Write:
    """Puts a file into the allowed directory and gives its name."""

    def put(data: bytes | str | list[dict[str, Any]], name: str = "t.jsonl") -> str:
        if isinstance(data, list):
            data = "".join(json.dumps(row) + "\n" for row in data)
        (settings.allowed_directories[0] / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    return put


def put_table(settings: Settings, columns: dict[str, Any], name: str = "t.parquet") -> str:
    parquet.write_table(pa.table(columns), settings.allowed_directories[0] / name)
    return name


def refusal(settings: Settings, name: str, text_field: str | None = None) -> str:
    with pytest.raises(Refused) as caught:
        describe_texts_file(settings, name, text_field)
    return str(caught.value)


GOOD = '{"id": 1, "text": "one"}\n'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it holds no row"),
        (b"\n \n\r\n", "it holds no row"),
        (GOOD + "{broken\n", "line 2: it is not JSON: Expecting property name"),
        (GOOD + '{"id": 2, "text": "cut off', "line 2: it is not JSON: Unterminated string"),
        (GOOD + "\n\n[1]\n", "line 4: it is not an object"),
        (GOOD + '"text"\n', "line 2: it is not an object"),
        (b'{"id": 1, "text": "a\0b"}\n', "line 1: it is not JSON: Invalid control character at"),
        (b"\0\0\0\0\n", "line 1: it is not JSON"),
        (GOOD.encode() + b'{"id": 2, "text": "\xff\xfe"}\n', "line 2: byte 20 is not UTF-8"),
        (GOOD.encode("utf-16"), "line 1: byte 1 is not UTF-8"),
        (GOOD + "[" * 100_000 + "\n", "line 2: it is nested too deeply"),
        (GOOD + '{"id": ' + "9" * 5_000 + "}\n", "line 2: it is not JSON: Exceeds the limit"),
        ('{"id": 1, "text": "a", "score": NaN}\n', "line 1: it is not JSON: NaN is not a number"),
        (GOOD + '{"_id": 2, "text": "two"}\n', "line 2: there is no 'id'. The fields of the row: '_id', 'text'"),
        (GOOD + '{"id": null, "text": "two"}\n', "line 2: None is not a point id"),
        (GOOD + '{"id": true, "text": "two"}\n', "line 2: True is not a point id"),
        (GOOD + '{"id": 2.0, "text": "two"}\n', "line 2: 2.0 (a number with a decimal point"),
        (GOOD + '{"id": -1, "text": "two"}\n', "line 2: -1 is not a point id"),
        (GOOD + '{"id": 18446744073709551616, "text": "two"}\n', "line 2: 18446744073709551616 is not a point id"),
        (GOOD + '{"id": "i:18446744073709551616", "text": "two"}\n', "line 2: 'i:18446744073709551616' is not a point id"),
        (
            GOOD + '{"id": "doc-7", "text": "two"}\n',
            "line 2: 'doc-7' is not a point id. An id is a whole number from 0 to 2^64 - 1 or a UUID",
        ),
        (GOOD + '{"id": "u:42", "text": "two"}\n', "line 2: 'u:42' is not a point id"),
        (GOOD + '{"id": "²", "text": "two"}\n', "line 2: '²' is not a point id"),
        (GOOD + '{"id": {"$oid": "1"}, "text": "two"}\n', "line 2: {'$oid': '1'} is not a point id"),
        (GOOD + '{"id": 2, "text": 5}\n', "line 2: 'text' of point i:2 is not a text but a number"),
        (GOOD + '{"id": 2, "text": ["two"]}\n', "line 2: 'text' of point i:2 is not a text but a list"),
        (GOOD + '{"id": 2, "text": {"a": 1}}\n', "line 2: 'text' of point i:2 is not a text but an object"),
        (GOOD + '{"id": 2, "text": "\\ud800"}\n', "line 2: the text of point i:2 holds half of a surrogate pair"),
        (GOOD + '{"id": "i:1", "text": "again"}\n', "line 2: point i:1 is in line 1 already. Each point may occur once"),
        ('{"id": 7, "text": " "}\n{"id": 8}\n{"id": 9, "text": null}\n', "none of its 3 rows has a text in 'text'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(settings: Settings, write: Write, data: bytes | str, says: str) -> None:
    text = refusal(settings, write(data))
    assert says in text
    assert text.startswith("Texts file 't.jsonl' was not taken and nothing was changed: ")
    assert len(text) < 500


def test_the_first_repeated_line_is_named_with_its_first_place_and_the_number_of_others(settings: Settings, write: Write) -> None:
    rows = [{"id": i, "text": "x"} for i in [5, 6, ONE, 7, "i:6", ONE, 5, 5]]
    assert "line 5: point i:6 is in line 2 already. 3 ids are repeated in all." in refusal(settings, write(rows))
    assert f"line 2: point u:{ONE} is in line 1 already. Each" in refusal(
        settings, write([{"id": ONE, "text": None}, {"id": f"u:{ONE.upper()}", "text": "x"}])
    )


def test_a_line_of_sixteen_mebibytes_is_taken_and_a_longer_one_refused(settings: Settings, write: Write) -> None:
    frame = len('{"id": 1, "text": ""}\n')
    longest = "x" * (MAX_LINE_BYTES - frame)
    with index_texts_file(settings, write(f'{{"id": 1, "text": "{longest}"}}\n')) as found:
        assert found.of(Point(id=1, payload={})) == longest
    assert "line 2: it is longer than 16 MiB" in refusal(settings, write(GOOD + f'{{"id": 2, "text": "{longest}x"}}\n'))
    assert "line 1: it is longer than 16 MiB" in refusal(settings, write(gzip.compress(b"x" * MAX_LINE_BYTES * 4), "bomb.jsonl.gz"))
    name = put_table(settings, {"id": [1, 2], "text": ["a", "ü" * (MAX_LINE_BYTES // 2 + 1)]})
    assert "row 2: its text is longer than 16 MiB" in refusal(settings, name)


def test_only_files_inside_the_allowed_directories_are_read(settings: Settings, write: Write, tmp_path: Path) -> None:
    inside = settings.allowed_directories[0]
    (tmp_path / "secret.jsonl").write_text(GOOD)
    (inside / "out.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (inside / "folder-out").symlink_to(tmp_path)
    (inside / "circle.jsonl").symlink_to(inside / "circle.jsonl")
    (inside / "folder.jsonl").mkdir()
    os.mkfifo(inside / "pipe.jsonl")
    write(GOOD)
    (inside / "within.jsonl").symlink_to(inside / "t.jsonl")
    for name in (
        "../secret.jsonl",
        "folder.jsonl/../../secret.jsonl",
        str(tmp_path / "secret.jsonl"),
        "out.jsonl",
        "folder-out/secret.jsonl",
        "circle.jsonl",
        "folder.jsonl",
        "pipe.jsonl",
        "missing.jsonl",
        "a\0b.jsonl",
        "x" * 400 + ".jsonl",
    ):
        assert "QDRANT_MIGRATION_ALLOWED_DIRECTORIES" in refusal(settings, name)
    for name in ("t.jsonl", "within.jsonl", "folder.jsonl/../t.jsonl", str(inside / "t.jsonl")):
        assert describe_texts_file(settings, name).name == name


@pytest.mark.parametrize("name", ["t.csv", "t.json", "t", "t.gz", "t.parquet.gz", "jsonl"])
def test_other_endings_are_refused(settings: Settings, write: Write, name: str) -> None:
    assert "must end in .jsonl, .jsonl.gz or .parquet" in refusal(settings, write(GOOD, name))


def test_a_compressed_file_that_is_cut_off_or_none_is_refused(settings: Settings, write: Write) -> None:
    rows = "".join(f'{{"id": {i}, "text": "{uuid.uuid4()}"}}\n' for i in range(5_000)).encode()
    packed = gzip.compress(rows)
    assert describe_texts_file(settings, write(packed, "t.jsonl.gz")).rows == 5_000
    assert "cannot be unpacked as gzip" in refusal(settings, write(packed[: len(packed) // 2], "t.jsonl.gz"))
    assert "cannot be unpacked as gzip" in refusal(settings, write(packed[:-8] + b"\0" * 8, "t.jsonl.gz"))
    assert "after line 0: what follows cannot be unpacked" in refusal(settings, write(GOOD, "t.jsonl.gz"))
    assert "line 1: byte 2 is not UTF-8" in refusal(settings, write(packed))


def test_a_byte_order_mark_and_other_line_ends_are_taken(settings: Settings, write: Write) -> None:
    data = b'\xef\xbb\xbf{"id": 1, "text": "one"}\r\n\r\n  {"id": 2, "text": "two"}'
    with index_texts_file(settings, write(data)) as found:
        assert [found.of(Point(id=i, payload={})) for i in (1, 2, 3)] == ["one", "two", None]


def test_parquet_takes_every_column_that_can_hold_ids(settings: Settings) -> None:
    big, one = 2**64 - 1, uuid.UUID(ONE)
    for ids, key in (
        (pa.array([big], pa.uint64()), big),
        (pa.array([7], pa.int8()), 7),
        (pa.array(["i:7"], pa.large_string()), 7),
        (pa.array([ONE]).dictionary_encode(), ONE),
        (pa.array([one.bytes], pa.binary(16)), ONE),
        (pa.array([one.bytes], pa.uuid()), ONE),
    ):
        with index_texts_file(settings, put_table(settings, {"id": ids, "text": ["one"]})) as found:
            assert found.of(Point(id=key, payload={})) == "one"


def test_parquet_says_what_is_wrong(settings: Settings, write: Write) -> None:
    assert "column 'id' is of type double, in which ids above 2^53 lose digits" in refusal(
        settings, put_table(settings, {"id": [1.0, None], "text": ["a", "b"]})
    )
    assert "row 2: None is not a point id" in refusal(settings, put_table(settings, {"id": pa.array([1, None]), "text": ["a", "b"]}))
    assert "there is no column 'text'. The columns: 'id', 'body'." in refusal(settings, put_table(settings, {"id": [1], "body": ["a"]}))
    assert "there is no column 'id'" in refusal(settings, put_table(settings, {"_id": [1], "text": ["a"]}))
    assert "row 1: 'text' of point i:1 is not a text but a number" in refusal(settings, put_table(settings, {"id": [1], "text": [5]}))
    assert "row 3: point i:1 is in row 1 already" in refusal(settings, put_table(settings, {"id": [1, 2, 1], "text": ["a", "b", "c"]}))
    invalid = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    assert "rows 1 to 512: a text is not UTF-8" in refusal(settings, put_table(settings, {"id": [1], "text": invalid}))
    assert "cannot be read as Parquet" in refusal(settings, write(GOOD, "t.parquet"))
    assert "cannot be read as Parquet" in refusal(settings, write(b"", "t.parquet"))
    whole = (
        settings.allowed_directories[0] / put_table(settings, {"id": list(range(9_999)), "text": ["abc"] * 9_999}, "w.parquet")
    ).read_bytes()
    broken = whole[:500] + b"\xff" * 2_000 + whole[2_500:]
    assert "cannot be read as Parquet" in refusal(settings, write(broken, "t.parquet"))


def test_parquet_without_its_extra_names_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    name = put_table(settings, {"id": [1], "text": ["a"]})
    real = builtins.__import__

    def without(module: str, *rest: Any, **named: Any) -> Any:
        if module.startswith("pyarrow"):
            raise ImportError(module)
        return real(module, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'qdrant-model-migration[parquet]'" in refusal(settings, name)


def test_nested_columns_and_json_in_strings_are_opened(settings: Settings, write: Write) -> None:
    nested = {"id": [1], "meta": [{"body": "deep"}], "a.b": ["its own name"], "other": [b"never read"]}
    for field, text in (("meta.body", "deep"), ("a.b", "its own name"), ("{a.b}: {meta.body}", "its own name: deep")):
        with index_texts_file(settings, put_table(settings, nested), field) as found:
            assert found.of(Point(id=1, payload={})) == text
            assert found.expression == f"{field} of file t.parquet"
    with index_texts_file(settings, write([{"id": 1, "node": json.dumps({"text": "node"})}]), "node.text") as found:
        assert found.of(Point(id=1, payload={})) == "node"


def test_another_file_under_the_recorded_name_is_refused_with_what_differs(settings: Settings, write: Write) -> None:
    recorded = describe_texts_file(settings, write(GOOD))
    with open_texts_file(settings, recorded) as found:
        assert found.of(Point(id=1, payload={})) == "one"
    write(GOOD.replace("one", "two"))
    with pytest.raises(
        Refused, match=rf"the size is the same \(25 bytes\), SHA-256 \w{{16}}… instead of {recorded.sha256[:16]}….*on every machine"
    ):
        open_texts_file(settings, recorded)
    write(GOOD * 2)
    with pytest.raises(Refused, match="it has 50 bytes instead of 25"):
        open_texts_file(settings, recorded)
    assert TextsFile.model_validate_json(recorded.model_dump_json()) == recorded


def test_a_file_that_is_written_while_it_is_read_is_refused(settings: Settings, write: Write) -> None:
    path = settings.allowed_directories[0] / write([{"id": i, "text": "x"} for i in range(2_000)])
    calls = []

    def append() -> None:
        calls.append(1)
        if len(calls) == 2:  # the first comes from the digest
            with path.open("a") as stream:
                stream.write('{"id": 9999, "text": "late"}\n')

    with pytest.raises(Refused, match="changed while it was read"):
        describe_texts_file(settings, "t.jsonl", check=append)


def test_no_room_for_the_index_is_said(settings: Settings, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own limit of pages stands for a full disk: the error is the same."""
    real = sqlite3.connect

    def small(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **named)
        connection.execute("PRAGMA max_page_count = 5")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    assert "database or disk is full" in refusal(settings, write([{"id": i, "text": "x" * 100} for i in range(5_000)]))


def test_memory_does_not_grow_with_the_file(settings: Settings) -> None:
    """Two hundred thousand rows, in either format: what Python allocates stays below a few megabytes."""
    path = settings.allowed_directories[0] / "t.jsonl"
    with path.open("w") as stream:
        stream.writelines(f'{{"id": {i}, "text": "{i:0200}"}}\n' for i in range(200_000))
    tracemalloc.start()
    try:
        with index_texts_file(settings, "t.jsonl") as found:
            _, peak = tracemalloc.get_traced_memory()
            assert found.recorded.rows == 200_000
            assert found.of(Point(id=199_999, payload={})) == f"{199_999:0200}"
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 40_000_000
    assert peak < 6_000_000


_MEASURED = """
import json, resource, sys
from pathlib import Path
from qdrant_model_migration.operations.texts_file import index_texts_file
from qdrant_model_migration.settings import Connection, Settings

folder = Path(sys.argv[1])
settings = Settings(connections={"default": Connection(name="default", path=folder)}, allowed_directories=(folder,), log_directory=folder)
index_texts_file(settings, "small" + sys.argv[2]).close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with index_texts_file(settings, "large" + sys.argv[2]) as found:
    print(found.recorded.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_nor_does_that_of_the_libraries(tmp_path: Path, ending: str) -> None:
    """The index and the reader are not Python's: the process's own peak tells. A file of over 100 MB, against one of a few."""
    for name, rows in (("small", 10_000), ("large", 200_000)):
        found = [{"id": i, "text": f"{uuid.UUID(int=i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)}" * 15} for i in range(rows)]
        if ending == ".parquet":
            parquet.write_table(
                pa.Table.from_pylist(found), tmp_path / f"{name}.parquet", row_group_size=rows, use_dictionary=False, compression="none"
            )
        else:
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    assert (tmp_path / f"large{ending}").stat().st_size > 100_000_000
    result = subprocess.run([sys.executable, "-c", _MEASURED, str(tmp_path), ending], capture_output=True, text=True, check=True)
    count, grown_kib = map(int, result.stdout.split())
    assert count == 200_000
    assert grown_kib < 30 * 1024


def test_coverage_of_a_sample_is_told(settings: Settings, write: Write) -> None:
    with index_texts_file(settings, write([{"id": i, "text": "x" if i < 8 else " "} for i in range(10)])) as found:
        points = [Point(id=i, payload={}) for i in range(5, 15)]
        seen = coverage(found, points)
        assert (seen.sampled, seen.found, seen.share) == (10, 3, 0.3)
        assert seen.refusal(found.recorded, "docs") is None
        remark = seen.remark(found.recorded, "docs")
        assert remark is not None
        assert "a text for 3 of 10 sampled points of 'docs' (30%); none for i:8, i:9, i:10, i:11, i:12 and others" in remark
        assert coverage(found, points[:3]).remark(found.recorded, "docs") is None
        assert coverage(found, []).refusal(found.recorded, "docs") is None


@pytest.mark.parametrize(
    ("rows", "points", "says"),
    [
        ([1, 2], [ONE], "The ids of the file are integers, such as i:1; those of the collection are UUIDs, such as u:3f2a"),
        ([1, 2], [ONE], "must bear the ids that the points have in Qdrant"),
        (
            [ONE],
            [1, 2],
            "The ids of the file are UUIDs, such as u:3f2a0000-0000-4000-8000-000000000001; those of the collection are integers, such as i:1",
        ),
        ([1, 2], [3, 4], "Is it the file of this collection?"),
        ([1, ONE], [3, 4], "The ids of the file are integers and UUIDs (1 and 1), such as i:1"),
    ],
)
def test_a_file_that_knows_no_sampled_point_is_refused_with_the_forms_of_the_ids(
    settings: Settings, write: Write, rows: list[Any], points: list[Any], says: str
) -> None:
    with index_texts_file(settings, write([{"id": i, "text": "x"} for i in rows])) as found:
        text = coverage(found, [Point(id=i, payload={"year": 1957}) for i in points]).refusal(found.recorded, "docs")
    assert text is not None
    assert f"none of {len(points)} sampled points of 'docs' has a text in it" in text
    assert says in text


def test_ids_of_the_app_in_the_file_are_recognised_in_the_payload(settings: Settings, write: Write) -> None:
    """The usual mistake: the points have UUIDs, the rows the numbers that the app keeps in the payload."""
    with index_texts_file(settings, write([{"id": i, "text": "x"} for i in range(100)])) as found:
        points = [Point(id=str(uuid.UUID(int=i)), payload={"doc_id": i, "chunk": i % 3, "name": "n"}) for i in range(20, 40)]
        text = coverage(found, points).refusal(found.recorded, "docs")
        assert text is not None
        assert "knows the values of payload field 'doc_id': give the rows the ids of the points" in text
        seen = coverage(found, [Point(id=p.id, payload={"chunk": p.payload["chunk"]}) for p in points])
        assert seen.payload_field is None


def test_texts_of_payloads_and_of_nothing() -> None:
    point = Point(id=1, payload={"text": "one"})
    sources: list[Texts] = [TextSource.parse("text"), NoTexts()]
    assert [s.of(point) for s in sources] == ["one", None]
    assert [s.expression for s in sources] == ["text", ""]


async def test_a_process_indexes_a_file_once_and_notices_another(settings: Settings, write: Write) -> None:
    async with OperationContext(settings) as context:
        first = await context.texts_file(write(GOOD))
        assert await context.texts_file("t.jsonl", "text") is first
        assert await context.recorded_texts(first.recorded) is first
        assert await context.texts_file("t.jsonl", "{text}") is not first
        write(GOOD + '{"id": 2, "text": "two"}\n')
        second = await context.texts_file("t.jsonl")
        assert second.recorded.rows == 2
        assert first.of(Point(id=1, payload={})) == "one"
        with pytest.raises(Refused, match="is not the one that the migration was planned with"):
            await context.recorded_texts(first.recorded)
    for closed in (first, second):
        with pytest.raises(Exception, match="closed"):
            closed.of(Point(id=1, payload={}))


async def test_a_bad_file_is_refused_to_every_call_and_read_again_once_it_is_mended(settings: Settings, write: Write) -> None:
    write(GOOD + "{\n")
    async with OperationContext(settings) as context:
        for _ in range(2):
            with pytest.raises(Refused, match="line 2"):
                await context.texts_file("t.jsonl")
        assert (await context.texts_file(write(GOOD))).recorded.rows == 1
        with pytest.raises(Refused, match="not a file inside an allowed directory"):
            await context.texts_file("missing.jsonl")


async def test_a_call_that_may_not_wait_finds_the_file_ready_later(settings: Settings, write: Write) -> None:
    write([{"id": i, "text": "x"} for i in range(1_000)])
    async with OperationContext(settings, model_wait_s=0.0) as context:
        with pytest.raises(Refused, match=r"still being read after 0 s.*same call again"):
            await context.texts_file("t.jsonl")
        assert context._texts_files is not None
        (indexing,) = context._texts_files._indexing.values()
        await indexing.is_over.wait()
        assert (await context.texts_file("t.jsonl")).recorded.rows == 1_000


async def test_the_end_of_the_process_ends_the_reading(settings: Settings, write: Write) -> None:
    """The thread is told to stop; else a server would hang on a large file when its host closes."""
    write([{"id": i, "text": "x"} for i in range(200_000)])
    context = OperationContext(settings, model_wait_s=0.0)
    async with context:
        with pytest.raises(Refused, match="still being read"):
            await context.texts_file("t.jsonl")
        assert context._texts_files is not None
        (indexing,) = context._texts_files._indexing.values()
    assert indexing.is_over.is_set()
    assert indexing.texts is None
    assert indexing.failure is None


def test_a_reader_that_nobody_waits_for_stops(settings: Settings, write: Write) -> None:
    write([{"id": i, "text": "x"} for i in range(5_000)])
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        describe_texts_file(settings, "t.jsonl", check=check)
    assert calls == 3
