"""What must the target look like? The source's whole configuration, with the replaced field resized; pure."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain import quantization
from qdrant_model_migration.domain.collection import METADATA_KEY, Collection, FieldKind, Json, VectorField, fields_of, is_same_setting
from qdrant_model_migration.domain.fence import is_raised
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.strategies import STRATEGY, Strategy
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import ConfigDifference

_CREATION_PARAMS = ("shard_number", "sharding_method", "replication_factor", "write_consistency_factor", "on_disk_payload")
_UPDATED_PARAMS = ("read_fan_out_factor", "read_fan_out_delay_ms")
MAX_NAME_BYTES = 255
"""Of a collection: Qdrant's limit in characters, and a file system's in bytes."""
_FORBIDDEN = frozenset('<>:"/\\|?*')
"""Qdrant's own list. The embedded database checks nothing and makes folders of names."""
EMBEDDED_UNSTATED = {
    **dict.fromkeys(
        ("hnsw_config", "optimizer_config", "wal_config", "strict_mode_config"), "the embedded database has no index and no optimizers"
    ),
    **dict.fromkeys(
        ("params.on_disk_payload", "params.replication_factor", "params.shard_number", "params.write_consistency_factor"),
        "the embedded database has no such setting",
    ),
    "payload_indexes": "the embedded database has no payload indexes",
}
"""Settings that a collection cannot have in common with one in the embedded database, with the reason."""


class TargetPlan(BaseModel):
    """How the target is created, and how it will differ from the source on purpose."""

    model_config = ConfigDict(frozen=True)

    create: Json
    restore: Json = {}
    on_cutover: Json = {}
    indexes: dict[str, Json] = {}
    intended: dict[str, str] = {}
    recipes: tuple[Recipe, ...]


def slug(model: str) -> str:
    """The model's name as a part of other names."""
    return re.sub(r"[^a-z0-9]+", "_", model.rpartition(":")[2].rpartition("/")[2].lower()).strip("_")[:40] or "target"


def target_name(source: str, model: str, taken: set[str]) -> str:
    """A free name that says what is in it: `docs__bge_small_en_v1_5`, then `…_2`; a long source name is cut to make room."""
    number = 1
    while True:
        tail = f"__{slug(model)}" if number == 1 else f"__{slug(model)}_{number}"
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


def provenance(
    source: Collection, strategy: Strategy, field: str, model: ModelSpec, text_field: str, migration_id: str, extra: Json | None = None
) -> Json:
    """What the metadata says about the made field.

    A field that replaces the old one is described at the top, where self-resolving readers look; one that stands beside it only under
    `vectors`, by its name, so that they go on reading which model the old field needs.
    """
    before = source.metadata.get(METADATA_KEY)
    known: Json = dict(before) if isinstance(before, dict) else {}
    entry: Json = {
        "model": model.name,
        "dimensions": model.dimensions,
        "distance": model.distance,
        "text_field": text_field,
        "fingerprint": model.fingerprint,
        "document_prefix": model.document_prefix,
        "query_prefix": model.query_prefix,
        **({"options": dict(model.options)} if model.options else {}),
        **(extra or {}),
    }
    vectors = {**(known.get("vectors") or {}), field: {"kind": model.kind.value, **entry}}
    if strategy.adds_field:
        return {METADATA_KEY: {**known, "migration_id": migration_id, "vectors": vectors}}
    return {METADATA_KEY: {"migration_id": migration_id, **entry, "vectors": vectors}}


def provenance_without(metadata: Json, field: str, *, new: str) -> Json | None:
    """The metadata's change once a field is removed: it is no longer listed, and where the old field went, the new one is described at the top.

    None when the metadata says nothing about the field.
    """
    held = metadata.get(METADATA_KEY)
    if not isinstance(held, dict):
        return None
    vectors = {name: entry for name, entry in (held.get("vectors") or {}).items() if name != field}
    top = {key: held[key] for key in ("migration_id",) if key in held} if field != new and new in vectors else held
    described = {key: value for key, value in vectors[new].items() if key != "kind"} if field != new and new in vectors else {}
    changed = {**top, **described, "vectors": vectors}
    return None if changed == held else {METADATA_KEY: changed}


