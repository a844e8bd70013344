"""A collection with custom sharding on a cluster, and what it holds, read by raw REST."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import Payload, Point, PointId, ShardKey, payload_digest
from qdrant_model_migration.operations.context import OperationContext
from tests.conftest import Backend
from tests.qdrant.seeds import OLD, text
from tests.servers import QdrantServer, request

KEYS: tuple[ShardKey, ...] = ("eu", "us", 7)
POINTS = 300
SHARD_KEYS: list[dict[str, Any]] = [
    {"key": 7, "shards_number": 1, "replication_factor": 2},
    {"key": "eu", "shards_number": 2, "replication_factor": 2},
    {"key": "us", "shards_number": 1, "replication_factor": 2},
]
"""As `Collection.shard_key_config` gives them. One key has more shards than the collection's own number says."""


def backend_of(peer: QdrantServer, name: str) -> Backend:
    """A peer as a user configures it, with a ledger of the test's own."""
    ledger = {"QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name=f"peer of {peer.version}", environment={**peer.environment, **ledger}, version=peer.version)


def key_of(number: int) -> ShardKey:
    return KEYS[number % len(KEYS)]


def id_of(number: int) -> PointId:
    """Integers, and a UUID for every fifth."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))) if number % 5 == 4 else number


async def seed_sharded(
    context: OperationContext,
    name: str,
    *,
    points: int = POINTS,
    model: str = OLD,
    payload: Callable[[int], Payload] = lambda n: {"text": text(n), "n": n, "tenant": str(key_of(n))},
    connection: str | None = None,
) -> None:
    """Three keys in two replicas: `text` holds what `model` makes of the payload's text, `title` noise, `words` is sparse (every seventh without)."""
    gateway = await context.gateway(connection)
    embedder = await context.catalogue.load(model)
    fields = {"text": {"size": embedder.spec.dimensions, "distance": "Cosine"}, "title": {"size": 8, "distance": "Dot"}}
    await gateway.create_collection(
        name,
        {
            "vectors": fields,
            "sparse_vectors": {"words": {"modifier": "idf"}},
            "sharding_method": "custom",
            "shard_number": 1,
            "replication_factor": 2,
            "shard_keys": SHARD_KEYS,
        },
    )
    await gateway.create_payload_index(name, "tenant", {"data_type": "keyword"})
    rows = await embedder.embed([str(payload(n)["text"]) for n in range(points)], Side.DOCUMENT)
    noise = np.random.default_rng(1).normal(size=(points, 8)).astype(np.float32)

    def point(n: int) -> Point:
        vectors: dict[str, Any] = {"text": rows[n].tolist(), "title": noise[n].tolist()}
        if n % 7:
            vectors["words"] = {"indices": [n % 11, 11 + n % 13], "values": [1.0, 0.5]}
        return Point(id=id_of(n), payload=payload(n), vectors=vectors, shard_key=key_of(n))

    await gateway.points.write(name, [point(n) for n in range(points)])


Stored = dict[tuple[PointId, ShardKey | None], dict[str, Any]]


def stored(peer: QdrantServer, collection: str, keys: tuple[ShardKey | None, ...] = KEYS) -> Stored:
    """Every point by id and shard key, with `payload` and `vector` as JSON; each key is asked for by name, so that none hides another's."""
    found: Stored = {}
    for key in keys:
        offset = None
        while True:
            body = {"limit": 100, "offset": offset, "with_payload": True, "with_vector": True, "shard_key": key}
            page = request(f"{peer.url}/collections/{collection}/points/scroll", method="POST", body=body)["result"]
            for point in page["points"]:
                found[point["id"], key] = {"payload": point["payload"], "vector": point["vector"]}
            offset = page["next_page_offset"]
            if offset is None:
                break
    return found


def keys_by_id(points: Stored) -> Mapping[PointId, ShardKey | None]:
    """The key of each id; an id under two keys is an error of the test."""
    made = dict(points.keys())
    assert len(made) == len(points)
    return made


def digests(points: Stored) -> dict[tuple[PointId, ShardKey | None], bytes]:
    """Short enough to be compared in an assertion."""
    return {name: payload_digest(point) for name, point in points.items()}
