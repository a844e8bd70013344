"""Are queries read as written, bad input named by its line, judgements matched to the right points, and generated queries telling?"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qdrant_model_migration.domain.metrics import Query
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.queries import (
    MAX_QUERIES,
    MAX_QUERY_CHARS,
    Document,
    QuerySet,
    RawQuery,
    given_queries,
    known_items,
    stated_point_id,
    title_of,
)
from qdrant_model_migration.domain.query_files import file_judgements, file_queries
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations import queries as operation
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.settings import Connection, Settings

SOME_UUID = "6f1c1f64-0000-4000-8000-000000000001"


def settings(*allowed: Path) -> Settings:
    return Settings(connections={}, allowed_directories=allowed, log_directory=Path("logs"))


# --- what is written


def test_given_queries_take_texts_and_judged_objects() -> None:
    found = given_queries(["plain", {"text": "judged", "relevant_ids": ["i:1", 2]}, {"text": "graded", "relevant_ids": {"a": 3}}])
    assert [(q.id, q.text, q.relevant) for q in found] == [
        ("q1", "plain", {}),
        ("q2", "judged", {"i:1": 1, "2": 1}),
        ("q3", "graded", {"a": 3}),
    ]


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([], "holds no query"),
        (["a", "  "], "Query 2 has no text"),
        ([{"txt": "a"}], "Query 1 has no text"),
        ([7], "Query 1 has no text"),
        (["x" * (MAX_QUERY_CHARS + 1)], "8,001 characters"),
        ([{"text": "a", "relevant_ids": "1"}], "must be a list of ids"),
        ([{"text": "a", "relevant_ids": [1.5]}], "must be a list of ids"),
        ([{"text": "a", "relevant_ids": {"1": "high"}}], "must be a list of ids"),
        (["a"] * (MAX_QUERIES + 1), "more than 10,000 queries"),
    ],
)
def test_bad_given_queries_are_refused(queries: list[object], message: str) -> None:
    with pytest.raises(Refused, match=message):
        given_queries(queries)


def test_file_queries_take_both_id_names_and_skip_blank_lines() -> None:
    lines = ['{"id": 1, "text": "a"}', "", '{"_id": "x", "text": "b", "relevant_ids": ["i:4"], "metadata": {}}\r']
    assert [(q.id, q.relevant) for q in file_queries(lines, "f")] == [("1", {}), ("x", {"i:4": 1})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "text": ', "line 3 is not JSON"),
        ("[" * 100_000, "line 3 is not JSON"),
        ('["a"]', "line 3 is not an object"),
        ('{"text": "a"}', "line 3 has no 'id'"),
        ('{"id": true, "text": "a"}', "line 3 has no 'id'"),
        ('{"id": "1"}', "line 3 has no text"),
        (json.dumps({"id": "1", "text": "x" * 9_000}), "line 3 has 9,000 characters"),
        ('{"id": "a", "text": "again"}', "query id 'a' more than once"),
    ],
)
def test_broken_lines_are_named(line: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        file_queries(['{"id": "a", "text": "fine"}', "", line], "queries.jsonl")


def test_too_many_lines_are_refused_before_all_are_parsed() -> None:
    lines = (f'{{"id": {i}, "text": "a"}}' for i in range(MAX_QUERIES + 5))
    with pytest.raises(Refused, match="more than 10,000"):
        file_queries(lines, "f")
    assert next(lines, None) is not None


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "1\td 1\t2", "1\td2\t0", "9\td1\t1"],
        ["1\td 1\t2", "1\td2\t0", "9\td1\t1", ""],
        ["1 0 d_1 2", "1 Q0 d2 0", "9 0 d1 1.0"],
    ],
)
def test_judgements_of_beir_and_trec_layout(lines: list[str]) -> None:
    grades, others = file_judgements(lines, "qrels", ["1", "2"])
    assert ({k.replace(" ", "_"): v for k, v in grades["1"].items()}, grades["2"], others) == ({"d_1": 2, "d2": 0}, {}, 1)


@pytest.mark.parametrize("bad", ["1\td1", "1\td1\thigh", "1 0 d1 1 5", "1\td1\tnan", "1\td1\t99999"])
def test_broken_judgements_are_named(bad: str) -> None:
    with pytest.raises(Refused, match=r"'qrels', line 2 is not"):
        file_judgements(["1\td1\t1", bad], "qrels", ["1"])


def test_file_without_a_judgement_is_refused() -> None:
    with pytest.raises(Refused, match="holds no judgement"):
        file_judgements(["query-id\tcorpus-id\tscore"], "qrels", ["1"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("i:42", (42, True)),
        ("42", (42, False)),
        (f"u:{SOME_UUID.upper()}", (SOME_UUID, True)),
        (SOME_UUID.upper(), (SOME_UUID, False)),
        (str(2**64 - 1), (2**64 - 1, False)),
        (str(2**64), (None, False)),
        ("i:" + "9" * 30, (None, False)),
        ("i:²", (None, False)),
        ("²", (None, False)),
        ("-1", (None, False)),
        ("doc-7", (None, False)),
    ],
)
def test_written_ids_as_point_ids(text: str, meant: tuple[PointId | None, bool]) -> None:
    assert stated_point_id(text) == meant


# --- files


@pytest.mark.parametrize("name", ["../outside.jsonl", "/etc/passwd", "link.jsonl", "absent.jsonl", "."])
async def test_only_files_inside_the_allowed_directories_are_read(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside.jsonl").write_text('{"id": 1, "text": "secret"}')
    (inside / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    with pytest.raises(Refused, match="was not read") as caught:
        await operation.read_queries(settings(inside), None, name, None)
    assert "secret" not in str(caught.value)
    with pytest.raises(Refused, match="QDRANT_MIGRATION_ALLOWED_DIRECTORIES"):
        await operation.read_queries(settings(), None, name, None)


async def test_queries_and_judgements_are_joined(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('\ufeff{"id": "1", "text": "a"}\n{"id": "2", "text": "b", "relevant_ids": ["z"]}\n', encoding="utf-8")
    (tmp_path / "r.tsv").write_text("query-id\tcorpus-id\tscore\n1\tx\t2\n7\tx\t1\n")
    found, notes, source = await operation.read_queries(settings(tmp_path), None, "q.jsonl", "r.tsv")
    assert found is not None
    assert [q.relevant for q in found] == [{"x": 2}, {"z": 1}]
    assert notes == ["1 judgements of 'r.tsv' are for queries that are not in 'q.jsonl'."]
    assert source == "2 queries of 'q.jsonl' judged by 'r.tsv'"


async def test_judgements_for_other_queries_only_are_refused(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "1", "text": "a"}\n')
    (tmp_path / "r.tsv").write_text("7\tx\t1\n")
    with pytest.raises(Refused, match="same query ids"):
        await operation.read_queries(settings(tmp_path), None, "q.jsonl", "r.tsv")


async def test_file_that_is_too_large_or_not_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"id": 1, "text": "a"}\n{"id": 2, "text": "\xff"}\n')
    with pytest.raises(Refused, match="line 2 is not UTF-8"):
        await operation.read_queries(settings(tmp_path), None, "bad.jsonl", None)
    monkeypatch.setattr(operation, "MAX_FILE_BYTES", 10)
    with pytest.raises(Refused, match="larger than"):
        await operation.read_queries(settings(tmp_path), None, "bad.jsonl", None)


@pytest.mark.parametrize(
    ("queries", "file", "qrels", "message"),
    [(["a"], "f", None, "not both"), (["a"], None, "r", "name that as well"), (None, None, "r", "name that as well")],
)
async def test_contradicting_arguments_are_refused(queries: list[str] | None, file: str | None, qrels: str | None, message: str) -> None:
    with pytest.raises(Refused, match=message):
        await operation.read_queries(settings(), queries, file, qrels)


async def test_no_queries_mean_generated_ones() -> None:
    assert await operation.read_queries(settings(), None, None, None) == (None, [], "")


# --- judgements and points


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    """An embedded database of this test's own."""
    opened = Gateway.open(Connection(name="default", path=tmp_path / "db"), patience_s=5, timeout_s=5)
    yield opened
    await opened.close()


