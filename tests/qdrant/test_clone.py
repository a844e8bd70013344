"""Is a collection cloned in every setting? The plan, carried out and read back from the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, Json, config_differences
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.target import TargetPlan, plan_target
from qdrant_model_migration.errors import RequestRejected
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.conftest import VERSIONS, Backend
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer, delete_collections
from tests.servers import request as rest

MODEL = ModelSpec(name="builtin:hashing-32", dimensions=32)

HNSW = {"m": 24, "ef_construct": 120, "full_scan_threshold": 5000, "max_indexing_threads": 2, "on_disk": True, "payload_m": 12}
STRICT = {
    "enabled": True,
    "max_query_limit": 90,
    "max_timeout": 20,
    "unindexed_filtering_retrieve": False,
    "unindexed_filtering_update": False,
    "search_max_hnsw_ef": 128,
    "search_allow_exact": False,
    "search_max_oversampling": 2.5,
    "upsert_max_batchsize": 50,
    "max_collection_vector_size_bytes": 10_000_000_000,
    "read_rate_limit": 100_000,
    "write_rate_limit": 100_000,
    "max_collection_payload_size_bytes": 10_000_000_000,
    "filter_max_conditions": 7,
    "condition_max_size": 9,
    "max_points_count": 1_000_000,
    "max_payload_index_count": 90,
    "multivector_config": {"many": {"max_vectors": 7}},
    "sparse_config": {"idf": {"max_length": 77}},
}
"""Every key that 1.16.3 and 1.17.0 keep; they take `search_max_batchsize` and forget it."""


def dense(size: int, distance: str, **more: Any) -> Json:
    return {"size": size, "distance": distance, **more}


QUANTIZATIONS: dict[str, Json] = {
    "int8": {"scalar": {"type": "int8", "quantile": 0.97, "always_ram": True}},
    "x16": {"product": {"compression": "x16", "always_ram": False}},
    "binary": {"binary": {"always_ram": True}},
    "two_bits": {"binary": {"encoding": "two_bits", "query_encoding": "scalar8bits"}},
    "one_and_half": {"binary": {"encoding": "one_and_half_bits", "query_encoding": "scalar4bits", "always_ram": False}},
    "bare": {"binary": {}},
}

MAXIMAL: Json = {
    "vectors": {
        "": dense(8, "Cosine", hnsw_config={"m": 0}, on_disk=True),
        "dot": dense(4, "Dot", hnsw_config=HNSW, quantization_config=QUANTIZATIONS["int8"]),
        "euclid16": dense(4, "Euclid", datatype="float16", on_disk=False),
        "manhattan8": dense(4, "Manhattan", datatype="uint8"),
        "product": dense(32, "Cosine", quantization_config=QUANTIZATIONS["x16"]),
        "binary": dense(64, "Cosine", quantization_config=QUANTIZATIONS["binary"]),
        "two_bits": dense(64, "Cosine", quantization_config=QUANTIZATIONS["two_bits"]),
        "one_and_half": dense(64, "Cosine", quantization_config=QUANTIZATIONS["one_and_half"], datatype="float16"),
        "bare_binary": dense(64, "Dot", quantization_config=QUANTIZATIONS["bare"]),
        "inline": dense(8, "Cosine", hnsw_config={"m": 16, "inline_storage": True}, quantization_config=QUANTIZATIONS["int8"]),
        "many": dense(4, "Cosine", multivector_config={"comparator": "max_sim"}, on_disk=True, hnsw_config={"m": 0}),
        "many16": dense(
            4, "Dot", multivector_config={"comparator": "max_sim"}, datatype="float16", quantization_config=QUANTIZATIONS["int8"]
        ),
        "many8": dense(4, "Euclid", multivector_config={"comparator": "max_sim"}, datatype="uint8"),
        "size": dense(4, "Cosine"),
    },
    "sparse_vectors": {
        "idf": {"modifier": "idf", "index": {"on_disk": True, "full_scan_threshold": 777}},
        "none": {"modifier": "none"},
        "bare": {},
        "half": {"index": {"datatype": "float16"}},
        "byte": {"index": {"datatype": "uint8", "on_disk": False}},
    },
    "shard_number": 2,
    "replication_factor": 1,
    "write_consistency_factor": 1,
    "on_disk_payload": False,
    "hnsw_config": {
        "m": 8,
        "ef_construct": 64,
        "full_scan_threshold": 20_000,
        "on_disk": True,
        "payload_m": 4,
        "max_indexing_threads": 3,
        "inline_storage": False,
    },
    "wal_config": {"wal_capacity_mb": 8, "wal_segments_ahead": 1, "wal_retain_closed": 2},
    "optimizers_config": {
        "deleted_threshold": 0.3,
        "vacuum_min_vector_number": 500,
        "default_segment_number": 3,
        "max_segment_size": 150_000,
        "memmap_threshold": 20_000,
        "indexing_threshold": 12_345,
        "flush_interval_sec": 7,
        "max_optimization_threads": 1,
        "prevent_unoptimized": True,
    },
    "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
    "metadata": {"team": "search", "nested": {"a": [1, 2.5, None, "ü"], "none": None, "wide": 2**63 + 5, "empty": {}}, "none": None},
    "params_after": {"read_fan_out_factor": 2, "read_fan_out_delay_ms": 40},
}

INDEXES: dict[str, Json] = {
    "keyword": {"type": "keyword", "is_tenant": True, "on_disk": True},
    "integer": {"type": "integer", "lookup": True, "range": False},
    "principal": {"type": "integer", "lookup": True, "range": True, "is_principal": True},
    "float": {"type": "float", "on_disk": True},
    "bool": {"type": "bool", "on_disk": False},
    "geo": {"type": "geo", "on_disk": True},
    "datetime": {"type": "datetime", "is_principal": True},
    "uuid": {"type": "uuid", "is_tenant": True},
    "word": {"type": "text", "tokenizer": "word", "min_token_len": 2, "max_token_len": 20, "lowercase": True, "phrase_matching": True},
    "stemmed": {
        "type": "text",
        "tokenizer": "multilingual",
        "stopwords": {"languages": ["english"], "custom": ["qdrant"]},
        "stemmer": {"type": "snowball", "language": "english"},
        "on_disk": True,
    },
    "prefix": {"type": "text", "tokenizer": "prefix", "ascii_folding": True},
    "whitespace": {"type": "text", "tokenizer": "whitespace", "stopwords": "german", "lowercase": False},
}
INDEXES = {field: {**params, "enable_hnsw": False} for field, params in INDEXES.items()}
ABSENT = "<absent>"
PLAIN = ("keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid")

LOADING = {"optimizer_config.indexing_threshold": "restored after the load"}


def planned(source: Collection, field: str, new_name: str) -> TargetPlan:
    return plan_target(
        source,
        source.field_to_replace(field),
        MODEL,
        new_name=new_name,
        text_field="text",
        migration_id="m-1",
        has_metadata=True,
        on_disk=None,
    )


async def cloned(gateway: Gateway, name: str, plan: TargetPlan) -> list[str]:
    """Create the target and say where it differs unintended."""
    target = f"{name}-new"
    await gateway.create_collection(target, plan.create)
    for field, index in plan.indexes.items():
        await gateway.create_payload_index(target, field, index)
    differences = config_differences(await gateway.describe(name), await gateway.describe(target), {**plan.intended, **LOADING})
    return [f"{d.path}: {d.source!r} -> {d.target!r}" for d in differences if not d.is_intended]


def described_over_rest(backend: Backend, name: str) -> Json:
    """Configuration and payload indexes as the server tells them, by no code of ours."""
    found = rest(f"{backend.environment['QDRANT_URL']}/collections/{name}")["result"]
    indexes = {field: {key: value for key, value in index.items() if key != "points"} for field, index in found["payload_schema"].items()}
    return {**found["config"], "payload_schema": indexes}


def differing(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Every path whose values are not equal; ABSENT is no null."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return {p: d for key in keys for p, d in differing(one.get(key, ABSENT), other.get(key, ABSENT), f"{path}/{key}").items()}
    return {} if type(one) is type(other) and one == other else {path: (one, other)}


@pytest.mark.parametrize(
    ("field", "new_name"),
    [("", ""), ("", "new"), ("dot", "new"), ("euclid16", "euclid16"), ("manhattan8", "manhattan8")],
)
async def test_a_maximal_configuration_is_cloned_without_an_unintended_difference(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, field: str, new_name: str
) -> None:
    """Read back from the server: every setting that it kept for the source it keeps for the target."""
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, MAXIMAL)
        # Building them on nine vector fields takes its time; once is enough.
        indexes = {key: {"data_type": params["type"], "params": params} for key, params in INDEXES.items()} if new_name == "" else {}
        indexes |= {f"plain.{kind}": {"data_type": kind} for kind in PLAIN} if new_name == "" else {}
        for key, index in indexes.items():
            await gateway.create_payload_index(name, key, index)
        await gateway.update(name, {"strict_mode": STRICT})
        source = await gateway.describe(name)
        plan = planned(source, field, new_name)
        assert await cloned(gateway, name, plan) == []
        target = await gateway.describe(f"{name}-new")
        new = target.field(new_name)
        assert new is not None
        assert (new.size, new.datatype) == (32, "float16" if field == "euclid16" else "float32")
        assert {f.name for f in target.fields} == {f.name for f in source.fields} - {field} | {new_name}
        assert target.metadata["team"] == "search"
        assert target.metadata["model_migration"]["model"] == MODEL.name
        if not any_qdrant.is_embedded:
            assert set(target.payload_indexes) == set(indexes)
            if indexes:
                assert target.payload_indexes["stemmed"]["params"]["stopwords"] == INDEXES["stemmed"]["stopwords"]
            assert target.config["params"]["read_fan_out_factor"] == 2
            assert target.config["optimizer_config"]["indexing_threshold"] == 0
            # What comes later: index building after the load, strict mode after the cutover. Then nothing differs but the field.
            assert not (target.config.get("strict_mode_config") or {}).get("enabled")
            await gateway.update(f"{name}-new", {"optimizers": plan.restore})
            await gateway.update(f"{name}-new", plan.on_cutover)
            own = {path: why for path, why in plan.intended.items() if path.startswith(("params.vectors", "metadata"))}
            differences = config_differences(await gateway.describe(name), await gateway.describe(f"{name}-new"), own)
            assert [d.path for d in differences if not d.is_intended] == []
            wanted = {"/metadata/model_migration", f"/params/vectors/{field}", f"/params/vectors/{new_name}"}
            found = differing(described_over_rest(any_qdrant, name), described_over_rest(any_qdrant, f"{name}-new"))
            assert [path for path in found if not path.startswith(tuple(wanted))] == []
            if field == new_name:
                changes = {"size", "datatype"} if field == "manhattan8" else {"size"}
                if field == "manhattan8":
                    # Unit vectors do not rank the same by Manhattan distance.
                    changes.add("distance")
                assert {path.rpartition("/")[2] for path in found if path.startswith("/params")} == changes


@pytest.mark.parametrize("vectors", [dense(8, "Dot"), {"only": dense(8, "Euclid")}], ids=["unnamed", "named"])
@pytest.mark.parametrize("new_name", ["", "only", "new"])
async def test_a_minimal_configuration_is_cloned_under_any_name(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, vectors: Json, new_name: str
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": vectors})
        plan = planned(await gateway.describe(name), "only" if "only" in vectors else "", new_name)
        assert await cloned(gateway, name, plan) == []
        await gateway.points.write(f"{name}-new", [Point(id=1, payload={}, vectors={new_name: [0.5] * 32})])
        assert await gateway.points.count(f"{name}-new") == 1


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
async def test_a_quantization_of_the_replaced_field_is_kept(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": dense(64, "Cosine", quantization_config=QUANTIZATIONS[quantization])})
        plan = planned(await gateway.describe(name), "", "")
        assert await cloned(gateway, name, plan) == []


async def test_a_setting_that_was_lost_is_reported(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"a": dense(8, "Dot"), "b": dense(4, "Dot", on_disk=True)}})
        plan = planned(await gateway.describe(name), "a", "a")
        plan.create["vectors"]["b"] = dense(4, "Dot", on_disk=False)
        found = await cloned(gateway, name, plan)
    assert found == ["params.vectors.b.on_disk: True -> False"]


@pytest.mark.parametrize("version", [pytest.param(version, marks=pytest.mark.server) for version in VERSIONS])
async def test_what_a_server_was_told_is_what_it_tells(
    request: pytest.FixtureRequest, version: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maximal configuration is maximal: each key that was set is kept, but for those that this version does not know."""
    server: QdrantServer = request.getfixturevalue("server_1_16" if version == "1.16.3" else "server_1_17")
    backend = Backend(name=version, environment=dict(server.environment), version=version)
    async with opened(backend, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, MAXIMAL)
        for key, params in INDEXES.items():
            await gateway.create_payload_index(name, key, {"data_type": params["type"], "params": params})
        await gateway.update(name, {"strict_mode": STRICT})
    told = {
        "params": {
            **{key: value for key, value in MAXIMAL.items() if key in ("vectors", "sparse_vectors", "shard_number", "on_disk_payload")},
            **MAXIMAL["params_after"],
        },
        **{key: MAXIMAL[key] for key in ("hnsw_config", "wal_config", "quantization_config", "metadata")},
        "optimizer_config": MAXIMAL["optimizers_config"],
        "strict_mode_config": STRICT,
        "payload_schema": {key: {"params": params} for key, params in INDEXES.items()},
    }
    lost = [path for path, (one, _) in differing(told, described_over_rest(backend, name)).items() if one != ABSENT]
    delete_collections(server.url, name)
    old = [
        "/params/read_fan_out_delay_ms",
        "/optimizer_config/prevent_unoptimized",
        *(f"/payload_schema/{f}/params/enable_hnsw" for f in INDEXES),
    ]
    assert sorted(lost) == (sorted(old) if version == "1.16.3" else [])


