"""Is everybody whose queries or writes change told so, and does the dual-write snippet do what it says?"""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qdrant_model_migration.domain.app_changes import app_changes
from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.dual_writes import dual_write_snippet
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.query_changes import query_snippet
from qdrant_model_migration.domain.recipe import Endpoint, Recipe
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.texts_file import TextsFile
from qdrant_model_migration.domain.updated_at import UpdatedAt
from tests.servers import QdrantServer


def migration(**changes: Any) -> Migration:
    values: dict[str, Any] = {
        "id": "m-1",
        "arguments_digest": "d",
        "created_at": "2026-01-01",
        "strategy": "new_collection",
        "source": Endpoint(collection="docs"),
        "target": Endpoint(collection="docs-new"),
        "recipes": (Recipe(field="", kind="embed", source_field=""),),
        "model": ModelSpec(name="openai:new", dimensions=4, query_prefix="query: "),
        "text_field": "text",
        "create": {},
        "restore": {},
    }
    return Migration(**{**values, **changes})


def told(old_dimensions: int | None, aliases: list[str] | None = None, **changes: Any) -> str:
    return "\n".join(app_changes(migration(**changes), ["live"] if aliases is None else aliases, old_dimensions))


def test_other_dimensions_fail_and_equal_ones_return_nonsense() -> None:
    """The two ways in which a reader that was not changed breaks."""
    other, equal = told(8), told(4)
    assert "old model (8 dimensions) through a swapped alias fails with 'Wrong input: Vector dimension error'" in other
    assert "nonsense" not in other
    assert "gets nonsense without any error: both have the same dimensions" in equal
    assert "fails" not in equal


def test_what_becomes_of_a_writer_that_was_not_changed_is_told() -> None:
    """Refused with another size; taken without an error, and found by the verification alone, with the same one."""
    other, equal = told(8, writes="live"), told(4, writes="dual_write")
    assert "goes on with the old model (8 dimensions) is refused there with 400 'Vector dimension error'" in other
    assert "in neither collection" in other
    assert "is taken without an error, for both have the same dimensions" in equal
    assert "verify_target finds them, also after the swap" in equal
    assert "goes on with the old model" not in told(8, writes="frozen")


def test_who_goes_on_writing_is_told_how_long_a_swap_may_refuse_it_and_what_to_do() -> None:
    """A writer that gives up at the first 429 loses that write."""
    beside = (Recipe(field="new", kind="embed", source_field=""), Recipe(field="", kind="copy", source_field=""))
    for live in (told(8, writes="live"), told(8, writes="live", recipes=beside, dense_field="")):
        assert "at most a minute (should the worker die meanwhile, until another has taken over)" in live
        assert "try again until it takes them, a request of several points whole" in live
    assert "429" not in told(8, writes="frozen")


def test_what_cannot_be_detected_in_place_is_told() -> None:
    made = Recipe(field="new", kind="embed", source_field="", stage="fill")
    found = told(8, recipes=(made,), placement="in_place", target=Endpoint(collection="docs"), dense_field="")
    assert "on a collection of one shard verify_target finds every one of them and repair_target embeds them again" in found
    assert "elsewhere (several shards, a cluster, embedded) a sample finds some" in found
    assert "A text that is taken away (delete_payload) leaves its vector, which is not found" in found


def test_what_passes_by_updated_at_do_not_see_is_told() -> None:
    found = told(8, updated_at=UpdatedAt(field="at", unit="s", coverage=0.9))
    assert "Writes set 'at' to their time" in found
    assert "10% of the sampled points do not hold it" in found
    assert "Deletes, and writes that leave it or state an earlier time, are found by a full pass" in found


@pytest.mark.parametrize("dimensions", [4, 8])
@pytest.mark.parametrize("writes", ["frozen", "dual_write", "live"])
@pytest.mark.parametrize("readers", ["one_deploy", "rolling", "self_resolving"])
def test_the_query_model_with_its_prefix_is_always_named(dimensions: int, writes: str, readers: str) -> None:
    text = told(dimensions, writes=writes, readers=readers)
    assert "embedded with openai:new (4 dimensions, query side, prefixed 'query: ')" in text
    marks = {"frozen": "Nothing writes to the source", "dual_write": "dual-write snippet", "live": "Writers go on as they are"}
    assert [mark for mark in marks.values() if mark in text] == [marks[writes]]
    assert ("model_migration.model" in text) is (readers == "self_resolving")
    assert ("rolling deploy" in text) is (readers == "rolling")


