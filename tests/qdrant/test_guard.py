"""Is a write kept from what somebody else wrote meanwhile? The insert-only guard, and the guard of observed values."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.probe import leftovers, prove_guard, prove_rights
from tests.conftest import Backend, NewServer
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer

BASE: Payload = {"text": "as it was", "n": 1, "f": 0.5, "flag": False, "nothing": None, "my key": "a/b", "tags": ["x"]}

EDITS: dict[str, Payload] = {
    "text": {**BASE, "text": "edited"},
    "integer": {**BASE, "n": 2},
    "float upwards": {**BASE, "f": 0.75},
    "float downwards": {**BASE, "f": 0.25},
    "boolean": {**BASE, "flag": True},
    "null filled": {**BASE, "nothing": "something"},
    "a key with a space": {**BASE, "my key": "c"},
    "text removed": {k: v for k, v in BASE.items() if k != "text"},
    "float removed": {k: v for k, v in BASE.items() if k != "f"},
    "a key that was absent": {**BASE, "added": 1, "a:b": "x"},
}
"""What an app does between the look and the write."""

WANTED: Payload = {"text": "ours", "n": 5, "f": 2.5, "flag": None, "nothing": 1, "my key": "ours", "added": "ours", "a:b": 1, "a.b": [1]}
"""Differs from BASE in every scalar."""


async def payload_only(gateway: Gateway, name: str, *points: Point) -> None:
    await gateway.create_collection(name, {"vectors": {}})
    await gateway.points.write(name, points)


async def payload_of(gateway: Gateway, name: str, number: int = 1) -> Payload | None:
    found = (await gateway.points.retrieve(name, [number])).get(number)
    return None if found is None else found.payload


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
@pytest.mark.parametrize("by_mode", [False, True], ids=["filter", "mode"])
async def test_an_insert_leaves_existing_points_alone(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, by_mode: bool, prefer_grpc: str
) -> None:
    """By the filter everywhere; by the mode only where the server honours it, and 1.16 is known not to."""
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        if by_mode and not (await gateway.facts()).can("update_mode"):
            return
        await payload_only(gateway, name, Point(id=1, payload={"by": "app"}))
        await gateway.points.insert(name, [Point(id=i, payload={"by": "us"}) for i in (1, 2)], by_mode=by_mode)
        assert await payload_of(gateway, name, 1) == {"by": "app"}
        assert await payload_of(gateway, name, 2) == {"by": "us"}


async def test_an_insert_leaves_existing_vectors_alone(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"a": {"size": 2, "distance": "Dot"}, "b": {"size": 2, "distance": "Dot"}}})
        await gateway.points.write(name, [Point(id=1, payload={}, vectors={"a": [1.0, 2.0]})])
        await gateway.points.insert(name, [Point(id=1, payload={"by": "us"}, vectors={"b": [3.0, 4.0]})])
        found = (await gateway.points.retrieve(name, [1], vectors=["a", "b"]))[1]
    assert (found.payload, found.vectors) == ({}, {"a": [1.0, 2.0]})


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_the_canary_finds_the_guard_that_holds_and_leaves_nothing(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        before = set(await gateway.collections())
        assert await prove_guard(gateway) is (any_qdrant.version != "1.16.3")
        await prove_rights(gateway, context.settings.ledger)
        assert not {n for n in await leftovers(gateway) if n not in before}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_was_edited_meanwhile_is_not_overwritten(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, edit: str
) -> None:
    """Everything that we would change is observed, so that an edit of any of it stops the write."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await payload_only(gateway, name, Point(id=1, payload=EDITS[edit]))
        await gateway.points.replace(name, Point(id=1, payload=WANTED), observed=BASE)
        assert await payload_of(gateway, name) == EDITS[edit]


