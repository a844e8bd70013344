"""What does Qdrant hold, and how is it changed? Collections, aliases, configuration; points are points.py's."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import suppress

import anyio
from pydantic import BaseModel, ConfigDict
from qdrant_client import models

from qdrant_model_migration.domain import quantization
from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, Replica, VectorField
from qdrant_model_migration.domain.quantization import QuantizationSettings, settings_of
from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.errors import AccessDenied, ConnectionFailed, MigrationError, NotFound, RequestRejected, Unsupported
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.changes import Changes
from qdrant_model_migration.qdrant.client import Caller, close_caller, open_caller
from qdrant_model_migration.qdrant.points import Points
from qdrant_model_migration.qdrant.raw import Raw
from qdrant_model_migration.qdrant.searches import Searches
from qdrant_model_migration.qdrant.shards import Shards
from qdrant_model_migration.qdrant.vectors import Vectors
from qdrant_model_migration.settings import Connection

Version = tuple[int, int, int]

GATES: dict[str, Version] = {
    "random_sample": (1, 11, 0),
    "update_filter": (1, 15, 4),
    "server_bm25": (1, 15, 2),
    "collection_metadata": (1, 16, 0),
    "update_mode": (1, 17, 0),
    "update_queue": (1, 17, 0),
    "create_vector_name": (1, 18, 0),
}
"""The first server version with each feature."""


ALIAS_LOOKS = 20
ALIAS_EVERY_S = 0.1
"""For the news of a moved alias to reach every peer of a cluster."""


class ServerFacts(BaseModel):
    """Which Qdrant this is."""

    model_config = ConfigDict(frozen=True)

    version: str
    is_embedded: bool
    is_cluster: bool = False
    """Cluster mode is on, were it with one peer; taken for granted where the key may not ask."""

    @property
    def parsed(self) -> Version:
        numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in self.version.split("-")[0].split(".")[:3]]
        major, minor, patch = [*numbers, 0, 0, 0][:3]
        return major, minor, patch

    def can(self, feature: str) -> bool:
        """Whether this version is new enough; the embedded database follows the client, which has them all."""
        if feature == "server_bm25" and self.is_embedded:
            return False
        return self.is_embedded or self.parsed >= GATES[feature]

    @property
    def capabilities(self) -> list[str]:
        return [feature for feature in GATES if self.can(feature)]


class Gateway:
    """One Qdrant, server or embedded."""

    def __init__(self, caller: Caller) -> None:
        self.call = caller
        self.connection = caller.connection
        self.points = Points(caller)
        self.shards = Shards(caller)
        self.vectors = Vectors(caller)
        self.searches = Searches(caller)
        self.changes = Changes(caller)
        self._raw = Raw(caller)
        self._facts: ServerFacts | None = None

    @classmethod
    def open(cls, connection: Connection, *, patience_s: float, timeout_s: float) -> Gateway:
        """Open a connection. A server is not asked anything yet; the embedded database is locked for this process.

        Raises:
            AlreadyExists: another process holds the embedded database.
        """
        return cls(open_caller(connection, patience_s=patience_s, timeout_s=timeout_s))

    def guarded(self, check: Callable[[], None]) -> Gateway:
        """The same Qdrant, where `check` may raise before every request."""
        made = Gateway(self.call.guarded(check))
        made._facts = self._facts
        return made

    async def close(self) -> None:
        await close_caller(self.call)

    async def facts(self) -> ServerFacts:
        """Version and mode, asked once."""
        if self._facts is None:
            if self.connection.is_embedded:
                from importlib.metadata import version

                self._facts = ServerFacts(version=version("qdrant-client"), is_embedded=True)
            else:
                info = await self.call(self.call.rest.info)
                try:
                    is_cluster = await self.shards.peers() > 0
                except AccessDenied:
                    is_cluster = True
                self._facts = ServerFacts(version=info.version, is_embedded=False, is_cluster=is_cluster)
        return self._facts

    async def require(self, feature: str, purpose: str) -> None:
        """Refuse when the server is too old for a feature.

        Raises:
            Unsupported: names both versions.
        """
        facts = await self.facts()
        if not facts.can(feature):
            needed = ".".join(str(n) for n in GATES[feature])
            raise Unsupported(f"Nothing was changed: {purpose} needs Qdrant {needed} or later, and this server is {facts.version}.")

    async def require_cluster(self, purpose: str) -> None:
        """Refuse where there are no shard keys. A server that is no cluster creates such a collection, and then no key for it.

        Raises:
            Unsupported: says what this connection is instead.
        """
        facts = await self.facts()
        if not facts.is_cluster:
            what = "the embedded database" if facts.is_embedded else f"a single server ({facts.version}, its cluster mode is off)"
            raise Unsupported(
                f"Nothing was created: {purpose} uses custom sharding, which only a Qdrant cluster has, and connection "
                f"{self.connection.name!r} is {what}. Choose a connection to a cluster."
            )

    # --- reading

    async def collections(self) -> list[str]:
        found = await self.call(self.call.rest.get_collections)
        return sorted(c.name for c in found.collections)

    async def aliases(self) -> dict[str, str]:
        """Alias -> collection."""
        found = await self.call(self.call.rest.get_aliases)
        return {a.alias_name: a.collection_name for a in found.aliases}

    async def exists(self, name: str) -> bool:
        """Whether a collection of exactly this name exists (an alias is none)."""
        return name in await self.collections()

    async def resolve(self, name: str, *, must_list: bool = False) -> tuple[str, str | None]:
        """(collection, alias): a name that is an alias is resolved and given back beside it.

        A key limited to some collections may not list; with `must_list` that is an error, else the name is taken as it is.

        Raises:
            AccessDenied: nothing can be listed, and it must be.
            NotFound: neither a collection nor an alias; lists near misses.
        """
        try:
            aliases = await self.aliases()
            collections = await self.collections()
        except AccessDenied:
            if must_list:
                raise
            # The collection itself still answers.
            await self._raw.describe(name)
            return name, None
        if name in aliases:
            return aliases[name], name
        if name in collections:
            return name, None
        if "\\" in name:
            # Answers write out what would be hidden in a name; Qdrant allows no backslash in the name of a collection.
            meant = [known for known in {*collections, *aliases} if visible(known, one_line=True) == name]
            if len(meant) == 1:
                return aliases.get(meant[0], meant[0]), meant[0] if meant[0] in aliases else None
        raise NotFound.named("collection or alias", name, {*collections, *aliases})

    async def describe(self, name: str) -> Collection:
        """A collection in full.

        Raises:
            NotFound: it does not exist.
        """
        info = await self._raw.describe(name)
        try:
            aliases = [alias for alias, collection in (await self.aliases()).items() if collection == name]
        except AccessDenied:
            aliases = []
        is_custom = info["config"]["params"].get("sharding_method") == models.ShardingMethod.CUSTOM.value
        keys = await self.shards.keys(name) if is_custom else []
        try:
            replicas = await self.replicas(name)
        except AccessDenied:
            replicas = []
        return translate.collection(name, info, aliases, keys, replicas, await self._peers(replicas))

    async def replicas(self, name: str) -> list[Replica]:
        """Every replica of every shard with its peer and state, in a cluster; else none.

        Raises:
            NotFound: no such collection, or the peer that answers has not heard of it yet.
        """
        return await self.shards.replicas(name) if (await self.facts()).is_cluster else []

    async def _peers(self, replicas: Sequence[Replica]) -> int:
        """Servers of the cluster; where the key may not ask, those that hold something of a collection."""
        if not (await self.facts()).is_cluster:
            return 1
        try:
            return max(1, await self.shards.peers())
        except AccessDenied:
            return max(1, len({r.peer for r in replicas}))

    async def queue_length(self, name: str) -> int | None:
        """Updates that wait to be applied; None where the server does not tell."""
        queue = (await self._raw.describe(name)).get("update_queue")
        return None if queue is None else int(queue["length"])

    # --- collections

    async def create_collection(self, name: str, create: Json) -> None:
        """Create a collection from a recorded request, with its shard keys; in a cluster, wait until every replica is active.

        Raises:
            AlreadyExists: the name is taken, by a collection or an alias.
            Unsupported: custom sharding, and this is no cluster.
            ConnectionFailed: some replica did not become active; nothing is left of the collection as far as it could be removed.
        """
        if create.get("sharding_method") == models.ShardingMethod.CUSTOM.value:
            await self.require_cluster(f"{name!r}")
        # The rest is no part of the request: it takes calls of its own.
        await self._raw.create(name, {key: value for key, value in create.items() if key not in ("params_after", "shard_keys")})
        try:
            diff = {k: v for k, v in (create.get("params_after") or {}).items() if v is not None}
            if diff:
                await self.update(name, {"params": diff})
            await self.create_shard_keys(name, create.get("shard_keys") or ())
        except MigrationError:
            with suppress(MigrationError):
                await self.delete_collection(name)
            raise

    async def create_shard_keys(self, name: str, keys: Sequence[Json]) -> None:
        """Create those of the shard keys that the collection lacks, as `Collection.shard_key_config` has them.

        In a cluster, also wait until every replica of the collection is active.

        Raises:
            Unsupported: there are keys, and this is no cluster.
            ConnectionFailed: some replica did not become active.
        """
        if keys:
            await self.require_cluster(f"{name!r}")
            await self.shards.create_keys(name, keys)
        if (await self.facts()).is_cluster:
            await self.shards.wait_until_active(name, keys=keys)

    async def create_payload_index(self, name: str, field: str, index: Json) -> None:
        """An index with the parameters of the source's. The embedded database has none."""
        await self._raw.index(name, field, index.get("params") or index["data_type"])

    async def update(self, name: str, changes: Json) -> None:
        """Change `optimizers`, `params`, `strict_mode`, `metadata` of a collection, given as JSON."""
        keys = {"optimizers": "optimizers_config", "params": "params", "strict_mode": "strict_mode_config", "metadata": "metadata"}
        await self._raw.update(name, {keys[key]: value for key, value in changes.items() if value is not None})

    async def set_quantization(self, name: str, wanted: QuantizationSettings) -> Collection:
        """Set the quantization of a collection and its fields, where it differs, in one request; the description read back.

        The server goes on to quantize its segments: `wait_until_ready`.

        Raises:
            MigrationError: it kept another configuration, or somebody else changed it at the same time.
        """
        body = quantization.request(settings_of(await self.describe(name)), wanted)
        if body:
            await self._raw.update(name, body)
        found = await self.describe(name)
        other = quantization.differences(wanted, settings_of(found))
        if other:
            raise MigrationError(
                f"The quantization of {name!r} was set, but reads back otherwise in {', '.join(d.path for d in other)}: "
                "this server does not keep it, or somebody else changes it."
            )
        return found

    async def delete_collection(self, name: str, *, with_aliases: Container[str] = ()) -> None:
        """Delete a collection. Its aliases vanish with it, so it is refused while another than `with_aliases` points there.

        Raises:
            RequestRejected: an alias points to it, or Qdrant says it deleted nothing.
        """
        pointing = [alias for alias, collection in (await self.aliases()).items() if collection == name and alias not in with_aliases]
        if pointing:
            raise RequestRejected(f"Collection {name!r} was not deleted: alias {', '.join(map(repr, pointing))} points to it.")
        if not await self.exists(name):
            return
        await self.call(lambda: self.call.rest.delete_collection(name))
        if await self.exists(name):
            raise RequestRejected(f"Collection {name!r} was not deleted: Qdrant still lists it.")

    async def snapshot(self, name: str, *, timeout_s: float = 6 * 3600) -> str | None:
        """Create a snapshot and return its name; None where there are none (embedded).

        A big one takes longer than any request: it is asked for once, and looked for until it is there.

        Raises:
            ConnectionFailed: none appeared in time.
        """
        if self.connection.is_embedded:
            return None
        before = {s.name for s in await self.call(lambda: self.call.rest.list_snapshots(name))}
        await self.call(lambda: self.call.rest.create_snapshot(name, wait=False))
        with anyio.move_on_after(timeout_s):
            while True:
                made = [s.name for s in await self.call(lambda: self.call.rest.list_snapshots(name)) if s.name not in before]
                if made:
                    return made[0]
                await anyio.sleep(0.5)
        raise ConnectionFailed(f"The snapshot of {name!r} was not finished within {timeout_s:.0f} s; nothing was deleted.")

    # --- vector fields

    async def add_vector(self, name: str, field: VectorField) -> None:
        """Add a vector field to a collection (>= 1.18, embedded); existing points lack it until it is filled.

        What the call does not take (HNSW, quantization, on disk) is set by `tune_vector`.

        Raises:
            Unsupported: this server cannot.
        """
        await self.require("create_vector_name", f"adding the vector field {field.name!r} to {name!r}")
        config: models.DenseVectorNameConfig | models.SparseVectorNameConfig
        if field.kind is FieldKind.SPARSE:
            sparse = {key: field.config[key] for key in ("modifier", "datatype") if field.config.get(key) is not None}
            config = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig.model_validate(sparse))
        else:
            known = ("size", "distance", "multivector_config", "datatype")
            dense = {key: field.config[key] for key in known if field.config.get(key) is not None}
            config = models.DenseVectorNameConfig(dense=models.DenseVectorConfig.model_validate(dense))
        await self.call(lambda: self.call.rest.create_vector_name(name, field.name, config, wait=True))

    async def tune_vector(self, name: str, field: VectorField) -> None:
        """Set what a vector field is created without: HNSW, quantization, on disk. The embedded database has none of it."""
        if self.connection.is_embedded:
            return
        if field.kind is FieldKind.SPARSE:
            body: Json = {"sparse_vectors": {field.name: field.config}} if field.config.get("index") else {}
        else:
            known = ("hnsw_config", "quantization_config", "on_disk")
            wanted = {key: field.config[key] for key in known if field.config.get(key) is not None}
            body = {"vectors": {field.name: wanted}} if wanted else {}
        if body:
            await self._raw.update(name, body)

    async def delete_vector(self, name: str, field: str) -> None:
        """Remove a vector field, with its vectors, from a collection (>= 1.18, embedded); nothing happens when it is not there.

        Raises:
            Unsupported: this server cannot.
            RequestRejected: it is still there afterwards.
        """
        await self.require("create_vector_name", f"removing the vector field {field!r} from {name!r}")
        if (await self.describe(name)).field(field) is None:
            return
        await self.call(lambda: self.call.rest.delete_vector_name(name, field, wait=True))
        if (await self.describe(name)).field(field) is not None:
            raise RequestRejected(f"Vector {field!r} of {name!r} was not removed: Qdrant still lists it.")

    # --- aliases

    async def point_alias(self, alias: str, collection: str) -> None:
        """Point an alias at a collection by one CreateAlias, atomic for readers, and read it back.

        Raises:
            MigrationError: it points elsewhere afterwards.
        """
        operation = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))
        await self.call(lambda: self.call.rest.update_collection_aliases([operation]))
        now = (await self.aliases()).get(alias)
        if now != collection and (await self.facts()).is_cluster:
            # Another peer may answer than the one that made the change.
            for _ in range(ALIAS_LOOKS):
                await anyio.sleep(ALIAS_EVERY_S)
                now = (await self.aliases()).get(alias)
                if now == collection:
                    break
        if now != collection:
            raise MigrationError(f"Alias {alias!r} was asked to point to {collection!r} but points to {now!r}: somebody else moves it.")

    async def delete_alias(self, alias: str) -> None:
        """Remove an alias that this tool created."""
        operation = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        await self.call(lambda: self.call.rest.update_collection_aliases([operation]))

    async def wait_until_ready(self, name: str, *, timeout_s: float, looks: int = 3, every_s: float = 0.5) -> bool:
        """Wait for a sustained green: `looks` times in a row, with nothing queued and every replica active. False when the time is up.

        Whether the index is built is known of the replicas that the answering peer reads from; others may be behind.
        """
        if self.connection.is_embedded:
            return True
        in_a_row = 0
        with anyio.move_on_after(timeout_s):
            while in_a_row < looks:
                info = await self._raw.describe(name)
                queue = info.get("update_queue")
                is_calm = info["status"] == models.CollectionStatus.GREEN.value and (queue is None or queue["length"] == 0)
                is_calm = is_calm and all(r.is_active for r in await self.replicas(name))
                in_a_row = in_a_row + 1 if is_calm else 0
                if info["status"] == models.CollectionStatus.GREY.value:
                    # Grey never resolves by itself; any write, even one that finds nothing, wakes the optimizers.
                    await self.points.wake(name)
                await anyio.sleep(every_s)
        return in_a_row >= looks
