"""Does the doctor find what is wrong, say how to put it right, and leave nothing behind?"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.doctor import Check, diagnose, report
from qdrant_model_migration.qdrant.probe import PREFIX
from tests.conftest import VERSIONS, Backend, NewServer
from tests.qdrant.seeds import NEW, opened, seed
from tests.servers import QdrantServer, request

KEY, READS = "s3cret-writes", "s3cret-reads"


async def examined(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], **options: bool) -> dict[str, Check]:
    """The checks by name. No key is in any of them, and each that fails has its remedy."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found = await diagnose(**options)
    for as_json in (False, True):
        text = report(found, as_json=as_json)
        assert KEY not in text
        assert READS not in text
    assert all(check.remedy for check in found if check.state in ("fail", "warn"))
    return {check.name: check for check in found}


def failed(checks: Mapping[str, Check]) -> set[str]:
    return {check.name for check in checks.values() if check.state == "fail"}


async def test_a_sound_qdrant_passes_and_nothing_is_left(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = await examined(monkeypatch, any_qdrant.environment)
    assert failed(checks) == set()
    for name in ("settings", "connection 'default'", "version of 'default'", "rights on 'default'", "guard on 'default'", "log directory"):
        assert checks[name].state == "ok", checks[name]
    assert "canary" in checks["guard on 'default'"].text
    assert any_qdrant.environment["QDRANT_MIGRATION_LEDGER"] in checks["ledger on 'default'"].text
    async with opened(any_qdrant, monkeypatch) as context:
        assert not [c for c in await (await context.gateway()).collections() if c.startswith(PREFIX)]


@pytest.mark.parametrize("mode", ["--no-write", "read-only"])
async def test_nothing_is_written_when_that_is_asked_for(any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    environment = {**any_qdrant.environment} | ({"QDRANT_MIGRATION_READ_ONLY": "true"} if mode == "read-only" else {})
    checks = await examined(monkeypatch, environment, is_writing=mode == "read-only")
    assert failed(checks) == set()
    assert checks["rights on 'default'"].state == "skip"
    assert "guard on 'default'" not in checks


@pytest.mark.parametrize("version", VERSIONS)
async def test_keys_are_judged_by_what_they_may_do(new_server: NewServer, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    guarded = new_server(version, api_key=KEY, read_only_key=READS)
    assert failed(await examined(monkeypatch, guarded.environment)) == set()
    reading = await examined(monkeypatch, {**guarded.environment, "QDRANT_API_KEY": READS})
    assert failed(reading) == {"rights on 'default'"}
    assert "may not create collections" in reading["rights on 'default'"].text
    assert "full rights" in (reading["rights on 'default'"].remedy or "")
    for key in ("wrong", ""):
        refused = await examined(monkeypatch, {**guarded.environment, "QDRANT_API_KEY": key})
        assert failed(refused) == {"connection 'default'"}
        assert "QDRANT_API_KEY" in (refused["connection 'default'"].remedy or "")
    assert request(f"{guarded.url}/collections", api_key=KEY)["result"]["collections"] == []


async def test_a_server_that_is_down_is_told_with_what_to_do(new_server: NewServer, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = new_server("1.17.0")
    gone.stop()
    checks = await examined(monkeypatch, gone.environment)
    assert failed(checks) == {"connection 'default'"}
    assert "QDRANT_URL" in (checks["connection 'default'"].remedy or "")
    assert gone.url not in report(list(checks.values()), as_json=False)


async def test_an_embedded_folder_that_is_open_elsewhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant")}
    backend = Backend(name="embedded", environment=environment, version=None)
    async with opened(backend, monkeypatch) as context:
        await (await context.gateway()).collections()
        command = [sys.executable, "-m", "qdrant_model_migration", "doctor", "--json"]
        done = await anyio.run_process(command, env={**os.environ, **environment}, check=False)
    assert done.returncode == 1
    [bad] = [check for check in json.loads(done.stdout)["checks"] if check["state"] == "fail"]
    assert "in use by another process" in bad["text"]
    assert "Close the other host" in bad["remedy"]


async def test_leftovers_of_a_killed_probe_are_listed_and_deleted_on_request(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    left = f"{PREFIX}{name}"
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        await gateway.create_collection(left, {"vectors": {}})
        await gateway.point_alias(f"{left}_alias", left)
    listed = (await examined(monkeypatch, any_qdrant.environment))["leftovers on 'default'"]
    assert listed.state == "warn"
    assert left in listed.text
    assert "--clean" in (listed.remedy or "")
    cleaned = (await examined(monkeypatch, any_qdrant.environment, is_cleaning=True))["leftovers on 'default'"]
    assert cleaned.state == "ok"
    assert left in cleaned.text
    assert (await examined(monkeypatch, any_qdrant.environment))["leftovers on 'default'"].text == "none"


async def test_open_migrations_and_those_that_nobody_works_are_listed(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from qdrant_model_migration.domain.phases import Phase
    from qdrant_model_migration.operations.create_target import Request, create_target

    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, f"{name}-a", points=5)
        wanted = Request(collection=f"{name}-a", strategy="new_collection", model=NEW, text_field="text")
        migration = (await create_target(context, wanted)).migration_id
    assert (await examined(monkeypatch, any_qdrant.environment))[f"migration {migration}"].state == "ok"
    async with opened(any_qdrant, monkeypatch) as context:
        await (await context.ledger()).change(migration, lambda m: m.model_copy(update={"phase": Phase.BACKFILLING}))
    idle = (await examined(monkeypatch, any_qdrant.environment))[f"migration {migration}"]
    assert idle.state == "warn"
    assert f"backfill {migration}" in (idle.remedy or "")


async def test_each_configured_model_is_loaded_and_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"good": {"provider": "builtin", "model": "hashing-64"}, "bad": {"path": str(tmp_path / "missing"), "dimensions": 8}}
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant"), "QDRANT_MIGRATION_MODELS": json.dumps(models)}
    checks = await examined(monkeypatch, environment)
    assert checks["model 'good'"].state == "ok"
    assert "64 dimensions" in checks["model 'good'"].text
    assert failed(checks) == {"model 'bad'"}
    assert "QDRANT_MIGRATION_MODELS['bad']" in (checks["model 'bad'"].remedy or "")
    assert not [name for name in await examined(monkeypatch, environment, with_models=False) if name.startswith("model ")]


async def test_a_model_of_the_server_is_not_tried_where_nothing_may_be_written(
    any_qdrant: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be tried on a scratch collection."""
    models = {"QDRANT_MIGRATION_MODELS": json.dumps({"lexical": {"provider": "qdrant", "model": "bm25"}})}
    for more, options in (({}, {"is_writing": False}), ({"QDRANT_MIGRATION_READ_ONLY": "true"}, {})):
        checks = await examined(monkeypatch, {**any_qdrant.environment, **models, **more}, **options)
        assert checks["model 'lexical'"].state == "skip"


async def test_a_real_model_is_loaded(assets: Path, asset_models: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = json.dumps({"minilm-l2": json.loads(asset_models)["minilm-l2"]})
    checks = await examined(monkeypatch, {"QDRANT_PATH": str(tmp_path / "qdrant"), "QDRANT_MIGRATION_MODELS": one})
    assert checks["model 'minilm-l2'"].state == "ok", checks["model 'minilm-l2'"]


async def test_a_malformed_setting_is_the_only_line(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = await examined(monkeypatch, {"QDRANT_URL": "nonsense"})
    assert failed(checks) == set(checks) == {"settings"}
    assert "QDRANT_URL" in checks["settings"].text


async def test_a_key_in_the_clear_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    # 192.0.2.0/24 is nobody's: the connection fails, the warning comes first.
    monkeypatch.setattr("qdrant_model_migration.doctor.PATIENCE_S", 0.1)
    environment = {"QDRANT_URL": "http://qdrant.invalid:6333", "QDRANT_API_KEY": KEY}
    checks = await examined(monkeypatch, environment)
    assert checks["encryption to 'default'"].state == "warn"
    assert "https://" in (checks["encryption to 'default'"].remedy or "")


async def test_folders_that_cannot_be_written_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    environment = {
        "QDRANT_PATH": str(tmp_path / "qdrant"),
        "QDRANT_MIGRATION_LOG_DIRECTORY": str(tmp_path / "file" / "logs"),
        "FASTEMBED_CACHE_PATH": str(tmp_path / "file"),
        "HF_HUB_OFFLINE": "0",
    }
    checks = await examined(monkeypatch, environment)
    assert failed(checks) == {"log directory", "FastEmbed cache"}
    offline = await examined(monkeypatch, {"FASTEMBED_CACHE_PATH": str(tmp_path / "none"), "HF_HUB_OFFLINE": "1"})
    assert offline["FastEmbed cache"].state == "warn"


async def test_a_wrong_clock_and_a_full_disk_are_told(server_1_17: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = await examined(monkeypatch, server_1_17.environment)
    assert sound["clock of 'default'"].state == "ok"
    assert sound["room for the log directory"].state == "ok"

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return super().now(tz) + timedelta(seconds=90)

    monkeypatch.setattr("qdrant_model_migration.qdrant.clock.datetime", Later)
    monkeypatch.setattr("qdrant_model_migration.doctor.machine.LEAST_FREE", dict.fromkeys(("log directory", "FastEmbed cache"), 1e18))
    checks = await examined(monkeypatch, server_1_17.environment)
    assert failed(checks) == set()
    clock, room = checks["clock of 'default'"], checks["room for the log directory"]
    assert (clock.state, room.state) == ("warn", "warn")
    assert re.search(r"(89|9\d) s behind this machine's", clock.text), clock.text
    assert "NTP" in (clock.remedy or "")
    assert "GB free" in room.text