async def test_what_the_other_server_cannot_hold_is_reported(
    server_1_16: QdrantServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 1.17.0 to 1.16.3, which forgets some keys without a word: the differences name each of them."""
    there, here = (Backend(name="", environment=dict(s.environment), version=s.version) for s in (server_1_17, server_1_16))
    async with opened(there, monkeypatch) as new, opened(here, monkeypatch) as old:
        source, target = await new.gateway(), await old.gateway()
        await source.create_collection(name, MAXIMAL)
        await source.create_payload_index(name, "word", {"data_type": "text", "params": INDEXES["word"]})
        described = await source.describe(name)
        plan = planned(described, "", "")
        await target.create_collection(name, plan.create)
        await target.create_payload_index(name, "word", plan.indexes["word"])
        found = config_differences(described, await target.describe(name), {**plan.intended, **LOADING})
    for server in (server_1_16, server_1_17):
        delete_collections(server.url, name)
    assert {d.path for d in found if not d.is_intended} == {
        "optimizer_config.prevent_unoptimized",
        "params.read_fan_out_delay_ms",
        "payload_indexes.word.params.enable_hnsw",
    }


async def test_a_key_of_a_newer_server_is_passed_on_and_reported_where_it_is_lost(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's models know no such keys: they would drop them, or refuse to send them."""
    backend = Backend(name="", environment=dict(server_1_17.environment), version=server_1_17.version)
    async with opened(backend, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(name, {"vectors": {"a": dense(8, "Dot"), "b": dense(4, "Dot")}, "sparse_vectors": {"s": {}}})
        info = {**rest(f"{server_1_17.url}/collections/{name}")["result"], "payload_schema": {"f": {"data_type": "keyword", "points": 3}}}
        info["config"]["params"]["vectors"]["b"]["tomorrow"] = {"level": 3}
        info["config"]["params"]["sparse_vectors"]["s"]["tomorrow"] = True
        info["config"]["hnsw_config"]["tomorrow"] = 1
        info["config"]["tomorrow"] = "unheard of"
        info["payload_schema"]["f"]["params"] = {"type": "keyword", "tomorrow": False}
        newer = translate.collection(name, info, [])
        plan = planned(newer, "a", "a")
        await gateway.create_collection(f"{name}-new", plan.create)
        await gateway.create_payload_index(f"{name}-new", "f", plan.indexes["f"])
        found = config_differences(newer, await gateway.describe(f"{name}-new"), {**plan.intended, **LOADING})
        delete_collections(server_1_17.url, name)
    assert {d.path: d.source for d in found if not d.is_intended} == {
        "params.vectors.b.tomorrow.level": 3,
        "params.sparse_vectors.s.tomorrow": True,
        "hnsw_config.tomorrow": 1,
        "tomorrow": "unheard of",
        "payload_indexes.f.params.tomorrow": False,
    }


async def test_the_embedded_database_refuses_what_it_does_not_know(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        gateway = await context.gateway()
        with pytest.raises(RequestRejected, match=r"nothing was created: .*tomorrow"):
            await gateway.create_collection(name, {"vectors": dense(8, "Dot", tomorrow=1)})
        assert await gateway.collections() == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"params": {"vectors": {"a": dense(8, "Dot")}}}, "params.sparse_vectors.bow"),
        (
            {"params": {"vectors": {"a": dense(8, "Dot")}, "sparse_vectors": {"bow": {}}}, "quantization_config": None},
            "quantization_config.binary",
        ),
        ({"metadata": {"team": "search"}}, "metadata.owner"),
    ],
    ids=["an empty sparse field", "a binary quantization with nothing set", "a null of the metadata"],
)
def test_what_is_set_but_empty_is_a_difference(change: Json, expected: str) -> None:
    """A field or a setting that consists of its name is lost as easily as any other."""
    config = {
        "params": {"vectors": {"a": dense(8, "Dot")}, "sparse_vectors": {"bow": {}}},
        "quantization_config": {"binary": {}},
        "metadata": {"team": "search", "owner": None},
    }
    one, other = (translate.collection("docs", {"config": c, "status": "green"}, []) for c in (config, {**config, **change}))
    assert [d.path for d in config_differences(one, other, {})] == [expected]
    assert config_differences(one, one, {}) == []
