"""How do points travel over gRPC? Between its messages and ours, without the client's models in between.

The client turns each message into a validated model and back, which costs several times as much as everything else that is done with a point.
Requests are still sent by its channel, so that keys, headers and limits are the client's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload, payload_to_grpc

from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.qdrant import translate

_FLOAT_BYTES = 4
_PACKED_DATA = b"\x0a"
"""The tag of the only field of `DenseVector`, whose content is the numbers as they lie in memory."""


def point_id(given: PointId) -> grpc.PointId:
    return grpc.PointId(num=given) if isinstance(given, int) else grpc.PointId(uuid=given)


def plain_id(given: grpc.PointId) -> PointId:
    return given.uuid or given.num


def scroll(collection: str, *, offset: PointId | None, limit: int, payload: bool, vectors: Sequence[str]) -> grpc.ScrollPoints:
    """The request of a page."""
    return grpc.ScrollPoints(
        collection_name=collection,
        offset=None if offset is None else point_id(offset),
        limit=limit,
        with_payload=grpc.WithPayloadSelector(enable=payload),
        with_vectors=_selector(vectors),
    )


def get(collection: str, ids: Sequence[PointId]) -> grpc.GetPoints:
    """The request of the points of these ids, without payloads and vectors."""
    return grpc.GetPoints(
        collection_name=collection,
        ids=[point_id(i) for i in ids],
        with_payload=grpc.WithPayloadSelector(enable=False),
        with_vectors=_selector(()),
    )


def _selector(vectors: Sequence[str]) -> grpc.WithVectorsSelector:
    if not vectors or "" in vectors:
        return grpc.WithVectorsSelector(enable=bool(vectors))
    return grpc.WithVectorsSelector(include=grpc.VectorsSelector(names=list(vectors)))


def point(found: grpc.RetrievedPoint, *, packed: bool) -> Point:
    """A point as read; dense vectors as arrays of single precision where `packed`, else as lists."""
    key = found.shard_key if found.HasField("shard_key") else None
    return Point(
        id=plain_id(found.id),
        payload=grpc_to_payload(found.payload),
        vectors=_vectors(found.vectors, packed=packed) if found.HasField("vectors") else {},
        shard_key=None if key is None else getattr(key, key.WhichOneof("key") or "keyword"),
    )


def _vectors(found: grpc.VectorsOutput, *, packed: bool) -> dict[str, Any]:
    if found.WhichOneof("vectors_options") == "vector":
        return {"": _vector(found.vector, packed=packed)}
    named = found.vectors.vectors
    return {name: _vector(named[name], packed=packed) for name in named}


def _vector(found: grpc.VectorOutput, *, packed: bool) -> Any:
    if found.WhichOneof("vector") != "dense":
        # Of another kind, or a dense one as older servers write it.
        other = translate.sparse_json(GrpcToRest.convert_vector_output(found))
        return translate.packed(other) if packed else other
    # The numbers at the end of the message are taken as they are: a list of them costs five times as much.
    raw = found.dense.SerializeToString()
    numbers = np.frombuffer(raw, dtype="<f4", offset=len(raw) - _FLOAT_BYTES * len(found.dense.data))
    return numbers if packed else numbers.tolist()


def struct(made: Point) -> grpc.PointStruct:
    """A point to be written: its vectors by name, the unnamed one as ""."""
    written = grpc.PointStruct(id=point_id(made.id), payload=payload_to_grpc(made.payload))
    others = {name: translate.value(v) for name, v in made.vectors.items() if not isinstance(v, np.ndarray)}
    if others:
        written.vectors.CopyFrom(RestToGrpc.convert_vector_struct(others))
    # Also of a point without any vector: what is left out altogether is refused.
    vectors = written.vectors.vectors
    vectors.SetInParent()
    for name, vector in made.vectors.items():
        if isinstance(vector, np.ndarray):
            vectors.vectors[name].dense.MergeFromString(_dense(vector))
    return written


def _dense(vector: NDArray[np.float32]) -> bytes:
    """The message of a dense vector: a list of its numbers costs three times as much."""
    raw = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return _PACKED_DATA + _varint(len(raw)) + raw


def _varint(number: int) -> bytes:
    """A length as Protocol Buffers write it: seven bits a byte, the lowest first, the highest bit where more follow."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def upsert(
    collection: str,
    points: Sequence[Point],
    *,
    update_filter: models.Filter | None = None,
    update_mode: models.UpdateMode | None = None,
) -> grpc.UpsertPoints:
    """The request that writes points of one shard key, and waits until they can be read."""
    key = points[0].shard_key
    return grpc.UpsertPoints(
        collection_name=collection,
        wait=True,
        points=[struct(p) for p in points],
        shard_key_selector=None if key is None else RestToGrpc.convert_shard_key_selector(key),
        update_filter=None if update_filter is None else RestToGrpc.convert_filter(update_filter),
        update_mode=None if update_mode is None else cast("grpc.UpdateMode.ValueType", RestToGrpc.convert_update_mode(update_mode)),
    )