async def judged(gateway: Gateway, points: list[Point], ids: list[str], id_field: str | None = None) -> QuerySet:
    await gateway.create_collection("c", {"vectors": {}})
    await gateway.points.write("c", points)
    raw = [RawQuery(id="q", text="a", relevant=dict.fromkeys(ids, 1))]
    return await operation.with_points(gateway, await gateway.describe("c"), raw, "given", id_field)


async def test_ids_of_points_in_any_spelling(gateway: Gateway) -> None:
    points = [Point(id=1, payload={}), Point(id=2, payload={}), Point(id=SOME_UUID, payload={})]
    found = await judged(gateway, points, ["i:1", "2", SOME_UUID.upper(), "i:77"])
    assert found.queries[0].relevant == {1: 1, 2: 1, SOME_UUID: 1}
    assert found.notes == ["1 of 4 judged ids are not in 'c'; their judgements were left out (the first: 'i:77')."]


@pytest.mark.parametrize("field", ["id", "doc_id", "_id", "ref"])
async def test_ids_of_a_payload_field_with_all_chunks_of_a_document(gateway: Gateway, field: str) -> None:
    points = [Point(id=str(uuid.UUID(int=i)), payload={field: f"doc-{i // 2}"}) for i in range(600)]
    found = await judged(gateway, points, ["doc-3", "doc-299"], "ref" if field == "ref" else None)
    assert found.queries[0].relevant == {str(uuid.UUID(int=i)): 1 for i in (6, 7, 598, 599)}
    assert any(repr(field) in note for note in found.notes)
    assert any("chunks" in note for note in found.notes)