def distance_for(replaced: VectorField, model: ModelSpec) -> str:
    """The source's distance where unit vectors rank the same under all of them, else the one the model was trained for."""
    if model.is_normalized and replaced.distance in ("Cosine", "Dot", "Euclid"):
        return replaced.distance
    return model.distance


def default_field(strategy: Strategy, old: VectorField | None, model: ModelSpec, taken: set[str]) -> str:
    """Name of the made field where none is given: the old one's where it is replaced, else one that says what it is for."""
    if not strategy.adds_field:
        return old.name if old is not None else ""
    wanted = {ModelKind.SPARSE: "sparse", ModelKind.MULTIVECTOR: "multivector"}.get(model.kind) or slug(model.name)
    number = 1
    while (name := wanted if number == 1 else f"{wanted}_{number}") in taken:
        number += 1
    return name


def plan_target(
    source: Collection,
    old: VectorField | None,
    model: ModelSpec,
    *,
    new_name: str,
    text_field: str,
    migration_id: str,
    has_metadata: bool,
    on_disk: bool | None,
    strategy: Strategy = STRATEGY["new_collection"],
    is_in_place: bool = False,
    quantization: Json | None = None,
) -> TargetPlan:
    """Clone the configuration and add or replace the made field; in place only the field itself.

    `old` is the dense field in question: replaced, or the one that the made field stands beside.
    """
    entry = field_entry(old, model, on_disk, quantization)
    if strategy.made == "truncate" and old is not None:
        # The same model: what its vectors were compared by, their beginnings are.
        entry["distance"] = old.distance
    stage: Literal["insert", "fill"] = "fill" if is_in_place else strategy.stage
    made = Recipe(
        field=new_name,
        kind=strategy.made or "embed",
        source_field=old.name if old is not None and model.kind is ModelKind.DENSE else None,
        stage=stage,
        vector_kind=FieldKind(model.kind.value),
        dimensions=model.dimensions,
    )
    told = provenance(source, strategy, new_name, model, text_field, migration_id) if has_metadata else None
    if is_in_place:
        key = "sparse_vectors" if model.kind is ModelKind.SPARSE else "vectors"
        return TargetPlan(create={key: {new_name: entry}, **({"metadata": told} if told else {})}, recipes=(made,))
    removed = None if strategy.adds_field or old is None or old.name == new_name else old.name
    replaced = None if strategy.adds_field or old is None else old.name
    create, intended = _clone(source, without=replaced)
    fields = create.setdefault("sparse_vectors" if model.kind is ModelKind.SPARSE else "vectors", {})
    fields[new_name] = entry
    if set(create["vectors"]) == {""}:
        create["vectors"] = create["vectors"][""]
    if told is not None:
        create["metadata"] = {**source.metadata, **told}
    intended |= _intended(new_name, entry, model.kind, is_replaced=replaced == new_name, removed=removed)
    on_cutover: Json = {}
    if is_raised(source.strict_mode):
        raise Refused(
            f"Nothing was changed: the write rate of {source.name!r} is limited to one a minute, as a swap does for its seconds; a target would be given that limit. "
            "Try again when that is over."
        )
    if source.strict_mode:
        on_cutover["strict_mode"] = source.strict_mode
        intended["strict_mode_config"] = "applied right after the cutover, so that it hinders neither the load nor the late writes"
    copies = [
        Recipe(field=f.name, kind="copy", source_field=f.name, vector_kind=f.kind, dimensions=f.size)
        for f in source.fields
        if f.name != replaced
    ]
    return TargetPlan(
        create=create,
        restore={"indexing_threshold": (source.config.get("optimizer_config") or {}).get("indexing_threshold", 10_000)},
        on_cutover=on_cutover,
        indexes=source.payload_indexes,
        intended=intended,
        recipes=(made, *copies),
    )


