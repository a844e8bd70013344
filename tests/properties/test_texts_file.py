"""Does what is written into a texts file come back, by every form of id, format and field?"""

from __future__ import annotations

import gzip
import json
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from qdrant_model_migration.domain.points import Point, PointId, tag
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.texts_file import id_key, id_of_key, point_id
from qdrant_model_migration.operations.texts_file import describe_texts_file, open_texts_file
from qdrant_model_migration.settings import Connection, Settings

FORMATS = ["t.jsonl", "t.ndjson", "t.jsonl.gz", "t.parquet"]

ids: st.SearchStrategy[PointId] = st.integers(0, 2**64 - 1) | st.integers(0, 5) | st.uuids().map(str)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["", " ", "\0", "a\nb", "{title}", '{"b": "json"}']
)
anything = texts | st.none()


def settings_for(folder: Path) -> Settings:
    return Settings(
        connections={"default": Connection(name="default", url="http://host")},
        allowed_directories=(folder.resolve(),),
        log_directory=Path("/nowhere"),
    )


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows in the format that the name stands for; Parquet takes ids as text, for it has no column of integers and texts."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows]), path, row_group_size=3)
        return
    data = "".join(json.dumps(row, ensure_ascii=len(rows) % 2 == 0) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def forms(identifier: PointId) -> list[object]:
    """Every way in which an id may be written."""
    if isinstance(identifier, int):
        return [identifier, str(identifier), f"i:{identifier}"]
    parsed = uuid.UUID(identifier)
    return [identifier, identifier.upper(), parsed.hex, f"u:{identifier}", f"u:{parsed.hex}", parsed, parsed.bytes]


@pytest.mark.parametrize("name", FORMATS)
@given(
    held=st.dictionaries(ids, anything, min_size=1, max_size=12), others=st.sets(ids, max_size=5), pick=st.randoms(use_true_random=False)
)
def test_every_text_comes_back_by_its_point_and_no_other(
    name: str, held: dict[PointId, str | None], others: set[PointId], pick: Any
) -> None:
    """Sixty-four-bit integers exactly; blank texts are none; ids that the file does not have are none."""
    held[2**64 - 1] = "at least one text"
    with tempfile.TemporaryDirectory() as folder:
        written = [{"id": pick.choice([f for f in forms(i) if isinstance(f, int | str)]), "text": text} for i, text in held.items()]
        write(Path(folder) / name, written)
        settings = settings_for(Path(folder))
        recorded = describe_texts_file(settings, name)
        with open_texts_file(settings, recorded) as found:
            assert found.recorded == recorded
            assert {i: found.of(Point(id=i, payload={"text": "not this"})) for i in held} == {
                i: text if text and text.strip() else None for i, text in held.items()
            }
            assert [found.of(Point(id=i, payload={})) for i in others - held.keys()] == [None] * len(others - held.keys())
    integers = sum(isinstance(i, int) for i in held)
    assert (recorded.rows, recorded.integers, recorded.uuids) == (len(held), integers, len(held) - integers)
    assert recorded.blank == sum(not (text or "").strip() for text in held.values())
    assert recorded.first_id == tag(next(iter(held)))


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
@pytest.mark.parametrize("field", ["body", "{title}\n{body}", "{title}: {body}"])
@given(rows=st.lists(st.tuples(anything, anything), min_size=1, max_size=8))
def test_a_row_gives_the_text_that_a_payload_of_these_fields_would(
    name: str, field: str, rows: list[tuple[str | None, str | None]]
) -> None:
    written: list[dict[str, Any]] = [{"id": n, "title": title, "body": body} for n, (title, body) in enumerate([*rows, ("t", "b")])]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name, written)
        settings = settings_for(Path(folder))
        with open_texts_file(settings, describe_texts_file(settings, name, field)) as found:
            for row in written:
                assert found.of(Point(id=row["id"], payload={})) == TextSource.parse(field).extract(row)


@given(identifier=ids)
def test_an_id_is_read_in_every_form_and_its_key_read_back(identifier: PointId) -> None:
    assert [point_id(form) for form in forms(identifier)] == [identifier] * len(forms(identifier))
    assert id_of_key(id_key(identifier)) == identifier


@given(
    value=st.text(max_size=40)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.binary(max_size=20)
    | st.lists(st.integers(), max_size=2)
)
def test_whatever_else_a_row_holds_is_no_id_or_one_that_qdrant_takes(value: object) -> None:
    found = point_id(value)
    if isinstance(found, int):
        assert 0 <= found < 2**64
        assert isinstance(value, int | str)
    elif found is not None:
        assert found == str(uuid.UUID(found))
