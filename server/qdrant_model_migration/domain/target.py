"""What must the target look like? The source's whole configuration, with the replaced field resized; pure."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import METADATA_KEY, Collection, FieldKind, Json, VectorField
from qdrant_model_migration.domain.migration import Recipe
from qdrant_model_migration.domain.model import ModelSpec

_CREATION_PARAMS = ("shard_number", "sharding_method", "replication_factor", "write_consistency_factor", "on_disk_payload")
_UPDATED_PARAMS = ("read_fan_out_factor", "read_fan_out_delay_ms")
MAX_NAME_BYTES = 255
"""Of a collection: Qdrant's limit in characters, and a file system's in bytes."""
_FORBIDDEN = frozenset('<>:"/\\|?*')
"""Qdrant's own list. The embedded database checks nothing and makes folders of names."""


class TargetPlan(BaseModel):
    """How the target is created, and how it will differ from the source on purpose."""

    model_config = ConfigDict(frozen=True)

    create: Json
    restore: Json
    on_cutover: Json
    indexes: dict[str, Json]
    intended: dict[str, str]
    recipes: tuple[Recipe, ...]


def target_name(source: str, model: str, taken: set[str]) -> str:
    """A free name that says what is in it: `docs__bge_small_en_v1_5`, then `…_2`; a long source name is cut to make room."""
    slug = re.sub(r"[^a-z0-9]+", "_", model.rpartition(":")[2].rpartition("/")[2].lower()).strip("_")[:40] or "target"
    number = 1
    while True:
        tail = f"__{slug}" if number == 1 else f"__{slug}_{number}"
        name = source.encode()[: MAX_NAME_BYTES - len(tail)].decode(errors="ignore") + tail
        if name not in taken:
            return name
        number += 1


def name_problem(name: str) -> str | None:
    """Why a new collection or alias cannot have this name, or None. Existing ones are taken as they are."""
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it has {len(name.encode())} bytes, and at most {MAX_NAME_BYTES} are possible"
    bad = sorted({c for c in name if c in _FORBIDDEN or not c.isprintable()})
    if bad:
        return f"it holds {', '.join(map(repr, bad))}"
    return None if name.strip(" .") else "it is blank or holds only dots"


def provenance(model: ModelSpec, text_field: str, migration_id: str) -> Json:
    """What the target's metadata says about its embedded field."""
    return {
        METADATA_KEY: {
            "migration_id": migration_id,
            "model": model.name,
            "dimensions": model.dimensions,
            "distance": model.distance,
            "text_field": text_field,
            "fingerprint": model.fingerprint,
            "document_prefix": model.document_prefix,
            "query_prefix": model.query_prefix,
        }
    }


def distance_for(replaced: VectorField, model: ModelSpec) -> str:
    """The source's distance where unit vectors rank the same under all of them, else the one the model was trained for."""
    if model.is_normalized and replaced.distance in ("Cosine", "Dot", "Euclid"):
        return replaced.distance
    return model.distance


def plan_target(
    source: Collection,
    replaced: VectorField,
    model: ModelSpec,
    *,
    new_name: str,
    text_field: str,
    migration_id: str,
    has_metadata: bool,
    on_disk: bool | None,
) -> TargetPlan:
    """Clone the configuration; `replaced` becomes `new_name` with the model's size, every other field is copied."""
    config, params = source.config, source.config.get("params", {})
    entry = _resized(replaced, model, on_disk)
    dense: dict[str, Any] = {f.name: f.config for f in source.fields if f.kind is not FieldKind.SPARSE and f.name != replaced.name}
    dense[new_name] = entry
    vectors: Any = entry if set(dense) == {""} else dense
    create: Json = {"vectors": vectors, **{key: params[key] for key in _CREATION_PARAMS if params.get(key) is not None}}
    if params.get("sparse_vectors"):
        create["sparse_vectors"] = params["sparse_vectors"]
    for key in ("hnsw_config", "wal_config", "quantization_config"):
        if config.get(key):
            create[key] = config[key]
    optimizers = dict(config.get("optimizer_config") or {})
    # Index building would compete with the load; the threshold is restored when the ranges are done.
    create["optimizers_config"] = {**optimizers, "indexing_threshold": 0}
    if has_metadata:
        create["metadata"] = {**source.metadata, **provenance(model, text_field, migration_id)}
    after = {key: params[key] for key in _UPDATED_PARAMS if params.get(key) is not None}
    if after:
        create["params_after"] = after
    intended = {f"metadata.{METADATA_KEY}": "provenance of the new vectors"}
    intended.update(_intended(replaced, new_name, entry, is_alone=set(dense) == {""}))
    on_cutover: Json = {}
    if config.get("strict_mode_config"):
        on_cutover["strict_mode"] = config["strict_mode_config"]
        intended["strict_mode_config"] = "applied right after the cutover, so that it hinders neither the load nor the late writes"
    recipes = [Recipe(field=new_name, kind="embed", source_field=replaced.name)]
    recipes += [Recipe(field=f.name, kind="copy", source_field=f.name) for f in source.fields if f.name != replaced.name]
    return TargetPlan(
        create=create,
        restore={"indexing_threshold": optimizers.get("indexing_threshold", 10_000)},
        on_cutover=on_cutover,
        indexes=source.payload_indexes,
        intended=intended,
        recipes=tuple(recipes),
    )


def _resized(replaced: VectorField, model: ModelSpec, on_disk: bool | None) -> Json:
    entry = {**replaced.config, "size": model.dimensions, "distance": distance_for(replaced, model)}
    if entry.get("datatype") == "uint8":
        # Only models that answer in bytes fill such a field; floats would be cut to nothing.
        del entry["datatype"]
    if on_disk is not None:
        entry["on_disk"] = on_disk
    return entry


def _intended(replaced: VectorField, new_name: str, entry: Json, *, is_alone: bool) -> dict[str, str]:
    """Config paths that the replaced field changes."""

    def path(name: str) -> str:
        return f"params.vectors.{name or chr(34) * 2}"

    if new_name != replaced.name or not is_alone:
        why = "the field of the new model"
        if new_name == replaced.name:
            return {f"{path(new_name)}.{key}": why for key in ("size", "distance", "datatype", "on_disk")}
        # An unnamed source turns into a named target or the reverse: the paths of the whole entry move.
        old = {f"params.vectors.{key}": why for key in (*replaced.config, *entry)} if replaced.name == "" or new_name == "" else {}
        return {path(new_name): why, path(replaced.name): why, **old}
    return {f"params.vectors.{key}": "the field of the new model" for key in ("size", "distance", "datatype", "on_disk")}