def test_a_renamed_field_and_a_missing_alias_are_told() -> None:
    named = told(8, recipes=(Recipe(field="new", kind="embed", source_field=""),))
    assert "using='new'" in named
    assert "using=" not in told(8)
    assert "No alias points to 'docs'" in told(8, aliases=[])
    assert "No alias" not in told(8)


@pytest.mark.parametrize("kind", [ModelKind.SPARSE, ModelKind.MULTIVECTOR])
def test_where_a_field_is_added_to_a_copy_no_reader_is_told_to_change_its_model(kind: ModelKind) -> None:
    """The dense vectors are copied, so that the old queries go on; only the field that stands beside them is new."""
    made = Recipe(field="added", kind="embed", vector_kind=FieldKind(kind.value))
    recipes = (made, Recipe(field="", kind="copy", source_field=""))
    text = told(8, recipes=recipes, dense_field="", model=ModelSpec(name="the model", dimensions=4, kind=kind))
    assert text.startswith("Old queries (the unnamed vector) go on being answered before and after the swap")
    assert "in its own release" in text
    assert "nonsense" not in text
    assert "fails" not in text
    assert "new model" not in text


def snippet(**changes: Any) -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec(dual_write_snippet(migration(writes="dual_write", **changes)), space)  # noqa: S102 - what a person would paste
    return space


EXPRESSIONS = ["text", "a.b", "a.b.c", "{text}", "{a.b}: {text}", "{{x}} {text}", "{text}{n}{a.b.c}", 'it\'s {text} \\ "quoted"']

words = st.sampled_from(
    ["", "  ", "hello", "{text}", "{a.b}", "{}", "{broken", '{"b": "json"}', '{"b": {"c": "deep"}}', "5", "null", "ü\n"]
)
scalars = words | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.dictionaries(st.sampled_from(["b", "c"]), inner) | st.lists(inner, max_size=2), max_leaves=5
)
payloads = st.dictionaries(st.sampled_from(["text", "a", "a.b", "n", "b"]), values)


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(payload=payloads)
def test_the_snippet_embeds_the_text_that_the_backfill_embeds(expression: str, payload: dict[str, Any]) -> None:
    """Else a dual-written point has a vector of another text. Texts that look like templates or JSON are but texts."""
    assert snippet(text_field=expression)["text_of"](payload) == TextSource.parse(expression).extract(payload)


def test_with_a_texts_file_the_app_gives_the_text_itself() -> None:
    """The payload does not hold it; the snippet has no function that would read it there."""
    code = dual_write_snippet(migration(writes="dual_write", text_field='{a} """ \\'), has_texts_file=True)
    space: dict[str, Any] = {}
    exec(code, space)  # noqa: S102 - what a person would paste
    assert "text_of" not in space
    with pytest.raises(TypeError, match="text_of"):
        space["DualWriter"](None, embed)


FILE = TextsFile(name="texts.jsonl", format="jsonl", sha256="0" * 64, size_bytes=1, rows=1, integers=1, uuids=0, first_id="i:1")


def test_writes_that_a_texts_file_does_not_know_are_told() -> None:
    def told_of(writes: str, has_texts_file: bool) -> bool:
        found = app_changes(migration(writes=writes, texts=FILE if has_texts_file else None), ["live"], 8)
        return "knows nothing of what is written after it was made" in found[-1]

    assert [told_of(writes, True) for writes in ("frozen", "dual_write", "live")] == [False, True, True]
    assert [told_of(writes, False) for writes in ("frozen", "dual_write", "live")] == [False, False, False]


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0, 0.0, 0.0] for text in texts]


def dense(size: int) -> models.VectorParams:
    return models.VectorParams(size=size, distance=models.Distance.DOT)


