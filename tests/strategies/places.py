"""Where does the app of these tests keep its collection, past the code under test? Raw REST, or a handle of the client on the embedded database.

A folder of the embedded database has one owner: before and after a migration the test opens it by itself, during it the app shares the
handle of the server under test, which then runs in the test's own process, as it would for an app that embeds it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from mcp import Client
from qdrant_client import AsyncQdrantClient, QdrantClient, models

import qdrant_model_migration.app as app_module
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.context import OperationContext
from tests.conftest import Backend
from tests.mcp.hosts import Host, hosted
from tests.servers import request as rest

Json = dict[str, Any]
PAGE = 200


class Place(Protocol):
    """One Qdrant, as an app and a test reach it."""

    def create(self, name: str, body: Json) -> None: ...

    def index(self, name: str, field: str, schema: str) -> None: ...

    def write(self, name: str, points: Sequence[Json]) -> None: ...

    def point_alias(self, alias: str, name: str) -> None: ...

    def collections(self) -> set[str]: ...

    def aliases(self) -> dict[str, str]: ...

    def config(self, name: str) -> Json: ...

    def dump(self, name: str) -> dict[str, Json]:
        """Every point, by its id as text: `payload`, and `vector` by the field's name; the unnamed one is ""."""
        ...

    async def resolve(self, alias: str) -> tuple[str, str]:
        """(collection, model that its metadata names), from one look at the alias."""
        ...

    async def query(self, name: str, body: Json) -> list[str]:
        """Ids that a search finds."""
        ...

    def hosted(self, models_setting: str) -> Any:
        """A session with the server under test (an async context manager of a Host)."""
        ...


