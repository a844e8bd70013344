"""Is a field really quantized anew, in place, and is its recall what an independent computation gives?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from qdrant_model_migration.domain.collection import Collection, Json, VectorField
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.quantization import Kind, QuantizationSettings, requested, settings_of
from qdrant_model_migration.errors import Interrupted, Refused
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.requantize import apply, measure_recall, restore
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import IndexRecall, Progress
from qdrant_model_migration.worker.driver import Driver
from tests.conftest import VERSIONS, Backend
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer, delete_collections
from tests.servers import request as rest

COUNT, SIZE, K = 2_000, 128, 10
INT8: Json = {"scalar": {"type": "int8", "quantile": 0.95}}


def clustered() -> NDArray[np.float32]:
    """Sixty clouds, as texts on sixty subjects make them; shape (COUNT, SIZE)."""
    random = np.random.default_rng(7)
    centres = random.normal(size=(60, SIZE))
    return (centres[random.integers(0, 60, COUNT)] + 0.6 * random.normal(size=(COUNT, SIZE))).astype(np.float32)


ROWS = clustered()


@pytest.fixture(params=[pytest.param(version, marks=pytest.mark.server) for version in VERSIONS])
def server_of_each(request: pytest.FixtureRequest, name: str) -> Iterator[Backend]:
    server: QdrantServer = request.getfixturevalue(f"server_{request.param.rpartition('.')[0].replace('.', '_')}")
    ledger = {"QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    yield Backend(name=request.param, environment={**server.environment, **ledger}, version=request.param)
    delete_collections(server.url, name)


async def seeded(gateway: Gateway, name: str, vectors: Json, *, rows: int = COUNT, **config: Any) -> Collection:
    """Every field holds ROWS; the index is built from few points on."""
    optimizers = {"indexing_threshold": 10, "default_segment_number": 2}
    await gateway.create_collection(name, {"vectors": vectors, "optimizers_config": optimizers, **config})
    fields = [""] if "size" in vectors else list(vectors)
    for start in range(0, rows, 500):
        page = [Point(id=i, payload={"n": i}, vectors={f: ROWS[i].tolist() for f in fields}) for i in range(start, min(rows, start + 500))]
        await gateway.points.write(name, page)
    assert await gateway.wait_until_ready(name, timeout_s=60)
    return await gateway.describe(name)


def field_of(collection: Collection, name: str) -> VectorField:
    found = collection.field(name)
    assert found is not None
    return found


def quantized_segments(url: str, name: str, field: str) -> list[Json | None]:
    """By what each indexed segment of the server holds the field's vectors, from its telemetry; None: not quantized."""
    found: list[Json | None] = []
    for collection in rest(f"{url}/telemetry?details_level=10")["result"]["collections"]["collections"]:
        if collection["id"] == name:
            segments = [s for shard in collection["shards"] for s in shard["local"]["segments"]]
            found = [
                s["config"]["vector_data"][field].get("quantization_config") for s in segments if s["info"]["segment_type"] == "indexed"
            ]
    assert found
    return found


UNIT = ROWS.astype(np.float64) / np.linalg.norm(ROWS.astype(np.float64), axis=1, keepdims=True)


@cache
def exact_neighbours(point: int) -> frozenset[int]:
    """Computed here, in float64, by cosine."""
    return frozenset([int(i) for i in np.argsort(-(UNIT @ UNIT[point]))[: K + 1] if i != point][:K])


def recall_over_rest(url: str, name: str, field: str, asked: Sequence[int], params: Json) -> float:
    """The recall without any code under test: exact neighbours from numpy, found ones over plain REST."""
    shares = []
    for point in asked:
        body = {"query": ROWS[point].tolist(), "using": field, "limit": K + 1, "params": params}
        hits = rest(f"{url}/collections/{name}/points/query", method="POST", body=body)["result"]["points"]
        found = [hit["id"] for hit in hits if hit["id"] != point][:K]
        shares.append(len(exact_neighbours(point) & set(found)) / K)
    return float(np.mean(shares))


def own(recall: IndexRecall, **wanted: Any) -> float:
    return next(
        v.recall for v in recall.variants if {k: getattr(v, k) for k in wanted} == wanted and v.ignore == wanted.get("ignore", False)
    )