@pytest.mark.parametrize(
    ("text_field", "payload"), [("text", {"text": "abc"}), ("a.text", {"a": {"text": "abc"}}), ("{t}{n}", {"t": "ab", "n": 7})]
)
def test_the_snippet_mirrors_every_kind_of_write(server: QdrantServer, name: str, text_field: str, payload: dict[str, Any]) -> None:
    """Upsert, partial update, delete: afterwards the target holds what the recipes say of the source."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    sparse = {"s": models.SparseVectorParams()}
    try:
        client.create_collection(source, vectors_config={"": dense(2), "b": dense(3)}, sparse_vectors_config=sparse)
        client.create_collection(target, vectors_config={"new": dense(4), "b": dense(3)}, sparse_vectors_config=sparse)
        recipes = (
            Recipe(field="new", kind="embed", source_field=""),
            Recipe(field="b", kind="copy", source_field="b"),
            Recipe(field="s", kind="copy", source_field="s"),
        )
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=target)}
        writer = snippet(recipes=recipes, text_field=text_field, **ends)["DualWriter"](client, embed)
        bow = models.SparseVector(indices=[3], values=[0.5])
        vectors: Any = {"": [1.0, 2.0], "b": [1.0, 2.0, 3.0], "s": bow}
        writer.upsert([models.PointStruct(id=i, vector=vectors, payload=payload) for i in (1, 2)])
        writer.upsert([models.PointStruct(id=3, vector={"": [1.0, 2.0]}, payload={"title": "no text"})])
        writer.set_payload({"text": "abcdef", "a": {"text": "abcdef"}, "t": "abcde"}, [1])
        writer.delete([2])
        found = {p.id: p for p in client.retrieve(target, [1, 2, 3], with_vectors=True)}
    finally:
        client.close()
    assert set(found) == {1, 3}
    assert found[1].vector == {"new": [6.0, 1.0, 0.0, 0.0], "b": [1.0, 2.0, 3.0], "s": bow}
    assert found[1].payload == {**payload, "text": "abcdef", "a": {"text": "abcdef"}, "t": "abcde"}
    assert (found[3].vector, found[3].payload) == ({}, {"title": "no text"})


def test_the_snippet_mirrors_the_other_kinds_of_write_at_once(server: QdrantServer, name: str) -> None:
    """Without any catch-up. Writes by a filter reach what it found before the write; a write that fails in part is mirrored in part."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    embedded: list[str] = []

    def counting(texts: list[str]) -> list[list[float]]:
        embedded.extend(texts)
        return embed(texts)

    def held(collection: str) -> dict[Any, tuple[Any, Any]]:
        return {p.id: (p.payload, p.vector) for p in client.scroll(collection, limit=100, with_vectors=True)[0]}

    try:
        client.create_collection(source, vectors_config={"a": dense(2), "b": dense(3)})
        client.create_collection(target, vectors_config={"new": dense(4), "b": dense(3)})
        recipes = (Recipe(field="new", kind="embed", source_field="a"), Recipe(field="b", kind="copy", source_field="b"))
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=target)}
        writer = snippet(recipes=recipes, **ends)["DualWriter"](client, counting)
        ids = [*range(1, 11), 2**64 - 1]
        vectors: Any = {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}
        writer.upsert([models.PointStruct(id=i, vector=vectors, payload={"text": f"text {i}", "n": i, "wide": 2**64 - 1}) for i in ids])
        assert len(embedded) == len(ids)
        writer.set_payload({"seen": 1}, ids)
        assert len(embedded) == len(ids), "another key of the payload costs no embedding"
        writer.set_payload({"c": 1}, [1], key="deep.b")
        writer.overwrite_payload({"text": "overwritten"}, [2])
        writer.clear_payload([3])
        writer.delete_payload(["text"], [4])
        writer.update_vectors([models.PointVectors(id=5, vector={"b": [3.0, 2.0, 1.0]})])
        writer.delete_vectors(["b"], [6])
        writer.set_payload({"n": 70, "text": "by a filter"}, models.Filter(must=[n_is(7)]))
        writer.delete(models.Filter(must=[n_is(8)]))
        with pytest.raises(UnexpectedResponse, match="404"):
            writer.set_payload({"text": "in part"}, [9, 10, 999])
        sources, targets = held(source), held(target)
    finally:
        client.close()
    assert {i: p for i, (p, _) in targets.items()} == {i: p for i, (p, _) in sources.items()}
    assert sources.keys() == set(ids) - {8}
    assert {i for i, (p, _) in sources.items() if (p or {}).get("text") == "in part"} == {9, 10}
    for i, (payload, held_vectors) in sources.items():
        words = (payload or {}).get("text")
        copied = {"b": held_vectors["b"]} if "b" in held_vectors else {}
        assert targets[i][1] == {**copied, **({"new": embed([words])[0]} if words else {})}, i


