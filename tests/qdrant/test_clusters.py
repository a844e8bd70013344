"""Does every point keep its shard key, is nothing called ready before its replicas are, and does one contender win through every peer?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from qdrant_model_migration.domain.collection import Replica, config_differences, shard_key_config
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.records import Lease
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import ConnectionFailed, Refused, RequestRejected, Unsupported
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.inspect import inspect
from qdrant_model_migration.operations.sweep import has_numbers
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import Ledger
from tests.clusters import QdrantCluster
from tests.conftest import Backend, NewCluster
from tests.qdrant.seeds import opened
from tests.qdrant.sharded import KEYS, POINTS, SHARD_KEYS, backend_of, digests, id_of, key_of, keys_by_id, seed_sharded, stored

DENSE = {"d": {"size": 2, "distance": "Dot"}}


@pytest.fixture(params=["rest", "grpc"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each transport for the points, in turn."""
    monkeypatch.setenv("QDRANT_PREFER_GRPC", str(request.param == "grpc").lower())
    return str(request.param)


@asynccontextmanager
async def at_each(
    cluster: QdrantCluster, name: str, patch: pytest.MonkeyPatch, *, patience_s: float = 6.0
) -> AsyncIterator[list[OperationContext]]:
    """A context at every peer."""
    contexts: list[OperationContext] = []
    for peer in cluster.peers:
        for variable, value in backend_of(peer, name).environment.items():
            patch.setenv(variable, value)
        contexts.append(OperationContext(read_settings(), patience_s=patience_s))
    async with AsyncExitStack() as stack:
        for context in contexts:
            await stack.enter_async_context(context)
        yield contexts


def point(number: int, key: str | int | None, **payload: Any) -> Point:
    return Point(id=number, payload=payload, vectors={"d": [1.0, float(number)]}, shard_key=key)


async def make(gateway: Gateway, name: str, *keys: str | int) -> None:
    wanted = [{"key": key, "shards_number": 1, "replication_factor": 2} for key in keys]
    await gateway.create_collection(
        name, {"vectors": DENSE, "sharding_method": "custom", "shard_number": 1, "replication_factor": 2, "shard_keys": wanted}
    )


# --- what is read and recreated


