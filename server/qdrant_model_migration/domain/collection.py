"""What is a collection, as far as a migration is concerned? Its fields, its configuration and how two of them differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.points import ShardKey
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import ConfigDifference, VectorInfo

METADATA_KEY = "model_migration"
"""Key of the collection's metadata under which provenance is kept."""

NULL = "null"
"""How a null of the metadata is shown: unlike elsewhere, it is a value there."""

Json = dict[str, Any]


UNLIMITED_WRITES = 1_000_000_000
"""Writes a minute. Qdrant cannot unset a limit that was set once, so that this stands for none."""


class FieldKind(StrEnum):
    DENSE = "dense"
    SPARSE = "sparse"
    MULTIVECTOR = "multivector"


class VectorField(BaseModel):
    """One vector field; the unnamed one is called ""."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: FieldKind
    size: int | None = None
    distance: str | None = None
    datatype: str = "float32"
    config: Json = {}

    def info(self) -> VectorInfo:
        quantization = self.config.get("quantization_config") or {}
        return VectorInfo(
            name=self.name,
            size=self.size,
            distance=self.distance,
            kind=self.kind.value,
            datatype=self.datatype,
            on_disk=self.config.get("on_disk"),
            quantization=next(iter(quantization), None),
            modifier=self.config.get("modifier"),
        )


class Replica(BaseModel):
    """One copy of one shard."""

    model_config = ConfigDict(frozen=True)

    shard: int
    key: ShardKey | None = None
    peer: int
    state: str
    is_arriving: bool = False
    """The shard is on its way to this peer, and the copy that it comes from will go."""

    @property
    def is_active(self) -> bool:
        """Up to date; a listener never gets further than that name."""
        return self.state in ("Active", "Listener")

    @property
    def label(self) -> str:
        return f"shard {self.shard} on peer {self.peer}: {self.state}"


class Collection(BaseModel):
    """A collection as the server described it; `config` is the server's own JSON."""

    model_config = ConfigDict(frozen=True)

    name: str
    points: int
    fields: tuple[VectorField, ...]
    config: Json
    payload_indexes: dict[str, Json] = {}
    """Field -> {"data_type": ..., "params": ... or absent}."""
    status: str = "green"
    optimizer_ok: bool = True
    optimizer_error: str | None = None
    segments: int = 0
    indexed_vectors: int | None = None
    aliases: tuple[str, ...] = ()
    shard_keys: tuple[ShardKey, ...] = ()
    shard_key_config: tuple[Json, ...] = ()
    """What recreates the shard keys: {"key", "shards_number", "replication_factor"} of each, in the order of `shard_keys`."""
    replicas: tuple[Replica, ...] = ()
    """In a cluster."""
    peers: int = 1
    """Servers of the cluster, as far as the key may know; 1 without one."""

    @property
    def dense(self) -> list[VectorField]:
        return [f for f in self.fields if f.kind is FieldKind.DENSE]

    @property
    def metadata(self) -> Json:
        return dict(self.config.get("metadata") or {})

    def field(self, name: str) -> VectorField | None:
        return next((f for f in self.fields if f.name == name), None)

    def field_to_replace(self, name: str | None) -> VectorField:
        """The dense field that is to be embedded anew.

        Raises:
            Refused: the name is unknown or not dense, or none was given and there is not exactly one dense field.
        """
        names = [f.name or "(unnamed)" for f in self.dense]
        if name is not None:
            found = self.field(name)
            if found is None or found.kind is not FieldKind.DENSE:
                raise Refused(
                    f"Nothing was changed: {self.name!r} has no dense vector {name!r}. Its dense vectors: {', '.join(names) or 'none'}."
                )
            return found
        if len(self.dense) != 1:
            if not self.dense:
                raise Refused(
                    f"Nothing was changed: {self.name!r} has no dense vector that could be embedded anew (points hold payload only, or sparse vectors)."
                )
            raise Refused(
                f"Nothing was changed: {self.name!r} has {len(self.dense)} dense vectors ({', '.join(names)}). Name the one to replace with 'vector'."
            )
        return self.dense[0]

    @property
    def page_limit(self) -> int | None:
        """The most points a read may ask for under the collection's strict mode."""
        strict = self.config.get("strict_mode_config") or {}
        return strict.get("max_query_limit") if strict.get("enabled") else None

    @property
    def strict_mode(self) -> Json:
        """The limits that are set; a write rate that never holds is none, and nothing set and off is as if nothing were said."""
        strict = dict(self.config.get("strict_mode_config") or {})
        if strict.get("write_rate_limit") == UNLIMITED_WRITES:
            del strict["write_rate_limit"]
            if strict == {"enabled": False}:
                return {}
        return strict

    def flat_config(self) -> Json:
        """Every setting by its dotted path: vectors, indexes, shard keys and all; what is not set is left out."""
        keys = {repr(c["key"]): {k: v for k, v in c.items() if k != "key"} for c in self.shard_key_config}
        config = {**self.config, "payload_indexes": self.payload_indexes, "shard_keys": keys}
        config["strict_mode_config"] = self.strict_mode or None
        params = self.config.get("params") or {}
        if isinstance((params.get("vectors") or {}).get("size"), int):
            # An unnamed vector alone is described without a name; beside others it is called "".
            config["params"] = {**params, "vectors": {"": params["vectors"]}}
        return dict(_flattened(config, ()))