def test_an_id_in_another_spelling_is_the_same_point(server: QdrantServer, name: str) -> None:
    """LangChain gives UUIDs without hyphens, and Qdrant answers with them: what was just mirrored must not be taken for deleted."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    one, other = uuid.uuid4(), uuid.uuid4()
    try:
        for collection, size in ((source, 2), (target, 4)):
            client.create_collection(collection, vectors_config=dense(size))
        writer = snippet(source=Endpoint(collection=source), target=Endpoint(collection=target))["DualWriter"](client, embed)
        writer.upsert([models.PointStruct(id=i, vector=[1.0, 2.0], payload={"text": "abc"}) for i in (one.hex, other)])
        assert {p.id for p in client.retrieve(target, [str(one), str(other)])} == {str(one), str(other)}
        writer.delete([str(one).upper()])
        assert {p.id for p in client.scroll(target)[0]} == {str(other)}
    finally:
        client.close()


def test_the_client_for_frameworks_mirrors_every_kind_of_write_however_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the collection's name or its alias, with points, batches, ids, filters and selectors, by name and by position; other collections are left alone."""
    made = snippet(framework="langchain")
    client = made["DualWriteClient"](":memory:", embed_documents=embed)
    for collection, size in (("docs", 2), ("docs-new", 4), ("others", 2)):
        client.create_collection(collection, vectors_config=dense(size))
    alias = models.CreateAlias(collection_name="docs", alias_name="live")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])

    def point(number: int) -> models.PointStruct:
        return models.PointStruct(id=number, vector=[1.0, 2.0], payload={"text": f"text {number}", "n": number})

    def held() -> dict[Any, Any]:
        return {p.id: p.payload for p in client.scroll("docs-new", limit=100)[0]}

    client.upsert("live", [point(1), point(2)], False)
    client.upsert(
        collection_name="docs", points=models.Batch(ids=[3], vectors=[[1.0, 2.0]], payloads=[{"text": "text 3", "n": 3}]), wait=False
    )
    client.upload_points("live", (point(n) for n in range(4, 9)))
    client.upsert("others", [point(99)])
    assert set(held()) == set(range(1, 9))
    client.set_payload("live", {"seen": True}, points=models.Filter(must=[n_is(1)]))
    client.overwrite_payload("docs", {"text": "another"}, [2])
    client.delete_payload("docs", ["n"], points=models.PointIdsList(points=[3]))
    client.clear_payload("docs", points_selector=[4])
    client.delete("live", models.FilterSelector(filter=models.Filter(must=[n_is(5)])))
    client.delete(collection_name="docs", points_selector=[6])
    expected = {
        1: {"text": "text 1", "n": 1, "seen": True},
        2: {"text": "another"},
        3: {"text": "text 3"},
        4: {},
        7: point(7).payload,
        8: point(8).payload,
    }
    assert {i: payload or {} for i, payload in held().items()} == expected

    def refused(_: str) -> None:
        raise PermissionError("this key may not list aliases")

    monkeypatch.setattr(client, "get_collection_aliases", refused)
    client.upsert("live", [point(20)])
    client.upsert("docs", [point(21)])
    assert {20, 21} <= {p.id for p in client.scroll("docs", limit=100)[0]}
    assert set(held()) == {*expected, 21}


def test_the_frameworks_query_says_what_is_not_their_default() -> None:
    """Both stores refuse a collection whose distance is another than they were told."""
    vectors = {"vectors": {"size": 4, "distance": "Dot"}}
    assert "distance=models.Distance.DOT)" in query_snippet(migration(framework="langchain", create=vectors))
    assert "similarity='dot_product')" in query_snippet(migration(framework="haystack", create=vectors))
    assert "distance" not in query_snippet(migration(framework="langchain", create={"vectors": {"size": 4, "distance": "Cosine"}}))
    named = migration(framework="haystack", recipes=(Recipe(field="mine", kind="embed", source_field=""),))
    assert "client.query_points" in query_snippet(named), "Haystack's store reads fields of two names alone"


@pytest.mark.parametrize("kind", [ModelKind.SPARSE, ModelKind.MULTIVECTOR])
def test_the_frameworks_client_is_for_dense_vectors(kind: ModelKind) -> None:
    other = migration(framework="langchain", model=ModelSpec(name="m", kind=kind, dimensions=4))
    assert "DualWriteClient" not in dual_write_snippet(other)


def n_is(number: int) -> models.FieldCondition:
    return models.FieldCondition(key="n", match=models.MatchValue(value=number))


