"""What is sent to a server of version 1.18, which can add a vector field? There is none to test against: its answers are played, the requests are real.

The shapes are those of the API of 1.18 as the installed client has it (`create_vector_name`: PUT /collections/{name}/vectors/{vector}).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from qdrant_model_migration.domain.collection import FieldKind, VectorField
from qdrant_model_migration.errors import RequestRejected
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import CreateTargetResult
from tests.conftest import Backend
from tests.qdrant.seeds import NEW, opened, text

Json = dict[str, Any]
SIZE = 64
HNSW = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, "max_indexing_threads": 0, "on_disk": False}
DONE = {"operation_id": 7, "status": "completed"}


@dataclass
class Played:
    """A server that knows one collection, adds and removes vector fields, and keeps what it was asked."""

    version: str
    vectors: Json
    sparse: Json = field(default_factory=dict)
    requests: list[tuple[str, str, Json | None]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    waits: list[bool] = field(default_factory=list)
    """Whether each request about a field asked to be answered only when it is done."""
    keeps_fields: bool = False
    """It claims to delete a field, and does not."""
    url: str = ""

    @property
    def writes(self) -> list[tuple[str, str, Json | None]]:
        """(method, path, body) of what would change something."""
        return [r for r in self.requests if r[0] in ("PUT", "PATCH", "DELETE")]

    def answer(self, method: str, path: str, body: Json | None) -> Any:
        self.requests.append((method, path, body))
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", [""]:
                return {"title": "qdrant - vector search engine", "version": self.version, "commit": "0"}
            case "GET", ["cluster"]:
                return {"status": "disabled"}
            case "GET", ["collections"]:
                return {"collections": [{"name": "docs"}]}
            case "GET", ["aliases"]:
                return {"aliases": [{"alias_name": "docs-live", "collection_name": "docs"}]}
            case "GET", ["collections", "docs"]:
                return self._description()
            case "GET", ["collections", "docs", "cluster"]:
                shard = {"shard_id": 0, "points_count": 40, "state": "Active"}
                return {"peer_id": 1, "shard_count": 1, "local_shards": [shard], "remote_shards": [], "shard_transfers": []}
            case "POST", ["collections", "docs", "points", *_]:
                points = [{"id": n, "payload": {"text": text(n)}, "version": 1, "score": 0.0} for n in range(40)]
                return {"count": 40} if parts[-1] == "count" else {"points": points, "next_page_offset": None}
            case "PUT", ["collections", "docs", "vectors", name]:
                assert body is not None
                (self.sparse if "sparse" in body else self.vectors)[name] = dict(*body.values())
                return DONE
            case "DELETE", ["collections", "docs", "vectors", name]:
                if not self.keeps_fields:
                    self.vectors.pop(name, None)
                    self.sparse.pop(name, None)
                return DONE
            case "PATCH", ["collections", "docs"]:
                return True
        self.unknown.append(f"{method} {path}")
        return None

    def _description(self) -> Json:
        params = {"vectors": self.vectors, "sparse_vectors": self.sparse, "shard_number": 1, "replication_factor": 1}
        config = {"params": params, "hnsw_config": HNSW, "optimizer_config": {"indexing_threshold": 10_000}, "quantization_config": None}
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": 40,
            "segments_count": 1,
            "config": config,
            "payload_schema": {},
        }


@contextmanager
def playing(played: Played) -> Iterator[Played]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            asked = urlsplit(self.path)
            result = played.answer(self.command, asked.path, body)
            if "/vectors/" in asked.path:
                played.waits.append(parse_qs(asked.query).get("wait", []) == ["true"])
            answer = result if asked.path == "/" else {"status": "ok", "time": 0.0, "result": result}
            content = json.dumps(answer if result is not None else {"status": {"error": "Not found"}}).encode()
            self.send_response(200 if result is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - the names that http.server calls

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    played.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield played
        assert played.unknown == [], "an answer has to be played for these as well"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def backend_of(played: Played, **more: str) -> Backend:
    environment = {"QDRANT_URL": played.url, "QDRANT_PREFER_GRPC": "false", **more}
    return Backend(name=f"played {played.version}", environment=environment, version=played.version)


def named() -> Json:
    return {"old": {"size": SIZE, "distance": "Cosine"}}


async def described(gateway: Gateway) -> list[str]:
    return [f.name for f in (await gateway.describe("docs")).fields]


async def test_a_dense_field_is_created_tuned_and_deleted_in_the_shapes_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    config: Json = {"size": 128, "distance": "Cosine", "datatype": "float16", "on_disk": True, "hnsw_config": {"m": 8}}
    config["quantization_config"] = {"scalar": {"type": "int8", "always_ram": True}}
    new = VectorField(name="new", kind=FieldKind.DENSE, config=config)
    with playing(Played(version="1.18.0", vectors=named())) as played:
        async with opened(backend_of(played), monkeypatch) as context:
            gateway = await context.gateway()
            await gateway.add_vector("docs", new)
            await gateway.tune_vector("docs", new)
            assert await described(gateway) == ["old", "new"]
            await gateway.delete_vector("docs", "new")
            await gateway.delete_vector("docs", "new")
    assert played.waits == [True, True]
    created, tuned, *deleted = played.writes
    method, path, body = created
    assert (method, path) == ("PUT", "/collections/docs/vectors/new")
    assert body == {"dense": {"size": 128, "distance": "Cosine", "datatype": "float16"}}
    wanted = {key: config[key] for key in ("hnsw_config", "quantization_config", "on_disk")}
    assert tuned == ("PATCH", "/collections/docs", {"vectors": {"new": wanted}})
    assert deleted == [("DELETE", "/collections/docs/vectors/new", None)], "what is gone already is not deleted again"


async def test_sparse_vectors_and_multivectors_are_created_with_what_only_creation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = VectorField(name="sparse", kind=FieldKind.SPARSE, config={"modifier": "idf", "index": {"on_disk": True}})
    rows: Json = {
        "size": 96,
        "distance": "Cosine",
        "multivector_config": {"comparator": "max_sim"},
        "hnsw_config": {"m": 0},
        "on_disk": True,
    }
    multi = VectorField(name="multi", kind=FieldKind.MULTIVECTOR, config=rows)
    with playing(Played(version="1.19.2", vectors=named())) as played:
        async with opened(backend_of(played), monkeypatch) as context:
            gateway = await context.gateway()
            for one in (sparse, multi):
                await gateway.add_vector("docs", one)
                await gateway.tune_vector("docs", one)
    assert played.writes == [
        ("PUT", "/collections/docs/vectors/sparse", {"sparse": {"modifier": "idf"}}),
        ("PATCH", "/collections/docs", {"sparse_vectors": {"sparse": {"modifier": "idf", "index": {"on_disk": True}}}}),
        ("PUT", "/collections/docs/vectors/multi", {"dense": {key: rows[key] for key in ("size", "distance", "multivector_config")}}),
        ("PATCH", "/collections/docs", {"vectors": {"multi": {"hnsw_config": {"m": 0}, "on_disk": True}}}),
    ]


async def test_a_field_that_is_still_listed_is_not_said_to_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    with playing(Played(version="1.18.0", vectors=named(), keeps_fields=True)) as played:
        async with opened(backend_of(played), monkeypatch) as context:
            with pytest.raises(RequestRejected, match="still lists it"):
                await (await context.gateway()).delete_vector("docs", "old")


async def planned(played: Played, monkeypatch: pytest.MonkeyPatch, models: str, **asked: Any) -> CreateTargetResult:
    async with opened(backend_of(played, QDRANT_MIGRATION_MODELS=models), monkeypatch) as context:
        return await create_target(context, Request(collection="docs", text_field="text", **asked), dry_run=True)


@pytest.mark.parametrize("version", ["1.18.0", "1.17.9"])
@pytest.mark.parametrize(
    ("strategy", "model", "field_name"),
    [("add_sparse", "bm25", "sparse"), ("add_multivector", "colbert", "multivector"), ("named_vector", NEW, "hashing_128")],
)
async def test_a_field_is_added_in_place_from_1_18_on(
    asset_models: str, monkeypatch: pytest.MonkeyPatch, version: str, strategy: str, model: str, field_name: str
) -> None:
    """The one before copies, or refuses where a copy is another strategy's."""
    with playing(Played(version=version, vectors=named())) as played:
        if strategy == "named_vector" and version < "1.18":
            with pytest.raises(Exception, match=r"needs Qdrant 1\.18 or later; this server is 1\.17\.9.*side_by_side"):
                await planned(played, monkeypatch, asset_models, strategy=strategy, model=model)
        else:
            made = await planned(played, monkeypatch, asset_models, strategy=strategy, model=model)
            is_in_place = version == "1.18.0"
            assert (made.target.collection == "docs") == is_in_place
            assert field_name in [f.name for f in made.target.vectors]
            assert [r.kind for r in made.recipes] == (["embed"] if is_in_place else ["embed", "copy"])
            assert any(f"vector field {field_name}" in line for line in made.would_create) == is_in_place
    assert played.writes == [], "a plan changes nothing"