@pytest.mark.parametrize("edit", [e for e in EDITS if e != "a key that was absent"])
async def test_what_was_edited_meanwhile_is_not_deleted(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await payload_only(gateway, name, Point(id=1, payload=EDITS[edit]))
        await gateway.points.delete_if(name, 1, observed=BASE)
        assert await payload_of(gateway, name) == EDITS[edit]


@pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])
async def test_what_is_as_observed_is_overwritten_and_deleted(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    """Also with keys that a filter must quote or cannot name, and with values that no filter can compare."""
    observed: Payload = {
        **BASE,
        'quo"te': 1,
        "back\\slash": 2,
        "a[0]": 3,
        "a.b": 4,
        "": 5,
        "größe": 6,
        "wide": 2**64 - 1,
        "deep": {"f": 1.5},
    }
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        await payload_only(gateway, name, Point(id=1, payload=observed), Point(id=2, payload=observed))
        await gateway.points.replace(name, Point(id=1, payload=WANTED), observed=observed)
        await gateway.points.delete_if(name, 2, observed=observed)
        assert await payload_of(gateway, name, 1) == WANTED
        assert await payload_of(gateway, name, 2) is None


async def test_an_index_of_another_type_does_not_hinder_the_write(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An integer index holds no floats: a guard that asked it for equality would never let the write through."""
    values: list[Any] = ["some words", 7, 7.5, 8.0, True, None, "2024-01-01T00:00:00Z"]
    fields = ["keyword", "integer", "float", "bool", "datetime", "text", "uuid", "geo"]
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {}})
        for field in fields:
            await gateway.create_payload_index(name, field, {"data_type": field})
        points: dict[PointId, Payload] = {i: {field: value} for i, (field, value) in enumerate(itertools.product(fields, values))}
        await gateway.points.write(name, [Point(id=i, payload=payload) for i, payload in points.items()])
        for i, payload in points.items():
            await gateway.points.replace(name, Point(id=i, payload=dict.fromkeys(payload, "ours")), observed=payload)
        found = await gateway.points.retrieve(name, list(points))
        hindered = [points[i] for i, point in found.items() if set(point.payload.values()) != {"ours"}]
    assert hindered == []


STRICT = {
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__ENABLED": "true",
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__UNINDEXED_FILTERING_RETRIEVE": "false",
    "QDRANT__STORAGE__COLLECTION__STRICT_MODE__UNINDEXED_FILTERING_UPDATE": "false",
}
"""What Qdrant Cloud gives to every new collection."""


@pytest.mark.parametrize("version", ["1.16.3", "1.17.0"])
async def test_strict_mode_that_refuses_the_guard_neither_hinders_nor_overwrites(
    new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Without the index that the conditions need, the point is looked at right before the write."""
    for variable, value in new_server(version, settings=STRICT).environment.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings()) as context:
        gateway = await context.gateway()
        points = [Point(id=1, payload=BASE), Point(id=2, payload=EDITS["float upwards"]), Point(id=3, payload=BASE)]
        await payload_only(gateway, name, *points, Point(id=4, payload=EDITS["text"]))
        for number in (1, 2):
            await gateway.points.replace(name, Point(id=number, payload=WANTED), observed=BASE)
        for number in (3, 4):
            await gateway.points.delete_if(name, number, observed=BASE)
        found = [await payload_of(gateway, name, number) for number in (1, 2, 3, 4)]
    assert found == [WANTED, EDITS["float upwards"], None, EDITS["text"]]


async def test_of_many_writes_at_once_each_has_its_own_guard_and_number(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the points are no longer as observed: they stay, the others are overwritten or deleted, by either kind of id."""
    ids: list[PointId] = [*range(1, 9), *(f"00000000-0000-4000-8000-{i:012d}" for i in range(8))]
    as_seen, edited = ids[::2], ids[1::2]
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        vectors = {"": [1.0, 0.0]}
        await gateway.create_collection(name, {"vectors": {"size": 2, "distance": "Dot"}})
        await gateway.points.write(name, [Point(id=i, payload=BASE, vectors=vectors) for i in as_seen])
        await gateway.points.write(name, [Point(id=i, payload=EDITS["integer"], vectors=vectors) for i in edited])
        before = {} if any_qdrant.is_embedded else await gateway.points.versions(name, ids)
        numbers = await gateway.points.replace_all(name, [(Point(id=i, payload=WANTED, vectors=vectors), BASE) for i in ids])
        assert {i: p.payload for i, p in (await gateway.points.retrieve(name, ids)).items()} == {
            **dict.fromkeys(as_seen, WANTED),
            **dict.fromkeys(edited, EDITS["integer"]),
        }
        if not any_qdrant.is_embedded:
            after = await gateway.points.versions(name, ids)
            assert {i: after[i] for i in as_seen} == {i: numbers[i] for i in as_seen}
            assert {i: after[i] for i in edited} == {i: before[i] for i in edited}
        await gateway.points.delete_all_if(name, [Point(id=i, payload=WANTED) for i in ids])
        assert (await gateway.points.retrieve(name, ids)).keys() == set(edited)


async def test_deletes_whose_guards_strict_mode_refuses_are_looked_at_one_by_one(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in server.environment.items():
        monkeypatch.setenv(variable, value)
    async with OperationContext(read_settings()) as context:
        gateway = await context.gateway()
        await payload_only(gateway, name, *(Point(id=i, payload={"a": i}) for i in (1, 2, 3)))
        await gateway.update(name, {"strict_mode": {"enabled": True, "unindexed_filtering_update": False}})
        await gateway.points.delete_all_if(name, [Point(id=i, payload={"a": i if i != 2 else "older"}) for i in (1, 2, 3)])
        assert {i: await payload_of(gateway, name, i) for i in (1, 2, 3)} == {1: None, 2: {"a": 2}, 3: None}