def test_points_without_a_text_are_left_out_where_that_is_the_policy(server: QdrantServer, name: str) -> None:
    client = QdrantClient(url=server.url, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    try:
        client.create_collection(source, vectors_config=dense(2))
        client.create_collection(target, vectors_config=dense(4))
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=target)}
        writer = snippet(on_missing_text="skip", **ends)["DualWriter"](client, embed)
        payloads = {1: {"text": "abc"}, 2: {"text": " "}, 3: {"text": "abcd"}}
        writer.upsert([models.PointStruct(id=i, vector=[1.0, 2.0], payload=p) for i, p in payloads.items()])
        writer.delete_payload(["text"], [3])
        found = {p.id for p in client.scroll(target)[0]}
    finally:
        client.close()
    assert found == {1}


@pytest.mark.parametrize("text_field", ["text", "{text}"])
def test_an_integer_that_grpc_reads_as_a_float_is_left_to_the_catch_up(server: QdrantServer, name: str, text_field: str) -> None:
    """The others of the same write are mirrored; nothing rounded is written."""
    rest = QdrantClient(url=server.url, check_compatibility=False)
    grpc = QdrantClient(url=server.url, grpc_port=server.grpc_port, prefer_grpc=True, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    try:
        rest.create_collection(source, vectors_config=dense(2))
        rest.create_collection(target, vectors_config=dense(4))
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=target)}
        writer = snippet(text_field=text_field, **ends)["DualWriter"](grpc, embed)
        payloads: dict[int, dict[str, Any]] = {1: {"text": "a", "deep": [{"wide": 2**63 + 5}]}, 2: {"text": "b", "n": 2**63 - 1}}
        rest.upsert(source, [models.PointStruct(id=i, vector=[1.0, 2.0], payload=p) for i, p in payloads.items()], wait=True)
        writer.set_payload({"seen": True}, [1, 2])
        found = {p.id: p.payload for p in rest.scroll(target)[0]}
    finally:
        rest.close()
        grpc.close()
    assert found == {2: {"text": "b", "n": 2**63 - 1, "seen": True}}


def test_with_a_texts_file_the_snippet_embeds_what_the_app_gives(server: QdrantServer, name: str) -> None:
    """By the record's id or payload; a record whose text the app does not know gets no new vector."""
    client = QdrantClient(url=server.url, check_compatibility=False)
    source, target = f"{name}-docs", f"{name}-new"
    kept: dict[Any, str | None] = {1: "abc", 2: None, 3: "  "}
    space: dict[str, Any] = {}
    try:
        client.create_collection(source, vectors_config=dense(2))
        client.create_collection(target, vectors_config=dense(4))
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=target)}
        exec(dual_write_snippet(migration(writes="dual_write", **ends), has_texts_file=True), space)  # noqa: S102 - what a person would paste
        writer = space["DualWriter"](client, embed, lambda record: kept[record.id])
        writer.upsert([models.PointStruct(id=i, vector=[1.0, 2.0], payload={"text": "not this", "n": i}) for i in kept])
        kept[1] = "abcdef"
        writer.set_payload({"n": 7}, [1])
        found = {p.id: p for p in client.retrieve(target, [1, 2, 3], with_vectors=True)}
    finally:
        client.close()
    assert {i: p.vector or None for i, p in found.items()} == {1: [6.0, 1.0, 0.0, 0.0], 2: None, 3: None}
    assert {i: (p.payload or {})["n"] for i, p in found.items()} == {1: 7, 2: 2, 3: 3}


def test_a_missing_target_or_a_failing_model_never_fails_the_apps_request(
    server: QdrantServer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = QdrantClient(url=server.url, check_compatibility=False)
    source = f"{name}-docs"

    def broken(texts: list[str]) -> list[list[float]]:
        raise RuntimeError("the provider is away")

    try:
        client.create_collection(source, vectors_config=dense(2))
        ends = {"source": Endpoint(collection=source), "target": Endpoint(collection=f"{name}-missing")}
        for model in (embed, broken):
            writer = snippet(**ends)["DualWriter"](client, model)
            writer.upsert([models.PointStruct(id=i, vector=[1.0, 2.0], payload={"text": "abc"}) for i in (1, 2)])
            writer.set_payload({"text": "edited"}, [1])
            writer.delete([2])
        (held,) = client.retrieve(source, [1, 2])
    finally:
        client.close()
    assert (held.id, held.payload) == (1, {"text": "edited"})
    assert {r.message for r in caplog.records if r.name == "dual_write"} == {"target not updated; the catch-up will"}