@pytest.mark.parametrize("kind", ["scalar", "product", "binary"])
async def test_a_field_is_quantized_in_place_and_its_recall_is_what_numpy_says(
    server_of_each: Backend, name: str, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """The segments carry it, the neighbour field does not, and each recall agrees with an independent one within 0.01."""
    url = server_of_each.environment["QDRANT_URL"]
    async with opened(server_of_each, monkeypatch) as context:
        gateway = await context.gateway()
        plain = {"size": SIZE, "distance": "Cosine"}
        collection = await seeded(gateway, name, {"a": plain, "b": plain})
        outcome = await apply(gateway, collection, field_of(collection, "a"), kind, queries=50)
        assert outcome.is_ready
        assert outcome.before is not None
        assert outcome.after is not None
        described = await gateway.describe(name)
        asked = list(range(0, COUNT, 40))
        points = [Point(id=i, payload={}, vectors={"a": ROWS[i].tolist()}) for i in asked]
        measured = await measure_recall(gateway, described, field_of(described, "a"), points=points)
    assert settings_of(described) == QuantizationSettings(fields={"a": requested(kind), "b": None})
    assert all(s == requested(kind) for s in quantized_segments(url, name, "a"))
    assert all(s is None for s in quantized_segments(url, name, "b"))
    assert [(d.path, d.source, d.target) for d in outcome.changed] == [("params.vectors.a.quantization_config", None, requested(kind))]
    assert (measured.k, measured.queries, measured.quantization) == (K, len(asked), kind)
    assert measured.recall == pytest.approx(recall_over_rest(url, name, "a", asked, {}), abs=0.01)
    for oversampling in (2.0, 4.0):
        params = {"quantization": {"rescore": True, "oversampling": oversampling}}
        alone = recall_over_rest(url, name, "a", asked, params)
        assert own(measured, rescore=True, oversampling=oversampling) == pytest.approx(alone, abs=0.01)
    assert own(measured, ignore=True) == pytest.approx(
        recall_over_rest(url, name, "a", asked, {"quantization": {"ignore": True}}), abs=0.01
    )
    # 128 dimensions are too few for a bit each: what is lost is seen, and brought back by asking for more.
    assert outcome.before.recall > 0.99
    assert measured.ci_low <= measured.recall <= measured.ci_high
    assert abs(outcome.after.recall - measured.recall) < 0.1
    if kind != "scalar":
        assert outcome.after.recall < 0.8
        assert own(measured, rescore=True, oversampling=4.0) > measured.recall + 0.2
        assert any("oversampling=4" in line for line in outcome.advice)


async def test_what_was_set_at_the_collection_is_switched_off_for_one_field_and_restored(
    server_of_each: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a collection's setting no field can be left out: the other one keeps it as its own, and is quantized as before."""
    url = server_of_each.environment["QDRANT_URL"]
    async with opened(server_of_each, monkeypatch) as context:
        gateway = await context.gateway()
        plain = {"size": SIZE, "distance": "Cosine"}
        collection = await seeded(gateway, name, {"": plain, "b": plain}, rows=1_000, quantization_config=INT8)
        previous = settings_of(collection)
        assert previous == QuantizationSettings(collection=INT8, fields={"": None, "b": None})
        outcome = await apply(gateway, collection, field_of(collection, ""), "off", queries=20)
        assert settings_of(await gateway.describe(name)) == QuantizationSettings(fields={"": None, "b": INT8})
        assert (quantized_segments(url, name, "")[0], quantized_segments(url, name, "b")[0]) == (None, INT8)
        assert {d.path: (d.source, d.target) for d in outcome.changed} == {
            "quantization_config": (INT8, None),
            "params.vectors.b.quantization_config": (None, INT8),
        }
        assert outcome.after is not None
        assert (outcome.after.recall, outcome.after.quantization, outcome.after.variants) == (1.0, None, [])
        undone = await restore(gateway, collection, field_of(collection, ""), previous)
        assert undone.is_ready
        assert settings_of(await gateway.describe(name)) == previous
        assert all(s == INT8 for field in ("", "b") for s in quantized_segments(url, name, field))
        assert [(d.path, d.target, d.source) for d in undone.changed] == [(d.path, d.source, d.target) for d in outcome.changed]


async def test_an_interrupted_change_is_taken_up_with_what_was_measured_before(
    server_of_each: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again, knowing what was recorded or not: set once, and the recall before is the one that was given, or said to be unknown."""
    async with opened(server_of_each, monkeypatch) as context:
        gateway = await context.gateway()
        collection = await seeded(gateway, name, {"size": SIZE, "distance": "Cosine"}, rows=600)
        field, previous = field_of(collection, ""), settings_of(collection)

        async def stop(progress: Progress) -> None:
            if "being quantized" in progress.stage:
                raise Interrupted("asked to stop")

        with pytest.raises(Interrupted):
            await apply(gateway, collection, field, "binary", queries=20, progress=stop)
        now = await gateway.describe(name)
        assert settings_of(now).fields == {"": requested("binary")}
        again = await apply(gateway, now, field, "binary", queries=20, previous=previous)
        assert again.before is None
        assert again.after is not None
        assert any("recall before is not known" in note for note in again.notes)
        assert [(d.source, d.target) for d in again.changed] == [(None, requested("binary"))]
        once_more = await apply(gateway, now, field, "binary", before=again.after, queries=20)
        assert (once_more.before, once_more.changed) == (again.after, [])


async def test_strict_mode_that_forbids_exact_searches_costs_the_measurement_only(
    server_of_each: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server_of_each, monkeypatch) as context:
        gateway = await context.gateway()
        await seeded(gateway, name, {"size": SIZE, "distance": "Cosine"}, rows=600)
        await gateway.update(name, {"strict_mode": {"enabled": True, "search_allow_exact": False}})
        collection = await gateway.describe(name)
        outcome = await apply(gateway, collection, field_of(collection, ""), "scalar", queries=20)
        assert (outcome.before, outcome.after, outcome.is_ready) == (None, None, True)
        assert sum("could not be measured" in note for note in outcome.notes) == 2
        await gateway.update(
            name, {"strict_mode": {"enabled": True, "search_allow_exact": True, "search_max_oversampling": 2, "max_query_limit": 6}}
        )
        collection = await gateway.describe(name)
        found = await measure_recall(gateway, collection, field_of(collection, ""), queries=20)
        assert found.k == 5
        assert {v.oversampling for v in found.variants} == {None, 2.0}


async def test_equal_vectors_count_as_found_whichever_of_them_comes(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten copies of each vector: the tenth neighbour is any of many, and a search that takes another one is right."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"size": SIZE, "distance": "Dot"}})
        await gateway.points.write(name, [Point(id=i, payload={}, vectors={"": ROWS[i // 15].tolist()}) for i in range(300)])
        collection = await gateway.describe(name)
        found = await measure_recall(gateway, collection, field_of(collection, ""), queries=30)
    assert (found.recall, found.ci_low, found.ci_high, found.queries) == (1.0, 1.0, 1.0, 30)


async def test_nothing_is_measured_where_there_is_nothing_to_find(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"a": {"size": SIZE, "distance": "Dot"}, "b": {"size": 4, "distance": "Dot"}}})
        await gateway.points.write(name, [Point(id=1, payload={}, vectors={"a": ROWS[0].tolist()})])
        collection = await gateway.describe(name)
        with pytest.raises(Refused, match="too few to look for neighbours"):
            await measure_recall(gateway, collection, field_of(collection, "a"))
        with pytest.raises(Refused, match="none of 1 sampled points"):
            await measure_recall(gateway, collection, field_of(collection, "b"))
        if any_qdrant.is_embedded:
            with pytest.raises(Refused, match="embedded database does not quantize"):
                await apply(gateway, collection, field_of(collection, "a"), "scalar")


async def test_a_driver_that_quantized_a_collection_under_writes_is_done(
    server_of_each: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no second collection to keep up with: nothing is read over and over, and no pass judges what was proven."""
    async with opened(server_of_each, monkeypatch) as context:
        gateway = await context.gateway()
        await seeded(gateway, name, {"a": {"size": SIZE, "distance": "Cosine"}}, rows=200)

        async def nobody(_: Migration) -> None:
            """The test drives."""

        context.ensure_driver = nobody
        asked = Request(collection=name, strategy="requantize", vector="a", quantization="scalar", writes="live")
        made = await create_target(context, asked)
        await start_backfill(context, migration_id=made.migration_id)
        with anyio.fail_after(60):
            await Driver(context, made.migration_id, idle_exit_s=0.5).run()
        migration = await (await context.ledger()).migration(made.migration_id)
    assert (migration.phase, migration.error, migration.lag) == (Phase.BACKFILLED, None, None)
