"""What must the target look like? The source's configuration with the replaced field resized."""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, fields_of
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.target import TargetPlan, distance_for, plan_target, provenance_without, target_name
from qdrant_model_migration.errors import Refused

MODEL = ModelSpec(name="fastembed:BAAI/bge-small-en-v1.5", dimensions=384)


def collection(vectors: Json, sparse: Json | None = None, **config: Any) -> Collection:
    params: Json = {"vectors": vectors, "shard_number": 1, **({"sparse_vectors": sparse} if sparse else {}), **config.pop("params", {})}
    return Collection(name="docs", points=10, fields=fields_of(params), config={"params": params, **config})


def dense(size: int = 8, distance: str = "Cosine", **more: Any) -> Json:
    return {"size": size, "distance": distance, **more}


def planned(
    source: Collection, field: str, new_name: str, *, model: ModelSpec = MODEL, has_metadata: bool = True, **options: Any
) -> TargetPlan:
    return plan_target(
        source,
        source.field_to_replace(field),
        model,
        new_name=new_name,
        text_field="text",
        migration_id="m-1",
        has_metadata=has_metadata,
        on_disk=options.get("on_disk"),
    )


@pytest.mark.parametrize(
    ("vectors", "field", "new_name", "expected"),
    [
        (dense(), "", "", dense(384)),
        (dense(), "", "new", {"new": dense(384)}),
        ({"a": dense(), "b": dense(4)}, "a", "a", {"a": dense(384), "b": dense(4)}),
        ({"a": dense(), "b": dense(4)}, "a", "new", {"new": dense(384), "b": dense(4)}),
        ({"a": dense()}, "a", "", dense(384)),
        ({"": dense(), "b": dense(4)}, "", "", {"": dense(384), "b": dense(4)}),
    ],
)
def test_the_replaced_field_is_resized_and_the_others_are_copied(vectors: Json, field: str, new_name: str, expected: Json) -> None:
    source = collection(vectors, {"bow": {"modifier": "idf"}})
    plan = planned(source, field, new_name)
    assert plan.create["vectors"] == expected
    assert plan.create["sparse_vectors"] == {"bow": {"modifier": "idf"}}
    assert plan.recipes[0] == Recipe(field=new_name, kind="embed", source_field=field, dimensions=384)
    copied = {f.name for f in source.fields} - {field}
    assert {(r.field, r.source_field, r.kind) for r in plan.recipes[1:]} == {(name, name, "copy") for name in copied}


def test_the_settings_of_the_replaced_field_stay_but_for_what_the_model_decides() -> None:
    source = collection(dense(on_disk=True, hnsw_config={"m": 24}, quantization_config={"binary": {}}, datatype="float16"))
    assert planned(source, "", "").create["vectors"] == {**source.fields[0].config, "size": 384}
    assert planned(source, "", "", on_disk=False).create["vectors"]["on_disk"] is False


def test_bytes_give_way_to_floats() -> None:
    assert "datatype" not in planned(collection(dense(datatype="uint8")), "", "").create["vectors"]


@pytest.mark.parametrize(
    ("stored", "is_normalized", "trained", "expected"),
    [
        ("Cosine", True, "Cosine", "Cosine"),
        ("Dot", True, "Cosine", "Dot"),
        ("Euclid", True, "Cosine", "Euclid"),
        ("Manhattan", True, "Cosine", "Cosine"),
        ("Cosine", False, "Dot", "Dot"),
        ("Euclid", False, "Dot", "Dot"),
    ],
)
def test_the_distance_stays_where_unit_vectors_rank_the_same(stored: str, is_normalized: bool, trained: str, expected: str) -> None:
    """|a-b|^2 = 2 - 2ab for unit vectors: Euclid, dot product and cosine rank alike; Manhattan does not."""
    model = ModelSpec(name="m", dimensions=4, is_normalized=is_normalized, distance=trained)
    assert distance_for(collection(dense(distance=stored)).fields[0], model) == expected


def test_index_building_and_strict_mode_wait() -> None:
    source = collection(
        dense(), optimizer_config={"indexing_threshold": 777, "flush_interval_sec": 9}, strict_mode_config={"enabled": True}
    )
    plan = planned(source, "", "")
    assert plan.create["optimizers_config"] == {"indexing_threshold": 0, "flush_interval_sec": 9}
    assert plan.restore == {"indexing_threshold": 777}
    assert plan.on_cutover == {"strict_mode": {"enabled": True}}
    assert "strict_mode_config" not in plan.create
    assert planned(collection(dense()), "", "").on_cutover == {}


def test_provenance_is_added_to_the_metadata_that_there_is() -> None:
    source = collection(dense(), metadata={"team": "search", "model_migration": {"model": "an older one"}})
    metadata = planned(source, "", "").create["metadata"]
    assert metadata["team"] == "search"
    assert metadata["model_migration"]["model"] == MODEL.name
    assert (metadata["model_migration"]["migration_id"], metadata["model_migration"]["text_field"]) == ("m-1", "text")
    assert "metadata" not in planned(source, "", "", has_metadata=False).create


def test_a_read_fan_out_is_set_after_the_creation() -> None:
    plan = planned(collection(dense(), params={"read_fan_out_factor": 2, "on_disk_payload": False}), "", "")
    assert plan.create["params_after"] == {"read_fan_out_factor": 2}
    assert plan.create["on_disk_payload"] is False


@pytest.mark.parametrize(
    ("model", "taken", "name"),
    [
        (MODEL.name, set(), "docs__bge_small_en_v1_5"),
        (MODEL.name, {"docs__bge_small_en_v1_5"}, "docs__bge_small_en_v1_5_2"),
        (MODEL.name, {"docs__bge_small_en_v1_5", "docs__bge_small_en_v1_5_2"}, "docs__bge_small_en_v1_5_3"),
        ("openai:text-embedding-3-large@1024", set(), "docs__text_embedding_3_large_1024"),
        ("mine", set(), "docs__mine"),
        ("übel:日本", set(), "docs__target"),
    ],
)
def test_a_free_name_says_what_is_in_it(model: str, taken: set[str], name: str) -> None:
    assert target_name("docs", model, taken) == name


def test_the_field_to_replace_must_be_one_dense_field() -> None:
    source = collection({"a": dense(), "b": dense(), "m": dense(multivector_config={"comparator": "max_sim"})}, {"s": {}})
    assert source.field_to_replace("a").kind is FieldKind.DENSE
    with pytest.raises(Refused, match=r"has 2 dense vectors \(a, b\)"):
        source.field_to_replace(None)
    for name in ("m", "s", "missing"):
        with pytest.raises(Refused, match=f"no dense vector '{name}'"):
            source.field_to_replace(name)
    with pytest.raises(Refused, match="no dense vector that could be embedded"):
        collection({}).field_to_replace(None)


def test_the_metadata_forgets_a_field_that_is_gone() -> None:
    old, new = {"kind": "dense", "model": "old", "dimensions": 8}, {"kind": "dense", "model": "new", "dimensions": 4}
    metadata = {"team": "search", "model_migration": {"migration_id": "m-2", "model": "old", "vectors": {"a": old, "b": new}}}
    # The added field was discarded: the old one is what is there.
    assert provenance_without(metadata, "b", new="b") == {"model_migration": {"migration_id": "m-2", "model": "old", "vectors": {"a": old}}}
    # The old field went: readers that resolve the model find the new one.
    assert provenance_without(metadata, "a", new="b") == {
        "model_migration": {"migration_id": "m-2", "model": "new", "dimensions": 4, "vectors": {"b": new}}
    }
    assert provenance_without({"team": "search"}, "a", new="b") is None
