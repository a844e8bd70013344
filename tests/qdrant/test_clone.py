"""Is a collection cloned in every setting? The plan, carried out and read back from the server."""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, Json, config_differences
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.target import TargetPlan, plan_target
from qdrant_model_migration.qdrant.gateway import Gateway
from tests.conftest import Backend
from tests.qdrant.seeds import opened

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
    "filter_max_conditions": 7,
    "condition_max_size": 9,
    "max_points_count": 1_000_000,
}


def dense(size: int, distance: str, **more: Any) -> Json:
    return {"size": size, "distance": distance, **more}


QUANTIZATIONS: dict[str, Json] = {
    "int8": {"scalar": {"type": "int8", "quantile": 0.97, "always_ram": True}},
    "x16": {"product": {"compression": "x16", "always_ram": False}},
    "binary": {"binary": {"always_ram": True}},
    "two_bits": {"binary": {"encoding": "two_bits", "query_encoding": "scalar8bits"}},
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
        "many": dense(4, "Cosine", multivector_config={"comparator": "max_sim"}, on_disk=True, hnsw_config={"m": 0}),
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
    "hnsw_config": {"m": 8, "ef_construct": 64, "full_scan_threshold": 20_000, "on_disk": True, "payload_m": 4},
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
    },
    "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99}},
    "metadata": {"team": "search", "nested": {"a": [1, 2.5, None, "ü"]}},
    "params_after": {"read_fan_out_factor": 2},
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
}
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
