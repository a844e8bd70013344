"""Is a collection with custom shard keys carried over, on a cluster of two peers, each point under its own key?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from tests.clusters import QdrantCluster
from tests.mcp.hosts import hosted
from tests.mcp.test_next_steps import Person
from tests.qdrant.seeds import NEW, OLD, opened
from tests.qdrant.sharded import SHARD_KEYS, backend_of, keys_by_id, seed_sharded, stored
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("strategy", ["new_collection", "side_by_side"])
async def test_each_point_keeps_its_key(cluster: QdrantCluster, name: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(cluster.first, name)
    async with opened(backend, monkeypatch) as context:
        await seed_sharded(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        new = await context.catalogue.load(NEW)
    before = stored(cluster.first, name)
    asked: dict[str, Any] = {
        "collection": name, "strategy": strategy, "model": NEW, "current_model": OLD, "text_field": "text", "vector": "text", "writes": "frozen",
    }  # fmt: skip
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    async with hosted(backend.environment) as host:
        ended = await person.follow(host, "create_target", asked, until_phase="finished")
        target = (await host.call("migration_status", migration_id=ended["migration_id"]))["target"]
    peer = cluster.peers[1]
    after = stored(peer, target)
    assert keys_by_id(after) == keys_by_id(before)
    field = "text" if strategy == "new_collection" else "hashing_128"
    for point, held in after.items():
        was = before[point]
        assert held["payload"] == was["payload"]
        kept = {f: v for f, v in was["vector"].items() if f != field}
        assert {f: v for f, v in held["vector"].items() if f != field} == kept
        wanted = (await new.embed([was["payload"]["text"]], Side.DOCUMENT))[0]
        np.testing.assert_allclose(held["vector"][field], wanted, atol=1e-5)
    info = rest(f"{peer.url}/collections/{target}/cluster")["result"]
    shards = [*info["local_shards"], *info["remote_shards"]]
    assert {s["state"] for s in shards} == {"Active"}
    assert len(shards) == sum(key["shards_number"] * key["replication_factor"] for key in SHARD_KEYS)


async def test_a_point_under_another_key_is_found_and_put_back(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app moved it: deleted under one key, written under another."""
    backend = backend_of(cluster.first, name)
    async with opened(backend, monkeypatch) as context:
        await seed_sharded(context, name, points=60)
    person = Person(agrees_to=set())
    asked = {"collection": name, "strategy": "new_collection", "model": NEW, "text_field": "text", "vector": "text", "writes": "frozen"}
    url = cluster.first.url
    async with hosted(backend.environment) as host:
        found = await person.follow(host, "create_target", asked, until_phase="backfilled")
        target = (await host.call("migration_status", migration_id=found["migration_id"]))["target"]
        held = stored(cluster.first, target)[0, "eu"]
        rest(f"{url}/collections/{target}/points/delete?wait=true", method="POST", body={"points": [0], "shard_key": "eu"})
        moved = {"points": [{"id": 0, "payload": held["payload"], "vector": held["vector"]}], "shard_key": "us"}
        rest(f"{url}/collections/{target}/points?wait=true", method="PUT", body=moved)
        verified = await host.whole("verify_target", migration_id=found["migration_id"])
        assert (verified["is_complete"], verified["changed"], verified["changed_samples"]) == (False, 1, ["i:0"])
        assert "under shard key 'us' instead of 'eu'" in verified["sample_reasons"]["i:0"]
        repaired = await host.whole("repair_target", migration_id=found["migration_id"])
    assert repaired["verification"]["is_complete"], repaired["summary"]
    assert keys_by_id(stored(cluster.first, target)) == keys_by_id(stored(cluster.first, name))


async def test_no_cluster_no_custom_keys(
    cluster: QdrantCluster, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is written: a single server creates such a collection, and then no key for it."""
    backend = backend_of(cluster.first, name)
    single = json.dumps({"single": {"url": server_1_17.url, "grpc_port": server_1_17.grpc_port}})
    async with opened(backend, monkeypatch) as context:
        await seed_sharded(context, name, points=9)
    async with hosted({**backend.environment, "QDRANT_MIGRATION_CONNECTIONS": single}) as host:
        refusal = await host.refused(
            "create_target",
            collection=name,
            strategy="new_collection",
            model=NEW,
            text_field="text",
            vector="text",
            target_connection="single",
        )
    assert "custom sharding" in refusal
    names = [c["name"] for c in rest(f"{server_1_17.url}/collections")["result"]["collections"]]
    assert not [n for n in names if n.startswith(name)]
