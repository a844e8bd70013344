"""Are points read in order and written bit for bit, over either transport?"""

from __future__ import annotations

import random
import uuid
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.points import Payload, Point, PointId, order_key, payload_digest
from qdrant_model_migration.domain.verification import same_payload
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.conftest import Backend
from tests.qdrant.seeds import opened, seed

INTEGERS = [0, 1, 255, 256, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
UUIDS = [
    "00000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-000000000001",
    "0fffffff-0000-4000-8000-000000000000",
    "7fffffff-ffff-4fff-bfff-ffffffffffff",
    "80000000-0000-4000-8000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "12345678-9abc-1def-8234-56789abcdef0",
]
IDS: list[PointId] = [*INTEGERS, *UUIDS]

PAYLOAD: Payload = {
    "wide": [2**63, 2**64 - 1, {"deep": 2**64 - 2}],
    "narrow": [2**63 - 1, -(2**63), 2**53 + 1, 0, -1],
    "floats": [1.0, 0.1, -0.0, 1e300, 5e-324, 1.7976931348623157e308, 1700000000.123456],
    "texts": ["", " ", 'ü\n\t"\\', "👩‍👩‍👧", "\u0000", "{}"],
    "others": [None, True, False, [], {}, [[]], {"": None}],
    "a.b": {"c": 1, "d": 1.0},
}

both = pytest.mark.parametrize("prefer_grpc", ["false", "true"], ids=["rest", "grpc"])


async def made(gateway: Gateway, name: str, **create: Any) -> None:
    await gateway.create_collection(name, {"vectors": {}, **create})


@both
@pytest.mark.parametrize("limit", [1, 4, 100])
async def test_a_scroll_comes_in_the_order_of_order_key(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, limit: int, prefer_grpc: str
) -> None:
    """So that two scrolls can be merged, and ranges be bounded by ids."""
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        await made(gateway, name)
        await gateway.points.write(name, [Point(id=i, payload={}) for i in sorted(IDS, key=str)])
        seen: list[PointId] = []
        offset: PointId | None = None
        while True:
            page, offset = await gateway.points.ids(name, offset=offset, limit=limit)
            seen += page
            if offset is None:
                break
    assert seen == sorted(IDS, key=order_key)


@both
async def test_a_scroll_begins_at_an_id_that_need_not_exist(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        await made(gateway, name)
        await gateway.points.write(name, [Point(id=i, payload={}) for i in IDS])
        for start in (3, 2**63 + 5, "0a000000-0000-4000-8000-000000000000", UUIDS[5]):
            found, _ = await gateway.points.ids(name, offset=start, limit=100)
            assert found == [i for i in sorted(IDS, key=order_key) if order_key(i) >= order_key(start)]


@pytest.mark.parametrize("spelling", [str.upper, lambda t: t.replace("-", ""), lambda t: f"urn:uuid:{t}"], ids=["upper", "bare", "urn"])
async def test_an_id_is_the_same_however_the_app_spelled_it(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, spelling: Any
) -> None:
    canonical = str(uuid.UUID("abcdef12-9abc-4def-8234-56789abcdef0"))
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await made(gateway, name)
        await gateway.points.write(name, [Point(id=spelling(canonical), payload={"n": 1})])
        ((point,), _) = await gateway.points.scroll(name, offset=None, limit=10)
        assert await gateway.points.existing(name, [point.id]) == {point.id}
        await gateway.points.insert(name, [Point(id=point.id, payload={"n": 2})])
        assert await gateway.points.count(name) == 1
    if not any_qdrant.is_embedded:
        assert point.id == canonical


@both
async def test_payloads_survive_a_read_and_a_write_bit_for_bit(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    """Integers beyond 2^63 become floats over gRPC, silently; a page that holds one goes over REST."""
    payloads: list[Payload] = [PAYLOAD, {k: v for k, v in PAYLOAD.items() if k != "wide"}, {}, {"n": float(2**63)}, {"n": 2**63}]
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        await made(gateway, name)
        await made(gateway, f"{name}-copy")
        await gateway.points.write(name, [Point(id=i, payload=p) for i, p in enumerate(payloads)])
        for page in (1, 10):
            offset: PointId | None = None
            while True:
                points, offset = await gateway.points.scroll(name, offset=offset, limit=page)
                assert [repr(p.payload) for p in points] == [repr(sort_like(p.payload, payloads[int(p.id)])) for p in points]
                await gateway.points.insert(f"{name}-copy", points)
                if offset is None:
                    break
        copied, _ = await gateway.points.scroll(f"{name}-copy", offset=None, limit=10)
    assert [payload_digest(p.payload) for p in copied] == [payload_digest(p) for p in payloads]


async def test_a_float_that_the_server_cannot_keep_still_counts_as_copied_and_can_be_replaced(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parser is off by a unit in the last place for some numbers: a copy of a copy must not differ for ever."""
    rng = random.Random(1)
    payloads = [{"f": rng.random() * 10.0 ** rng.randint(-20, 20)} for _ in range(200)]
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await made(gateway, name)
        await made(gateway, f"{name}-copy")
        await gateway.points.write(name, [Point(id=i, payload=p) for i, p in enumerate(payloads)])
        source, _ = await gateway.points.scroll(name, offset=None, limit=200)
        await gateway.points.write(f"{name}-copy", source)
        target, _ = await gateway.points.scroll(f"{name}-copy", offset=None, limit=200)
        for point in target:
            await gateway.points.replace(f"{name}-copy", Point(id=point.id, payload={"f": "ours"}), observed=point.payload)
        replaced, _ = await gateway.points.scroll(f"{name}-copy", offset=None, limit=200)
    assert [p.id for p, q in zip(source, target, strict=True) if not same_payload(p.payload, q.payload)] == []
    assert [p.id for p in replaced if p.payload != {"f": "ours"}] == []


def sort_like(found: Payload, wanted: Payload) -> Payload:
    """What was wanted, with its keys in the order in which they were found: the order of keys means nothing."""
    return {key: wanted[key] for key in found} if found.keys() == wanted.keys() else wanted


@both
async def test_vectors_of_every_kind_are_read_and_written_back(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, prefer_grpc: str
) -> None:
    create = {
        "vectors": {
            "": {"size": 2, "distance": "Dot"},
            "cosine": {"size": 3, "distance": "Cosine"},
            "half": {"size": 3, "distance": "Cosine", "datatype": "float16"},
            "many": {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}},
        },
        "sparse_vectors": {"sparse": {}},
    }
    fields = ("", "cosine", "half", "many", "sparse")
    vectors = {
        "": [0.1, -2.5],
        "cosine": [0.1, 0.2, 0.3],
        "half": [0.7, 0.11, 0.13],
        "many": [[0.1, 0.2], [3.0, 4.0]],
        "sparse": {"indices": [4_000_000_000, 7], "values": [0.25, 0.1]},
    }
    async with opened(any_qdrant, monkeypatch, QDRANT_PREFER_GRPC=prefer_grpc) as context:
        gateway = await context.gateway()
        for collection in (name, f"{name}-copy", f"{name}-packed"):
            await gateway.create_collection(collection, create)
        await gateway.points.write(
            name, [Point(id=1, payload={}, vectors=vectors), Point(id=2, payload={}, vectors={"cosine": [1.0, 0.0, 0.0]})]
        )
        await gateway.points.write(name, [Point(id=3, payload={}, vectors={})])
        points, _ = await gateway.points.scroll(name, offset=None, limit=10, vectors=fields)
        await gateway.points.insert(f"{name}-copy", points)
        copied, _ = await gateway.points.scroll(f"{name}-copy", offset=None, limit=10, vectors=fields)
        packed, _ = await gateway.points.scroll(name, offset=None, limit=10, vectors=fields, packed=True)
        await gateway.points.insert(f"{name}-packed", packed)
        again, _ = await gateway.points.scroll(f"{name}-packed", offset=None, limit=10, vectors=fields)
        named = await gateway.points.retrieve(name, [1, 99], vectors=["many"])
    assert [set(p.vectors) for p in points] == [set(fields), {"cosine"}, set()]
    assert [p.vectors for p in copied] == [p.vectors for p in points]
    assert [p.vectors for p in again] == [p.vectors for p in points]
    assert {field for field, vector in packed[0].vectors.items() if isinstance(vector, np.ndarray)} == {"", "cosine", "half"}
    for field in ("", "cosine", "half"):
        assert packed[0].vectors[field].dtype == np.float32
        assert packed[0].vectors[field].tolist() == np.array(points[0].vectors[field], dtype=np.float32).tolist()
    assert set(named) == {1}
    assert set(named[1].vectors) == {"many"}
    sparse = copied[0].vectors["sparse"]
    assert dict(zip(sparse["indices"], sparse["values"], strict=True)) == pytest.approx({4_000_000_000: 0.25, 7: 0.1})


async def test_a_sample_and_a_search_find_points_with_their_payload(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"size": 2, "distance": "Cosine"}})
        ids: list[PointId] = [1, 2**64 - 1, UUIDS[4]]
        await gateway.points.write(name, [Point(id=i, payload={"n": n}, vectors={"": [1.0, float(n)]}) for n, i in enumerate(ids)])
        sampled = await gateway.points.sample(name, 10, vectors=[""])
        (best, *_) = await gateway.points.search(name, [1.0, 2.0], using="", limit=3, exact=True)
    assert {p.id: p.payload["n"] for p in sampled} == {i: n for n, i in enumerate(ids)}
    assert (best.id, best.payload) == (UUIDS[4], {"n": 2})


async def test_points_are_counted_where_strict_mode_allows_neither_exact_counts_nor_large_pages(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await seed(context, name, points=120)
        if not gateway.connection.is_embedded:
            await gateway.update(name, {"strict_mode": {"enabled": True, "max_query_limit": 7, "search_allow_exact": False}})
        assert await gateway.points.count(name) == 120


@pytest.mark.parametrize(
    "strict", [{"max_query_limit": 20}, {"search_allow_exact": False}, {"max_query_limit": 7, "search_allow_exact": False}]
)
async def test_a_strict_collection_tells_the_numbers_of_its_operations(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, strict: Payload
) -> None:
    """The sweep after a swap rests on them, and the source keeps its strict mode."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"size": 2, "distance": "Cosine"}, "shard_number": 1})
        await gateway.points.write(name, [Point(id=n, payload={}, vectors={"": [1.0, float(n)]}) for n in range(60)])
        await gateway.update(name, {"strict_mode": {"enabled": True, **strict}})
        versions = await gateway.points.versions(name, list(range(62)))
    assert set(versions) == set(range(60))


async def test_waking_the_optimizers_removes_no_point(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "This id, and not this id" deletes the point of that id on real servers."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"size": 2, "distance": "Dot"}})
        await gateway.points.write(name, [Point(id=i, payload={}, vectors={"": [1.0, i]}) for i in range(4)])
        await gateway.points.wake(name)
        await gateway.points.watermark(name)
        assert await gateway.points.existing(name, range(4)) == {0, 1, 2, 3}