def _flattened(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    if path == ("metadata", METADATA_KEY):
        # One fact, not eight.
        yield ".".join(path), value
    elif isinstance(value, Mapping) and (value or len(path) < 2):
        for key, inner in value.items():
            yield from _flattened(inner, (*path, str(key) if key != "" else '""'))
    elif isinstance(value, Mapping):
        # Empty, but there: a sparse field, or a binary quantization, with nothing set.
        yield ".".join(path), {}
    elif value is not None:
        yield ".".join(path), value
    elif path[0] == "metadata":
        yield ".".join(path), NULL


def shard_key_config(keys: Iterable[ShardKey], replicas: Iterable[Replica]) -> tuple[Json, ...]:
    """How many shards each key has and in how many copies, as they are: a key can be created with other numbers than the collection's.

    A copy that arrives to take another's place is not counted; one that is dead is.
    """
    found: list[Json] = []
    copies = [r for r in replicas if not r.is_arriving]
    for key in keys:
        shards = [r.shard for r in copies if r.key == key and type(r.key) is type(key)]
        numbers = {"shards_number": len(set(shards)), "replication_factor": max(map(shards.count, shards))} if shards else {}
        found.append({"key": key, **numbers})
    return tuple(found)


def is_same_setting(a: object, b: object) -> bool:
    """Equal, with a tolerance for numbers: gRPC returns a quantile of 0.99 as 0.99000001."""
    if isinstance(a, int | float) and isinstance(b, int | float) and not isinstance(a, bool) and not isinstance(b, bool):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return a == b


def config_differences(source: Collection, target: Collection, intended: Mapping[str, str]) -> list[ConfigDifference]:
    """Where two collections are configured differently. `intended` maps path prefixes to the reason they may differ."""
    a, b = source.flat_config(), target.flat_config()
    found: list[ConfigDifference] = []
    for path in sorted(a.keys() | b.keys()):
        if is_same_setting(a.get(path), b.get(path)) or _is_told_below(path, a, b) or _is_told_below(path, b, a):
            continue
        note = next((why for prefix, why in intended.items() if path == prefix or path.startswith(prefix + ".")), None)
        found.append(ConfigDifference(path=path, source=a.get(path), target=b.get(path), is_intended=note is not None, note=note))
    return found


def _is_told_below(path: str, one: Json, other: Json) -> bool:
    """Whether a mapping is empty on one side only: what the other side sets in it is listed anyhow."""
    return one.get(path) == {} and path not in other and any(deeper.startswith(path + ".") for deeper in other)


def fields_of(params: Json) -> tuple[VectorField, ...]:
    """The vector fields of a collection's `params` as the server's JSON has them."""
    found: list[VectorField] = []
    vectors = params.get("vectors") or {}
    if isinstance(vectors.get("size"), int):
        vectors = {"": vectors}
    for name, entry in vectors.items():
        found.append(
            VectorField(
                name=name,
                kind=FieldKind.MULTIVECTOR if entry.get("multivector_config") else FieldKind.DENSE,
                size=entry["size"],
                distance=entry["distance"],
                datatype=entry.get("datatype") or "float32",
                config=entry,
            )
        )
    for name, entry in (params.get("sparse_vectors") or {}).items():
        datatype = ((entry or {}).get("index") or {}).get("datatype") or "float32"
        found.append(VectorField(name=name, kind=FieldKind.SPARSE, datatype=datatype, config=entry or {}))
    return tuple(found)
