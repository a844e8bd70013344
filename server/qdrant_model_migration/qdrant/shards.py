"""Where do the points of a collection lie? Peers of a cluster, shard keys, replicas and their states; and how shard keys are created.

Custom sharding (seen on 1.17.0, REST and gRPC): every write names a shard key, or is refused; a read without one asks all of them.
One id may be stored under several keys. A count then counts each, a search returns each, but a scroll and a retrieval return one of them,
now this and now that: such a collection cannot be read in full without naming the keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from heapq import heappush, heapreplace

import anyio
from qdrant_client import models

from qdrant_model_migration.domain.collection import Collection, Json, Replica
from qdrant_model_migration.domain.points import PointId, ShardKey, order_key, tag
from qdrant_model_migration.errors import ConnectionFailed, NotFound, Refused, RequestRejected
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.client import Caller

ID_PAGE = 1000
SAMPLES = 3
LOOK_EVERY_S = 0.1


class Shards:
    """The shards of one Qdrant's collections."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    async def peers(self) -> int:
        """Servers of the cluster; 0 when cluster mode is off.

        Raises:
            AccessDenied: a key limited to some collections may not ask.
        """
        status = await self._call(self._call.rest.cluster_status)
        return len(status.peers) if isinstance(status, models.ClusterStatusOneOf1) else 0

    async def replicas(self, collection: str) -> list[Replica]:
        """Every replica of every shard, on whatever peer, by shard and peer.

        Raises:
            NotFound: no such collection, or the peer that answers has not heard of it yet.
        """
        return translate.replicas(await self._call(lambda: self._call.rest.collection_cluster_info(collection)))

    async def keys(self, collection: str) -> list[ShardKey]:
        """The shard keys of a collection; none without custom sharding."""
        listed = await self._call(lambda: self._call.rest.list_shard_keys(collection))
        return sorted((k.key for k in listed.shard_keys or []), key=translate.key_order)

    async def create_keys(self, collection: str, wanted: Sequence[Json]) -> None:
        """Create the shard keys that do not exist yet: {"key", "shards_number", "replication_factor"}; repeated, it changes nothing.

        More replicas than there are peers are accepted by Qdrant, and as many made as there are peers.
        """
        there = set(await self.keys(collection)) if wanted else set()
        for entry in wanted:
            if entry["key"] in there:
                continue
            try:
                await self._call(
                    lambda entry=entry: self._call.rest.create_shard_key(  # type: ignore[misc]
                        collection,
                        entry["key"],
                        shards_number=entry.get("shards_number"),
                        replication_factor=entry.get("replication_factor"),
                    )
                )
            except RequestRejected:
                # The answer of the first try was lost, or another process creates the same keys.
                if entry["key"] not in await self.keys(collection):
                    raise

    async def wait_until_active(self, collection: str, *, keys: Sequence[Json] = (), timeout_s: float = 30.0) -> None:
        """Wait until the peer that answers knows the new collection with all of `keys`, and every replica is active.

        Raises:
            ConnectionFailed: not in time; names the replicas that are not.
        """
        wanted, missing, found = {entry["key"] for entry in keys}, set[ShardKey](), list[Replica]()
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    found = await self.replicas(collection)
                except NotFound:
                    found = []
                missing = wanted - {r.key for r in found if r.key is not None}
                # A collection with custom sharding has no shard before its first key.
                if not missing and (found or not wanted) and all(r.is_active for r in found):
                    return
                await anyio.sleep(LOOK_EVERY_S)
        left = [r.label for r in found if not r.is_active] or [f"shard key {key!r} is missing" for key in missing] or ["it is unknown"]
        raise ConnectionFailed(
            f"Collection {collection!r} was not ready on all peers of the cluster within {timeout_s:.0f} s ({'; '.join(left[:5])}). "
            "See whether every peer runs, then try again."
        )

    async def check_single_keys(self, source: Collection) -> None:
        """Refuse a collection with an id under several shard keys. Reads every id once; nothing is asked when there is at most one key.

        Raises:
            Refused: names some of the ids and their keys.
        """
        repeated = await self.repeated(source.name, source.shard_keys, most=SAMPLES) if len(source.shard_keys) > 1 else {}
        if repeated:
            samples = "; ".join(f"{tag(i)} under {', '.join(map(repr, keys))}" for i, keys in repeated.items())
            raise Refused(
                f"Nothing was changed: {source.name!r} holds points of one id under several shard keys ({samples}). Qdrant's scroll returns only "
                "one of them, so the others would be lost. Give them ids of their own or delete the superfluous ones, then repeat."
            )

    async def repeated(self, collection: str, keys: Sequence[ShardKey], *, most: int) -> dict[PointId, list[ShardKey]]:
        """The first ids, at most `most`, that are stored under more than one of the keys, with these keys."""
        found: dict[PointId, list[ShardKey]] = {}
        heap: list[tuple[tuple[int, int], int, PointId]] = []
        streams = [self._ids(collection, key) for key in keys]
        for number, stream in enumerate(streams):
            if (first := await anext(stream, None)) is not None:
                heappush(heap, (order_key(first), number, first))
        last: tuple[PointId, ShardKey] | None = None
        while heap:
            _, number, point_id = heap[0]
            if last is not None and last[0] == point_id:
                found.setdefault(point_id, [last[1]]).append(keys[number])
            elif len(found) == most:
                break
            last = point_id, keys[number]
            after = await anext(streams[number], None)
            # A sentinel greater than every id takes the place of a key that is read to its end.
            heapreplace(heap, (order_key(after), number, after) if after is not None else (_END, number, 0))
            if heap[0][0] == _END:
                break
        return found

    async def _ids(self, collection: str, key: ShardKey) -> AsyncIterator[PointId]:
        offset: PointId | None = None
        while True:
            records, after = await self._call(
                lambda offset=offset: self._call.fast.scroll(  # type: ignore[misc]
                    collection, offset=offset, limit=ID_PAGE, with_payload=False, with_vectors=False, shard_key_selector=key
                )
            )
            for record in records:
                yield translate.point(record).id
            if after is None:
                return
            offset = translate.plain_id(after)


_END = (2, 0)