class ServerPlace:
    """A server, by raw REST."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.url = backend.environment["QDRANT_URL"]

    def create(self, name: str, body: Json) -> None:
        rest(f"{self.url}/collections/{name}", method="PUT", body=body)

    def index(self, name: str, field: str, schema: str) -> None:
        rest(f"{self.url}/collections/{name}/index?wait=true", method="PUT", body={"field_name": field, "field_schema": schema})

    def write(self, name: str, points: Sequence[Json]) -> None:
        for start in range(0, len(points), PAGE):
            rest(f"{self.url}/collections/{name}/points?wait=true", method="PUT", body={"points": list(points[start : start + PAGE])})

    def point_alias(self, alias: str, name: str) -> None:
        action = {"create_alias": {"collection_name": name, "alias_name": alias}}
        rest(f"{self.url}/collections/aliases", method="POST", body={"actions": [action]})

    def collections(self) -> set[str]:
        return {c["name"] for c in rest(f"{self.url}/collections")["result"]["collections"]}

    def aliases(self) -> dict[str, str]:
        return {a["alias_name"]: a["collection_name"] for a in rest(f"{self.url}/aliases")["result"]["aliases"]}

    def config(self, name: str) -> Json:
        found: Json = rest(f"{self.url}/collections/{name}")["result"]
        return found

    def dump(self, name: str) -> dict[str, Json]:
        found: dict[str, Json] = {}
        offset = None
        while True:
            body = {"limit": PAGE, "with_payload": True, "with_vector": True, **({} if offset is None else {"offset": offset})}
            page = rest(f"{self.url}/collections/{name}/points/scroll", method="POST", body=body)["result"]
            for point in page["points"]:
                found[str(point["id"])] = {"payload": point["payload"], "vector": _by_name(point["vector"])}
            offset = page["next_page_offset"]
            if offset is None:
                return found

    async def resolve(self, alias: str) -> tuple[str, str]:
        collection = (await anyio.to_thread.run_sync(self.aliases))[alias]
        config = (await anyio.to_thread.run_sync(self.config, collection))["config"]
        return collection, config["metadata"]["model_migration"]["model"]

    async def query(self, name: str, body: Json) -> list[str]:
        def ask() -> Any:
            return rest(f"{self.url}/collections/{name}/points/query", method="POST", body=body)

        return [str(p["id"]) for p in (await anyio.to_thread.run_sync(ask))["result"]["points"]]

    @asynccontextmanager
    async def hosted(self, models_setting: str) -> AsyncIterator[Host]:
        async with hosted({**self.backend.environment, "QDRANT_MIGRATION_MODELS": models_setting}) as host:
            yield host


class EmbeddedPlace:
    """A folder of the embedded database."""

    def __init__(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = backend.environment["QDRANT_PATH"]
        self._environment = backend.environment
        self._monkeypatch = monkeypatch
        self._shared: AsyncQdrantClient | None = None

    @contextmanager
    def _opened(self) -> Iterator[QdrantClient]:
        client = QdrantClient(path=self.path)
        try:
            yield client
        finally:
            client.close()

    def create(self, name: str, body: Json) -> None:
        request = models.CreateCollection.model_validate(body)
        with self._opened() as client:
            client.create_collection(
                name, vectors_config=request.vectors, sparse_vectors_config=request.sparse_vectors, metadata=request.metadata
            )

    def index(self, name: str, field: str, schema: str) -> None:
        """There are none."""

    def write(self, name: str, points: Sequence[Json]) -> None:
        with self._opened() as client:
            for start in range(0, len(points), PAGE):
                client.upsert(name, [models.PointStruct.model_validate(p) for p in points[start : start + PAGE]])

    def point_alias(self, alias: str, name: str) -> None:
        create = models.CreateAlias(collection_name=name, alias_name=alias)
        with self._opened() as client:
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])

    def collections(self) -> set[str]:
        with self._opened() as client:
            return {c.name for c in client.get_collections().collections}

    def aliases(self) -> dict[str, str]:
        with self._opened() as client:
            return {a.alias_name: a.collection_name for a in client.get_aliases().aliases}

    def config(self, name: str) -> Json:
        with self._opened() as client:
            return client.get_collection(name).model_dump(mode="json")

    def dump(self, name: str) -> dict[str, Json]:
        with self._opened() as client:
            points, after = client.scroll(name, limit=100_000, with_payload=True, with_vectors=True)
        assert after is None
        rows = [p.model_dump(mode="json") for p in points]
        return {str(r["id"]): {"payload": r["payload"], "vector": _by_name(r["vector"])} for r in rows}

    @property
    def _live(self) -> AsyncQdrantClient:
        assert self._shared is not None, "the app searches only while the server under test runs"
        return self._shared

    async def resolve(self, alias: str) -> tuple[str, str]:
        pointing = {a.alias_name: a.collection_name for a in (await self._live.get_aliases()).aliases}
        metadata = (await self._live.get_collection(pointing[alias])).config.metadata or {}
        return pointing[alias], metadata["model_migration"]["model"]

    async def query(self, name: str, body: Json) -> list[str]:
        asked = models.QueryRequest.model_validate(body)
        found = await self._live.query_points(
            name, query=asked.query, using=asked.using, prefetch=asked.prefetch, limit=asked.limit or 10, with_payload=False
        )
        return [str(p.id) for p in found.points]

    @asynccontextmanager
    async def hosted(self, models_setting: str) -> AsyncIterator[Host]:
        opened: list[OperationContext] = []

        class Kept(OperationContext):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                opened.append(self)

        for variable, value in {**self._environment, "QDRANT_MIGRATION_MODELS": models_setting}.items():
            self._monkeypatch.setenv(variable, value)
        self._monkeypatch.setattr(app_module, "OperationContext", Kept)
        errors = Path(os.environ["HOME"]) / "nothing-said.txt"
        errors.touch()
        async with Client(app_module.build_server(read_settings()), read_timeout_seconds=60) as client:
            self._shared = (await opened[0].gateway()).call.rest
            yield Host(client, errors)
            self._shared = None


def place_of(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Place:
    return EmbeddedPlace(backend, monkeypatch) if backend.is_embedded else ServerPlace(backend)


def _by_name(vector: Any) -> Mapping[str, Any]:
    """Vectors by the name of their field, however the answer spells the unnamed one."""
    if isinstance(vector, list):
        return {"": vector}
    return dict(vector or {})
