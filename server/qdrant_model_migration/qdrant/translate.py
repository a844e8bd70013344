"""Between Qdrant's models and ours: descriptions of collections, points and vectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from qdrant_model_migration.domain.collection import Collection, Json, Replica, fields_of, shard_key_config
from qdrant_model_migration.domain.points import FLOAT_TOLERANCE, Payload, Point, PointId, ServerText, ShardKey, untag

WIDE = 2**63


def collection(
    name: str,
    info: Json,
    aliases: Iterable[str],
    shard_keys: Sequence[ShardKey] = (),
    replicas: Sequence[Replica] = (),
    peers: int = 1,
) -> Collection:
    """A collection from the server's own JSON; what it does not set is left out, but a null of the metadata is a value."""
    stated: Json = info["config"]
    config: Json = {key: value if key == "metadata" else _without_nulls(value) for key, value in stated.items() if value is not None}
    # All that an index says of itself, but how many points are in it.
    indexes = {
        field: {key: _without_nulls(value) for key, value in schema.items() if key != "points" and value is not None}
        for field, schema in (info.get("payload_schema") or {}).items()
    }
    optimizers = info.get("optimizer_status")
    is_ok = optimizers == "ok"
    error = optimizers.get("error") if isinstance(optimizers, Mapping) else None
    return Collection(
        name=name,
        points=info.get("points_count") or 0,
        fields=fields_of(config.get("params", {})),
        config=config,
        payload_indexes=indexes,
        status=info["status"],
        optimizer_ok=is_ok,
        optimizer_error=None if is_ok else str(error or "unknown")[:300],
        segments=info.get("segments_count") or 0,
        indexed_vectors=info.get("indexed_vectors_count"),
        aliases=tuple(sorted(aliases)),
        shard_keys=tuple(shard_keys),
        shard_key_config=shard_key_config(shard_keys, replicas),
        replicas=tuple(replicas),
        peers=peers,
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def replicas(info: models.CollectionClusterInfo) -> list[Replica]:
    """Every replica of every shard, by shard and peer."""
    arriving = {(t.shard_id, t.to) for t in info.shard_transfers if not t.sync}
    found = [(s.shard_id, info.peer_id, s.shard_key, s.state) for s in info.local_shards]
    found += [(s.shard_id, s.peer_id, s.shard_key, s.state) for s in info.remote_shards]
    return [
        Replica(shard=shard, key=key, peer=peer, state=state.value, is_arriving=(shard, peer) in arriving)
        for shard, peer, key, state in sorted(found, key=lambda f: f[:2])
    ]


def key_order(key: ShardKey) -> tuple[bool, int, str]:
    """Shard keys come in any order; ours is numbers, then texts."""
    return (False, key, "") if isinstance(key, int) else (True, 0, key)


def vectors_of(vector: Any) -> dict[str, Any]:
    """Vectors by field name; the unnamed one under ""."""
    if vector is None:
        return {}
    if isinstance(vector, Mapping):
        return {name: sparse_json(value) for name, value in vector.items()}
    return {"": vector}


def sparse_json(value: Any) -> Any:
    return {"indices": value.indices, "values": value.values} if isinstance(value, models.SparseVector) else value


def point(record: models.Record | models.ScoredPoint) -> Point:
    """A point as read."""
    key = record.shard_key
    return Point(
        id=record.id if isinstance(record.id, int) else str(record.id),
        payload=record.payload or {},
        vectors=vectors_of(record.vector),
        shard_key=key if isinstance(key, str | int) else None,
    )


def plain_id(point_id: Any) -> PointId | None:
    """An id as int or lower-case UUID text, whatever transport it came by."""
    if point_id is None or isinstance(point_id, int):
        return point_id
    if hasattr(point_id, "num") or hasattr(point_id, "uuid"):
        return point_id.uuid or int(point_id.num)
    return untag(f"u:{point_id}")


def packed(vector: Any) -> Any:
    """A dense vector that came as a list, as the array of single precision that Qdrant holds; others as they are."""
    is_dense = isinstance(vector, list) and bool(vector) and not isinstance(vector[0], list)
    return np.asarray(vector, dtype=np.float32) if is_dense else vector


def value(vector: Any) -> Any:
    """A vector of any kind as the client takes it, for a point or a query: dense and multivectors as lists, a text that the server embeds."""
    if isinstance(vector, np.ndarray):
        return vector.tolist()
    if isinstance(vector, ServerText):
        return models.Document(text=vector.text, model=vector.model, options=dict(vector.options) or None)
    return models.SparseVector(**vector) if isinstance(vector, dict) else vector


def struct(found: Point) -> models.PointStruct:
    """A point to be written: its vectors by name, the unnamed one as "".

    A bare list would be refused by the embedded database where a named field stands beside the unnamed one.
    """
    vector: Any = {name: value(v) for name, v in found.vectors.items()}
    return models.PointStruct(id=found.id, vector=vector, payload=found.payload)


def has_wide_number(value: object) -> bool:
    """Whether gRPC could not carry a number of this payload: an integer, or a float that was one, beyond 2^63."""
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return not -WIDE <= value < WIDE
    if isinstance(value, float):
        return abs(value) >= WIDE
    if isinstance(value, Mapping):
        return any(has_wide_number(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(has_wide_number(inner) for inner in value)
    return False


def never() -> models.Filter:
    """A filter that no existing point passes. With it an upsert inserts what is absent and leaves the rest alone.

    One of no ids. "This id, and not this id" is no way to say it: 1.16.3 and 1.17.0 count and delete the point of that id.
    """
    return models.Filter(must=[models.HasIdCondition(has_id=[])])


def still_holds(point_id: PointId, observed: Payload, wanted: Payload, *, whole: bool = False) -> models.Filter:
    """Passed by this point while the differing values are as observed, as far as a filter can say so; with `whole` all values.

    A UUID is not among the conditions: 1.17.0 writes such a condition to its log, cannot read it again after a crash, and does not
    start any more. The filter of an upsert applies to the upsert's own point anyhow.
    """
    must: list[models.Condition] = [models.HasIdCondition(has_id=[point_id])] if isinstance(point_id, int) else []
    must_not: list[models.Condition] = []
    for key in sorted(observed.keys() | wanted.keys()):
        if '"' in key or "\\" in key:
            continue
        path = f'"{key}"'
        seen = observed.get(key)
        if not whole and key in observed and key in wanted and seen == wanted[key] and type(seen) is type(wanted[key]):
            continue
        if key not in observed:
            must.append(models.IsEmptyCondition(is_empty=models.PayloadField(key=path)))
        elif seen is None:
            must.append(models.IsNullCondition(is_null=models.PayloadField(key=path)))
        elif isinstance(seen, bool | str) or (isinstance(seen, int) and -WIDE <= seen < WIDE):
            must.append(models.FieldCondition(key=path, match=models.MatchValue(value=seen)))
        elif isinstance(seen, float):
            # "Not below and not above": an integer or datetime index on the field holds no floats, so that "equal" would never be true.
            slack = abs(seen) * FLOAT_TOLERANCE
            must_not.append(models.FieldCondition(key=path, range=models.Range(lt=seen - slack)))
            must_not.append(models.FieldCondition(key=path, range=models.Range(gt=seen + slack)))
            must_not.append(models.IsEmptyCondition(is_empty=models.PayloadField(key=path)))
    return models.Filter(must=must, must_not=must_not or None)


def creation(create: Json) -> dict[str, Any]:
    """Arguments of the client's `create_collection`, for the embedded database."""
    request = models.CreateCollection.model_validate(create)
    return {
        "vectors_config": request.vectors if request.vectors is not None else {},
        "sparse_vectors_config": request.sparse_vectors,
        "shard_number": request.shard_number,
        "sharding_method": request.sharding_method,
        "replication_factor": request.replication_factor,
        "write_consistency_factor": request.write_consistency_factor,
        "on_disk_payload": request.on_disk_payload,
        "hnsw_config": request.hnsw_config,
        "optimizers_config": request.optimizers_config,
        "wal_config": request.wal_config,
        "quantization_config": request.quantization_config,
        "metadata": request.metadata,
    }