async def test_ids_that_no_point_has_are_refused(gateway: Gateway) -> None:
    with pytest.raises(Refused, match="none of the 2 judged ids is known to 'c'"):
        await judged(gateway, [Point(id=1, payload={"id": "x"})], ["5", "y"])


async def test_two_numberings_that_disagree_are_refused_unless_stated(gateway: Gateway) -> None:
    """Points numbered from 0 with a payload numbered from 1: either reading finds points, one of them the wrong ones."""
    points = [Point(id=i, payload={"id": str(i + 1)}) for i in range(10)]
    with pytest.raises(Refused, match=r"these disagree: point i:3 has id '4'"):
        await judged(gateway, points, ["3"])
    collection = await gateway.describe("c")
    raw = [RawQuery(id="q", text="a", relevant={"3": 1})]
    assert (await operation.with_points(gateway, collection, raw, "given", "id")).queries[0].relevant == {2: 1}
    assert (await operation.with_points(gateway, collection, raw, "given", "point")).queries[0].relevant == {3: 1}
    tagged = [RawQuery(id="q", text="a", relevant={"i:3": 1})]
    assert (await operation.with_points(gateway, collection, tagged, "given", None)).queries[0].relevant == {3: 1}


async def test_queries_without_judgements_are_unjudged(gateway: Gateway) -> None:
    found = await judged(gateway, [Point(id=1, payload={})], [])
    assert (found.basis, found.queries) == ("unjudged", [Query(id="q", text="a")])


async def test_sample_is_the_same_for_the_same_seed_and_holds_the_required(gateway: Gateway) -> None:
    await gateway.create_collection("c", {"vectors": {}})
    await gateway.points.write("c", [Point(id=i, payload={"t": f"text number {i}"} if i % 3 else {}) for i in range(400)])
    collection, text = await gateway.describe("c"), TextSource.parse("t")
    one, notes = await operation.sampled(gateway, collection, text, 50, 7, [301, 302])
    again, _ = await operation.sampled(gateway, collection, text, 50, 7, [301, 302])
    other, _ = await operation.sampled(gateway, collection, text, 50, 8)
    assert one == again
    assert one != other
    assert {301, 302} <= {d.id for d in one}
    assert len(one) + int(notes[0].split()[0]) == 50
    everything, _ = await operation.sampled(gateway, collection, text, 1_000, 7)
    assert len(everything) == 266
    with pytest.raises(Refused, match="none of 400 sampled points"):
        await operation.sampled(gateway, collection, TextSource.parse("nope"), 1_000, 7)