def _clone(source: Collection, *, without: str | None) -> tuple[Json, dict[str, str]]:
    """The creation request for a collection configured as the source is, less one field, and the paths that differ on purpose."""
    config, params = source.config, source.config.get("params", {})
    create: Json = {
        "vectors": {f.name: f.config for f in source.fields if f.kind is not FieldKind.SPARSE and f.name != without},
        **{key: params[key] for key in _CREATION_PARAMS if params.get(key) is not None},
    }
    if params.get("sparse_vectors"):
        create["sparse_vectors"] = dict(params["sparse_vectors"])
    for key in ("hnsw_config", "wal_config", "quantization_config"):
        if config.get(key):
            create[key] = config[key]
    # Index building would compete with the load; the threshold is restored when the ranges are done.
    create["optimizers_config"] = {**dict(config.get("optimizer_config") or {}), "indexing_threshold": 0}
    if source.shard_key_config:
        create["shard_keys"] = list(source.shard_key_config)
    after = {key: params[key] for key in _UPDATED_PARAMS if params.get(key) is not None}
    if after:
        create["params_after"] = after
    return create, {f"metadata.{METADATA_KEY}": "provenance of the new vectors"}


def field_entry(old: VectorField | None, model: ModelSpec, on_disk: bool | None, quantization: Json | None) -> Json:
    """Configuration of the made field: as the old one's, but for what the model and the person decide."""
    entry: Json
    if model.kind is ModelKind.SPARSE:
        entry = {"modifier": model.modifier} if model.modifier else {}
        return entry if on_disk is None else {**entry, "index": {"on_disk": on_disk}}
    if model.kind is ModelKind.MULTIVECTOR:
        # It reranks a short list: a graph over every token would cost memory for nothing.
        entry = {
            "size": model.dimensions,
            "distance": model.distance,
            "multivector_config": {"comparator": "max_sim"},
            "hnsw_config": {"m": 0},
            "on_disk": True if on_disk is None else on_disk,
        }
    else:
        inherited = old.config if old is not None else {}
        distance = distance_for(old, model) if old is not None else model.distance
        entry = {**inherited, "size": model.dimensions, "distance": distance}
        if entry.get("datatype") == "uint8":
            # Only models that answer in bytes fill such a field; floats would be cut to nothing.
            del entry["datatype"]
        if on_disk is not None:
            entry["on_disk"] = on_disk
    if quantization is not None:
        entry["quantization_config"] = quantization
    return entry


def _intended(name: str, entry: Json, kind: ModelKind, *, is_replaced: bool, removed: str | None) -> dict[str, str]:
    """Config paths that the made field changes."""
    why = "the field of the new model"

    def path(field: str) -> str:
        return f"params.vectors.{field or chr(34) * 2}"

    if kind is ModelKind.SPARSE:
        return {f"params.sparse_vectors.{name}": why}
    if is_replaced:
        return {f"{path(name)}.{key}": why for key in ("size", "distance", "datatype", "on_disk", "quantization_config")}
    return {path(field): why for field in (name, removed) if field is not None}


def planned_differences(migration: Migration, found: Collection) -> list[ConfigDifference]:
    """Where a field that was added in place, or its quantization, is not configured as planned."""
    if migration.quantization is not None and migration.made is None:
        return _quantization_differences(migration, found)
    planned = {f.name: f for f in fields_of(migration.create)}
    there = {f.name: f for f in found.fields}
    differences: list[ConfigDifference] = []
    for name, field in planned.items():
        held = there[name].config if name in there else {}
        for key, wanted in field.config.items():
            if not _holds(held.get(key), wanted):
                path = f"params.{_kind(field)}.{name}.{key}"
                note = migration.intended.get(path)
                differences.append(
                    ConfigDifference(path=path, source=wanted, target=held.get(key), is_intended=note is not None, note=note)
                )
    return differences


def _quantization_differences(migration: Migration, found: Collection) -> list[ConfigDifference]:
    name = migration.dense_field or ""
    field = found.field(name)
    wanted = quantization.requested(migration.quantization) if migration.quantization is not None and field is not None else None
    held = quantization.settings_of(found).effective(name)
    if field is not None and quantization.is_same(held, wanted):
        return []
    return [ConfigDifference(path=f"params.vectors.{name or chr(34) * 2}.quantization_config", source=wanted, target=held)]


def _kind(field: VectorField) -> str:
    return "sparse_vectors" if field.kind is FieldKind.SPARSE else "vectors"


def _holds(held: object, wanted: object) -> bool:
    """Whether a setting is there; what the server adds to it by itself does not matter."""
    if isinstance(wanted, dict):
        return isinstance(held, dict) and all(_holds(held.get(key), value) for key, value in wanted.items())
    return wanted is None or is_same_setting(held, wanted)