async def test_shard_keys_are_described_so_that_they_can_be_recreated(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone is created through one peer and read through the other, at once."""
    async with at_each(cluster, name, monkeypatch) as (here, there):
        await seed_sharded(here, f"{name}-docs")
        source = await (await there.gateway()).describe(f"{name}-docs")
        assert source.shard_keys == (7, "eu", "us")
        assert list(source.shard_key_config) == SHARD_KEYS
        assert source.peers == 2
        assert len({r.peer for r in source.replicas}) == 2
        assert [r.shard for r in source.replicas] == sorted(2 * [1, 2, 3, 4])
        params = source.config["params"]
        create = {
            key: params[key]
            for key in ("vectors", "sparse_vectors", "shard_number", "sharding_method", "replication_factor", "on_disk_payload")
        }
        await (await there.gateway()).create_collection(f"{name}-new", {**create, "shard_keys": list(source.shard_key_config)})
        target = await (await here.gateway()).describe(f"{name}-new")
        assert target.shard_key_config == source.shard_key_config
        differences = config_differences(source, target, {"payload_indexes": "not created here"})
        assert [d.path for d in differences if not d.is_intended] == []


async def test_a_lost_or_smaller_shard_key_is_a_difference_of_the_configuration(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, f"{name}-a", "eu", 7)
        await make(gateway, f"{name}-b", 7)
        await gateway.shards.create_keys(f"{name}-b", [{"key": "7", "shards_number": 1, "replication_factor": 1}])
        a, b = await gateway.describe(f"{name}-a"), await gateway.describe(f"{name}-b")
        paths = {d.path for d in config_differences(a, b, {})}
    assert paths == {f"shard_keys.{key}.{setting}" for key in ("'eu'", "'7'") for setting in ("shards_number", "replication_factor")}


async def test_creating_keys_again_adds_the_missing_ones_only(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a creation that died half-way is taken up again."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, name, "eu")
        await gateway.points.write(name, [point(1, "eu")])
        await gateway.create_shard_keys(name, SHARD_KEYS)
        found = await gateway.describe(name)
        assert found.shard_keys == (7, "eu", "us")
        assert await gateway.points.count(name) == 1


async def test_more_replicas_than_peers_become_as_many_as_there_are_peers(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, name)
        await gateway.create_shard_keys(name, [{"key": "eu", "shards_number": 1, "replication_factor": 5}])
        assert (await gateway.describe(name)).shard_key_config == ({"key": "eu", "shards_number": 1, "replication_factor": 2},)


async def test_a_key_that_cannot_be_created_leaves_no_collection(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        with pytest.raises(RequestRejected):
            await gateway.create_collection(name, {"vectors": DENSE, "shard_keys": [{"key": "eu"}]})
        assert not await gateway.exists(name)


async def test_custom_sharding_is_refused_where_there_is_no_cluster(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single server would create the collection, and then no key for it."""
    what = "the embedded database" if any_qdrant.is_embedded else r"a single server \(1\..*its cluster mode is off\)"
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        with pytest.raises(Unsupported, match=rf"Nothing was created: '{name}' uses custom sharding.*connection 'default' is {what}"):
            await make(gateway, name, "eu")
        assert not await gateway.exists(name)
        assert not (await gateway.facts()).is_cluster
        await gateway.create_collection(name, {"vectors": DENSE})
        found = await gateway.describe(name)
        assert (found.peers, found.replicas, found.shard_key_config) == (1, (), ())


def test_a_copy_on_its_way_is_not_counted_and_a_dead_one_is() -> None:
    replicas = [
        Replica(shard=1, key="a", peer=1, state="Active"),
        Replica(shard=1, key="a", peer=2, state="Dead"),
        Replica(shard=1, key="a", peer=3, state="Partial", is_arriving=True),
        Replica(shard=2, key="a", peer=1, state="Active"),
        Replica(shard=3, key=7, peer=1, state="Active"),
    ]
    assert shard_key_config(["a", 7, "7"], replicas) == (
        {"key": "a", "shards_number": 2, "replication_factor": 2},
        {"key": 7, "shards_number": 1, "replication_factor": 1},
        {"key": "7"},
    )


# --- points


@pytest.mark.usefixtures("transport")
async def test_every_point_is_written_to_its_own_key_with_all_its_vectors(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read through one peer without a key, written through the other: the same under each key, by raw REST."""
    async with at_each(cluster, name, monkeypatch) as (here, there):
        await seed_sharded(here, f"{name}-docs")
        before = stored(cluster.peers[0], f"{name}-docs")
        assert len(before) == POINTS
        assert keys_by_id(before) == {id_of(n): key_of(n) for n in range(POINTS)}
        source, target = await here.gateway(), await there.gateway()
        found = await source.describe(f"{name}-docs")
        create = {key: found.config["params"][key] for key in ("vectors", "sparse_vectors", "sharding_method", "replication_factor")}
        await target.create_collection(f"{name}-new", {**create, "shard_keys": list(found.shard_key_config)})
        offset, number, operations = None, 0, set[int | None]()
        while True:
            page, offset = await source.points.scroll(f"{name}-docs", offset=offset, limit=70, vectors=["text", "title", "words"])
            # Half of the pages by each guard, and one of them twice.
            for _ in range(2 if number == 0 else 1):
                operations.add(await target.points.insert(f"{name}-new", page, by_mode=number % 2 == 0))
            number += 1
            if offset is None:
                break
    assert operations == {None}
    assert digests(stored(cluster.peers[1], f"{name}-new")) == digests(before)


@pytest.mark.usefixtures("transport")
async def test_without_its_key_nothing_is_written_or_deleted(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code relies on: Qdrant refuses, rather than to put a point somewhere."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, name, "eu", "us")
        await gateway.points.write(name, [point(1, "eu")])
        client = gateway.call.fast
        ids = models.PointIdsList(points=[1])
        rows = [models.PointVectors(id=1, vector={"d": [9.0, 9.0]})]
        writes: list[Callable[[], Any]] = [
            lambda: gateway.points.write(name, [point(2, None)]),
            lambda: gateway.points.insert(name, [point(2, None)]),
            lambda: gateway.call(lambda: client.delete(name, ids, wait=True)),
            lambda: gateway.call(lambda: client.delete(name, models.FilterSelector(filter=models.Filter(must=[])), wait=True)),
            lambda: gateway.call(lambda: client.update_vectors(name, rows, wait=True)),
            lambda: gateway.call(lambda: client.set_payload(name, {"a": 1}, points=[1], wait=True)),
        ]
        for write in writes:
            with pytest.raises(RequestRejected, match="Shard key not specified"):
                await write()
        with pytest.raises(RequestRejected, match='Shard key "asia" not found'):
            await gateway.points.write(name, [point(2, "asia")])
        found, _ = await gateway.points.scroll(name, offset=None, limit=9, vectors=["d"])
        assert found == [point(1, "eu")]


@pytest.mark.usefixtures("transport")
async def test_an_existing_point_is_kept_by_both_guards_under_its_key(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, there):
        gateway = await here.gateway()
        await make(gateway, name, "eu", 7, "7")
        await gateway.points.write(name, [point(1, "eu", by="app"), point(2, 7, by="app"), point(3, "7", by="app")])
        for by_mode in (True, False):
            await (await there.gateway()).points.insert(name, [point(n, key, by="us") for n, key in ((1, "eu"), (2, 7), (3, "7"))])
            await gateway.points.insert(name, [point(4 + by_mode, 7, by="us"), point(2, 7, by="us")], by_mode=by_mode)
    found = stored(cluster.first, name, ("eu", 7, "7"))
    assert {key: p["payload"]["by"] for key, p in found.items()} == {
        (1, "eu"): "app",
        (2, 7): "app",
        (3, "7"): "app",
        (4, 7): "us",
        (5, 7): "us",
    }


@pytest.mark.usefixtures("transport")
async def test_points_are_replaced_and_deleted_under_their_keys(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key, or without it, when it is looked up; never when the payload is another than observed."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        points = gateway.points
        await make(gateway, name, "eu", "us")
        await points.write(name, [point(n, ("eu", "us")[n % 2], v=0) for n in range(1, 7)])
        uuid = id_of(4)
        await points.write(name, [Point(id=uuid, payload={"v": 0}, shard_key="us")])
        await points.replace(name, point(1, "us", v=1), observed={"v": 0})
        await points.replace(name, point(2, "eu", v=1), observed={"v": 7})
        await points.delete_if(name, 3, observed={"v": 0}, shard_key="us")
        await points.delete_if(name, 4, observed={"v": 0})
        await points.delete_if(name, 5, observed={"v": 7}, shard_key="us")
        await points.delete_if(name, 6, observed={"v": 7})
        await points.delete_if(name, uuid, observed={"v": 0})
    found = stored(cluster.first, name, ("eu", "us"))
    assert {key: p["payload"]["v"] for key, p in found.items()} == {(1, "us"): 1, (2, "eu"): 0, (5, "us"): 0, (6, "eu"): 0}


@pytest.mark.usefixtures("transport")
async def test_fields_are_filled_under_the_keys_of_the_points(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`update_vectors` with `must_not has_vector`: insert-only within each key; and taken away again."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, name, "eu", 7)
        bare = [Point(id=n, payload={}, shard_key=("eu", 7)[n % 2]) for n in range(4)]
        await gateway.points.write(name, [*bare[:2], point(2, "eu"), point(3, 7), Point(id=4, payload={}, shard_key=7)])
        assert await gateway.vectors.count_missing(name, "d") == 3
        missing, _ = await gateway.vectors.missing(name, "d", offset=None, limit=9)
        assert [(p.id, p.shard_key) for p in missing] == [(0, "eu"), (1, 7), (4, 7)]
        await gateway.vectors.fill(name, "d", [Point(id=p.id, payload={}, vectors={"d": [8.0, 8.0]}, shard_key=p.shard_key) for p in bare])
        await gateway.vectors.refill(name, Point(id=1, payload={}, vectors={"d": [9.0, 9.0]}, shard_key=7), observed={})
        await gateway.vectors.remove(name, "d", bare[0])
    found = stored(cluster.first, name, ("eu", 7))
    assert {i: p["vector"].get("d") for (i, _), p in found.items()} == {0: None, 1: [9, 9], 2: [1, 2], 3: [1, 3], 4: None}


@pytest.mark.usefixtures("transport")
async def test_an_id_under_several_keys_is_hidden_by_a_scroll_and_refused(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, name, "eu", "us", 7)
        await gateway.points.write(name, [point(n, ("eu", "us")[n % 2]) for n in range(2500)])
        await gateway.shards.check_single_keys(await gateway.describe(name))
        uuid = id_of(4)
        await gateway.points.write(name, [point(1, "eu"), point(2499, 7), *(Point(id=uuid, payload={}, shard_key=k) for k in KEYS)])
        found = await gateway.describe(name)
        ids, _ = await gateway.points.ids(name, offset=None, limit=3000)
        # Four points more than ids: this is what a scroll without keys would lose.
        assert (len(ids), await gateway.points.count(name)) == (2501, 2505)
        repeated = await gateway.shards.repeated(name, found.shard_keys, most=10)
        assert {i: set(keys) for i, keys in repeated.items()} == {1: {"us", "eu"}, 2499: {"us", 7}, uuid: {"eu", "us", 7}}
        assert list(await gateway.shards.repeated(name, found.shard_keys, most=1)) == [1]
        with pytest.raises(
            Refused, match=r"Nothing was changed: .* under several shard keys \(i:1 under '(eu|us)', '(eu|us)'; i:2499 under"
        ):
            await gateway.shards.check_single_keys(found)


# --- numbers, readiness


async def test_operations_have_numbers_on_a_single_server_only(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A custom key has one shard here, and an ordinary collection one shard and one copy: neither is numbered for good."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await make(gateway, f"{name}-custom", "eu", "us")
        await gateway.create_collection(f"{name}-one", {"vectors": DENSE, "shard_number": 1, "replication_factor": 1})
        assert not has_numbers(await gateway.describe(f"{name}-custom"))
        assert not has_numbers(await gateway.describe(f"{name}-one"))
        assert await gateway.points.watermark(f"{name}-custom") is None
        await make(gateway, f"{name}-bare")
        assert await gateway.points.watermark(f"{name}-bare") is None


async def test_a_shard_that_moves_to_another_peer_is_numbered_anew(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a cluster has no numbers: after the move a point's number is below the mark that it was above."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await gateway.create_collection(name, {"vectors": DENSE, "shard_number": 1, "replication_factor": 1})
        for n in range(10):
            await gateway.points.write(name, [point(n, None)])
        mark = await gateway.points.watermark(name)
        await gateway.points.write(name, [point(1, None, late=True)])
        assert mark is not None
        assert (await gateway.points.versions(name, [1]))[1] > mark
        (replica,) = await gateway.replicas(name)
        status = await gateway.call.rest.cluster_status()
        assert isinstance(status, models.ClusterStatusOneOf1)
        (other,) = {int(peer) for peer in status.peers} - {replica.peer}
        move = models.MoveShard(shard_id=0, from_peer_id=replica.peer, to_peer_id=other, method=models.ShardTransferMethod.STREAM_RECORDS)
        await gateway.call.rest.cluster_collection_update(name, models.MoveShardOperation(move_shard=move))
        left: list[tuple[int, str]] = []
        for _ in range(300):
            # For a moment the old copy is still there beside the new one.
            if (left := [(r.peer, r.state) for r in await gateway.replicas(name)]) == [(other, "Active")]:
                break
            await anyio.sleep(0.1)
        assert left == [(other, "Active")]
        assert (await gateway.points.versions(name, [1]))[1] < mark


async def test_nothing_is_ready_before_every_replica_is_active(new_cluster: NewCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica is dead as soon as a write missed it; its peer is started again and brings it up to date."""
    cluster = new_cluster(peers=3)
    async with at_each(cluster, name, monkeypatch) as (here, *_):
        gateway = await here.gateway()
        wanted = [{"key": "eu", "shards_number": 1, "replication_factor": 3}]
        await gateway.create_collection(name, {"vectors": DENSE, "sharding_method": "custom", "shard_keys": wanted})
        await gateway.points.write(name, [point(1, "eu")])
        assert await gateway.wait_until_ready(name, timeout_s=20, every_s=0.05)
        assert [(r.shard, r.key, r.state) for r in await gateway.replicas(name)] == 3 * [(1, "eu", "Active")]
        cluster.peers[2].kill()
        await gateway.points.write(name, [point(2, "eu")])
        assert not await gateway.wait_until_ready(name, timeout_s=1, every_s=0.05)
        with pytest.raises(ConnectionFailed, match=r"was not ready on all peers of the cluster within 0 s \(shard 1 on peer \d+: Dead\)"):
            await gateway.shards.wait_until_active(name, timeout_s=0.3)
        with pytest.raises(ConnectionFailed, match=r"shard key 'us' is missing|: Dead"):
            await gateway.shards.wait_until_active(name, keys=[{"key": "us"}], timeout_s=0.3)
        assert (await gateway.describe(name)).shard_key_config == tuple(wanted)
        result = await inspect(here, collection=name)
        assert any(w.startswith("1 of 3 replicas are not active (shard 1 on peer") for w in result.warnings)
        cluster.peers[2].start()
        assert await gateway.wait_until_ready(name, timeout_s=60, every_s=0.1)
    assert {i for i, _ in stored(cluster.peers[2], name, ("eu",))} == {1, 2}


async def test_grey_is_woken_in_every_shard(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A no-op by id reaches one shard; the one that wakes reaches all, with and without shard keys."""
    async with at_each(cluster, name, monkeypatch) as (here, _):
        gateway = await here.gateway()
        await gateway.create_collection(f"{name}-auto", {"vectors": DENSE, "shard_number": 2, "replication_factor": 1})
        await make(gateway, f"{name}-custom", "eu", "us")
        for collection, keys in ((f"{name}-auto", (None, None)), (f"{name}-custom", ("eu", "us"))):
            await gateway.points.write(collection, [point(n, keys[n % 2]) for n in range(40)])
            before = await gateway.points.versions(collection, range(40))
            for _ in range(5):
                await gateway.points.wake(collection)
            await gateway.points.write(collection, [point(n, keys[n % 2]) for n in range(40)])
            after = await gateway.points.versions(collection, range(40))
            assert all(after[n] >= before[n] + 6 for n in range(40))
            assert await gateway.points.count(collection) == 40


async def test_inspection_tells_the_keys(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, _):
        await seed_sharded(here, f"{name}-docs", points=30)
        result = await inspect(here, collection=f"{name}-docs")
    assert result.collection is not None
    assert (result.collection.shards, result.collection.replication_factor) == (4, 2)
    (told,) = [w for w in result.warnings if w.startswith("Custom sharding")]
    assert told.startswith(
        "Custom sharding: 3 shard keys («7»: 1 shard x 2 replicas; «'eu'»: 2 shards x 2 replicas; «'us'»: 1 shard x 2 replicas)."
    )


# --- the ledger


async def test_the_ledger_of_a_cluster_is_one_shard_of_several_replicas(
    cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_each(cluster, name, monkeypatch) as (here, there):
        ledger = await here.ledger()
        await ledger.create()
        await (await there.ledger()).create()
        found = await (await here.gateway()).describe(ledger.collection)
    assert [(r.shard, r.state) for r in found.replicas] == [(0, "Active"), (0, "Active")]
    params = found.config["params"]
    assert (params["shard_number"], params["replication_factor"], params["write_consistency_factor"]) == (1, 2, 2)


async def test_of_fifty_contenders_through_both_peers_one_wins(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_each(cluster, name, monkeypatch) as contexts:
        ledgers = [await context.ledger() for context in contexts]
        await ledgers[0].create()
        for revision in range(6):
            won: list[int] = []

            async def contend(number: int, revision: int = revision, won: list[int] = won) -> None:
                if await ledgers[number % 2].set_lease("m-1", revision, Lease(owner=f"driver {number}")):
                    won.append(number)

            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(contend, number)
            assert len(won) == 1
            for ledger in ledgers:
                assert await ledger.lease("m-1") == (revision + 1, Lease(owner=f"driver {won[0]}"))


async def test_changes_through_both_peers_are_all_kept(cluster: QdrantCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with at_each(cluster, name, monkeypatch) as contexts:
        ledgers = [await context.ledger() for context in contexts]
        await ledgers[0].create()
        await ledgers[0].set_lease("m-1", 0, Lease(beat=0))

        def beat(lease: Lease) -> Lease:
            return lease.model_copy(update={"beat": lease.beat + 1})

        async def change(number: int) -> None:
            for _ in range(5):
                await ledgers[number % 2].records.change("lease", "m-1", "", Lease, beat)

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(change, number)
        assert [(await ledger.lease("m-1"))[1].beat for ledger in ledgers] == [20, 20]


async def until_all_agree(ledger: Ledger, revision: int | None = None) -> int:
    """Wait until all replicas show the same lease (of `revision`), none of them dead: a peer that was started again has caught up."""
    for _ in range(600):
        with suppress(UnexpectedResponse):
            found = await ledger.gateway.call.rest.retrieve(
                ledger.collection, [ledger.records.point_id("lease", "m-1", "")], consistency=models.ReadConsistencyType.ALL
            )
            if found and found[0].payload and revision in (None, found[0].payload["revision"]):
                return int(found[0].payload["revision"])
        await anyio.sleep(0.1)
    pytest.fail(f"the replicas of the ledger did not agree: {await ledger.gateway.replicas(ledger.collection)}")


async def test_the_ledger_of_three_peers_goes_on_without_any_one_of_them(
    new_cluster: NewCluster, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without the peer that `strong` writes rest on, the one with the highest id."""
    cluster = new_cluster(peers=3)
    async with at_each(cluster, name, monkeypatch) as contexts:
        ledgers = [await context.ledger() for context in contexts]
        await ledgers[0].create()
        ids = [cluster.peer_id(peer) for peer in cluster.peers]
        revision = 0
        for down in (ids.index(max(ids)), ids.index(min(ids))):
            cluster.peers[down].kill()
            for number, ledger in enumerate(ledgers):
                if number != down:
                    assert await ledger.set_lease("m-1", revision, Lease(owner=f"driver {revision}"))
                    assert not await ledger.set_lease("m-1", revision, Lease(owner="late"))
                    revision += 1
            cluster.peers[down].start()
            for ledger in ledgers:
                await until_all_agree(ledger, revision)
        assert [await ledger.lease("m-1") for ledger in ledgers] == 3 * [(4, Lease(owner="driver 3"))]


async def test_a_replica_that_is_behind_lets_nobody_win_twice(new_cluster: NewCluster, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one of two peers down nobody wins; when it is back, and may show old records for a moment, still one wins at a time."""
    cluster = new_cluster(peers=2)
    async with at_each(cluster, name, monkeypatch, patience_s=0.5) as contexts:
        ledgers = [await context.ledger() for context in contexts]
        await ledgers[0].create()
        assert await ledgers[0].set_lease("m-1", 0, Lease(owner="first"))
        won: list[int] = []

        async def contend(number: int) -> None:
            ledger = ledgers[number % 2]
            try:
                revision, _ = await ledger.lease("m-1")
                if await ledger.set_lease("m-1", revision, Lease(owner=f"driver {number}")):
                    won.append(revision)
            except ConnectionFailed:
                pass

        for down in (1, 0, 1):
            cluster.peers[down].kill()
            revision, _ = await ledgers[1 - down].lease("m-1")
            with pytest.raises(ConnectionFailed):
                await ledgers[1 - down].set_lease("m-1", revision, Lease(owner="alone"))
            cluster.peers[down].start()
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(contend, number)
        assert len(won) == len(set(won))
        revision = await until_all_agree(ledgers[0])
        assert await until_all_agree(ledgers[1]) == revision
        assert await ledgers[1].set_lease("m-1", revision, Lease(owner="last"))
        assert [await ledger.lease("m-1") for ledger in ledgers] == 2 * [(revision + 1, Lease(owner="last"))]
