"""Do the calls about collections and aliases tell the truth?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.errors import AlreadyExists, NotFound, RequestRejected, Unsupported
from qdrant_model_migration.qdrant.gateway import ServerFacts
from tests.conftest import Backend
from tests.qdrant.seeds import opened


def dense(size: int, distance: str, **more: Any) -> Json:
    return {"size": size, "distance": distance, **more}


async def test_an_alias_is_created_moved_and_read_back(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        for collection in (f"{name}-a", f"{name}-b"):
            await gateway.create_collection(collection, {"vectors": dense(4, "Dot")})
            await gateway.point_alias(f"{name}-live", collection)
            assert await gateway.resolve(f"{name}-live") == (collection, f"{name}-live")
            assert (await gateway.describe(collection)).aliases == (f"{name}-live",)
        assert (await gateway.describe(f"{name}-a")).aliases == ()
        assert await gateway.resolve(f"{name}-a") == (f"{name}-a", None)
        with pytest.raises(NotFound):
            await gateway.point_alias(f"{name}-live", f"{name}-missing")
        assert (await gateway.aliases())[f"{name}-live"] == f"{name}-b"
        with pytest.raises(NotFound, match=f"Did you mean.*{name}-live"):
            await gateway.resolve(f"{name}-lives")


async def test_a_collection_that_an_alias_points_to_is_not_deleted(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": dense(4, "Dot")})
        await gateway.point_alias(f"{name}-live", name)
        with pytest.raises(RequestRejected, match=f"alias '{name}-live' points to it"):
            await gateway.delete_collection(name)
        assert await gateway.exists(name)
        await gateway.delete_alias(f"{name}-live")
        await gateway.delete_collection(name)
        await gateway.delete_collection(name)
        assert not await gateway.exists(name)


async def test_a_name_that_is_taken_is_said_to_be(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": dense(4, "Dot")})
        with pytest.raises(AlreadyExists):
            await gateway.create_collection(name, {"vectors": dense(4, "Dot")})
        with pytest.raises(NotFound):
            await gateway.describe(f"{name}-missing")


async def test_later_writes_have_higher_numbers_than_the_watermark(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a late write is told from an earlier one; the embedded database numbers nothing."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": dense(4, "Dot"), "shard_number": 1})
        await gateway.points.write(name, [Point(id=i, payload={}, vectors={"": [1.0] * 4}) for i in (1, 2, 3)])
        mark = await gateway.points.watermark(name)
        if any_qdrant.is_embedded:
            assert mark is None
            return
        assert mark is not None
        await gateway.points.write(name, [Point(id=2, payload={"n": 1}, vectors={"": [1.0] * 4}), Point(id=9, payload={})])
        await gateway.call(lambda: gateway.call.rest.set_payload(name, {"late": True}, points=[3], wait=True))
        versions = await gateway.points.versions(name, [1, 2, 3, 9, 10])
        after = await gateway.points.watermark(name)
    assert after is not None
    assert versions[1] < mark < versions[2] < versions[3] < after
    assert versions[3] > versions[9] > mark
    assert set(versions) == {1, 2, 3, 9}


@pytest.mark.parametrize(
    ("version", "has", "has_not"),
    [
        ("1.15.3", "server_bm25", "update_filter"),
        ("1.15.4", "update_filter", "collection_metadata"),
        ("1.16.3", "collection_metadata", "update_mode"),
        ("1.17.0-dev", "update_mode", "create_vector_name"),
        ("1.18.0", "create_vector_name", None),
        ("2", "create_vector_name", None),
    ],
)
def test_features_are_gated_by_version(version: str, has: str, has_not: str | None) -> None:
    facts = ServerFacts(version=version, is_embedded=False)
    assert facts.can(has)
    assert has_not is None or not facts.can(has_not)


async def test_a_missing_feature_is_refused_with_both_versions(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.require("update_filter", "this")
        if any_qdrant.is_embedded:
            await gateway.require("create_vector_name", "this")
        else:
            with pytest.raises(Unsupported, match=r"this needs Qdrant 1\.18\.0 or later, and this server is 1\.1[67]"):
                await gateway.require("create_vector_name", "this")


async def test_an_idle_collection_is_ready(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": dense(4, "Dot")})
        assert await gateway.wait_until_ready(name, timeout_s=30, every_s=0.01)
        snapshot = await gateway.snapshot(name)
        assert (snapshot is None) is any_qdrant.is_embedded