async def test_collection_too_large_for_its_ids_is_sampled_by_the_server(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_DRAWN_BY_SEED", 100)
    await gateway.create_collection("c", {"vectors": {"size": 2, "distance": "Dot"}})
    await gateway.points.write("c", [Point(id=i, payload={"t": f"text {i}"}, vectors={"": [1.0, 0.0]}) for i in range(300)])
    found, _ = await operation.sampled(gateway, await gateway.describe("c"), TextSource.parse("t"), 200, 0, [5])
    assert len({d.id for d in found}) == len(found) == 200
    assert found[0].id == 5


# --- generated


def documents() -> list[Document]:
    texts = [
        f"Chapter {i} begins slowly. The gyroscope numbered {i * 7919} spins under load {i * 104729} in tunnel {i}. It ends."
        for i in range(40)
    ]
    return [Document(id=i, text=text, title=f"Notes on gyroscope {i}" if i % 2 else None) for i, text in enumerate(texts)]


def test_generated_queries_are_deterministic_and_said_to_be_generated() -> None:
    one, again, other = known_items(documents(), 20, 1), known_items(documents()[::-1], 20, 1), known_items(documents(), 20, 2)
    assert one == again
    assert one.queries != other.queries
    assert (one.basis, len(one.queries)) == ("generated", 20)
    assert "generated" in one.source
    assert "generated from the collection" in one.notes[0]


def test_generated_queries_prefer_titles_and_never_repeat_a_whole_document() -> None:
    by_id = {next(iter(q.relevant)): q.text for q in known_items(documents(), 40, 1).queries}
    assert by_id[3] == "Notes on gyroscope 3"
    assert by_id[4].startswith("The gyroscope numbered 31676")
    short = [Document(id=i, text=f"alpha beta gamma delta epsilon zeta eta {i}") for i in range(5)]
    assert all(len(q.text.split()) <= 4 for q in known_items(short, 5, 1).queries)


def test_near_duplicates_are_all_relevant_and_noted() -> None:
    twins = [*documents(), Document(id=100, text=documents()[0].text.upper() + "!")]
    found = known_items(twins, 100, 1)
    assert any(q.relevant == {0: 1, 100: 1} for q in found.queries)
    assert len(found.queries) == 40
    assert any("near-duplicates" in note for note in found.notes)


def test_boilerplate_gives_way_to_the_rarest_words() -> None:
    """Every document begins alike and has the same title: neither says which document is meant."""
    same = [
        Document(
            id=i,
            title="Terms and conditions apply",
            text="All rights are reserved by us. " + "common words here " * 10 + f"zebra{i} quagga{i} okapi{i}",
        )
        for i in range(10)
    ]
    for query in known_items(same, 10, 1).queries:
        assert f"okapi{next(iter(query.relevant))}" in query.text


def test_scripts_without_spaces_and_texts_too_short() -> None:
    chinese = [Document(id=1, text="敏捷的棕色狐狸跳过懒惰的狗然后消失在森林深处"), Document(id=2, text="ok")]
    found = known_items(chinese, 5, 1)
    assert [q.relevant for q in found.queries] == [{1: 1}]
    assert any("too short" in note for note in found.notes)
    with pytest.raises(Refused, match="too short"):
        known_items([Document(id=2, text="ok")], 5, 1)


def test_title_is_found_under_the_usual_names() -> None:
    assert title_of({"metadata": {"title": " T "}}) == "T"
    assert title_of({"title": 3, "heading": "H"}) == "H"
    assert title_of({}) is None
