"""Does a conversation lead a collection to another server, with nothing but `next_step`, and without a key of either getting out?"""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.conftest import NewServer
from tests.mcp.hosts import Host, hosted, log_directory, secrets_of, workers
from tests.mcp.test_next_steps import Person
from tests.qdrant.elsewhere import FAR, connections, opened
from tests.qdrant.seeds import NEW, OLD, seed, text
from tests.servers import QdrantServer, delete_collections
from tests.servers import request as rest

pytestmark = pytest.mark.timeout(300)

POINTS = 120


async def _seed(environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(environment, monkeypatch) as context:
        await seed(context, name, points=POINTS, payload=lambda n: {"text": text(n), "n": n})
        await (await context.gateway()).point_alias(f"{name}-live", name)


async def test_next_steps_lead_to_the_other_server(new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both servers ask for a key, each for its own; the worker is a process of its own that has both, and no command line has one."""
    old = new_server("1.16.3", api_key="key-of-the-old-server")
    new = new_server("1.17.0", api_key="key-of-the-new-server")
    environment = connections(old, new, name)
    await _seed(environment, name, monkeypatch)
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    commands: list[str] = []
    async with hosted(environment) as host:
        asked = {"collection": f"{name}-live", "goal": "replace_model", "model": NEW, "current_model": OLD, "target_connection": FAR}
        advice = await host.call("recommend_strategy", **asked)
        best = advice["recommendations"][0]
        assert best["is_feasible"], best["refusals"]
        assert any("is only read" in line and "1.16.3" in line for line in best["prerequisites"])
        assert not [r for r in advice["recommendations"] if r["strategy"] == "named_vector" and r["is_feasible"]]
        step = best["next_step"]
        assert step["tool"] == "create_target"
        assert step["arguments"]["target_connection"] == FAR
        rehearsed = await host.call("create_target", **step["arguments"], dry_run=True)
        assert any(f"on connection '{FAR}'" in line for line in rehearsed["would_create"])
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, commands)
            ended = await person.follow(host, "create_target", step["arguments"], until_phase="finished")
            group.cancel_scope.cancel()
        migration_id = ended["migration_id"]
        assert ended["deleted"] == []
        assert [t for t in dict.fromkeys(person.path) if t != "migration_status"] == [
            "create_target",
            "start_backfill",
            "verify_target",
            "compare_models",
            "swap_alias",
            "finish_migration",
        ]
        seen = await host.call("inspect_collection", collection=f"{name}-live", connection=FAR)
        assert seen["collection"]["points"] == POINTS
        report = str(await host.client.read_resource(f"migration://{migration_id}/report"))
        assert "on 'default'" in report
    assert commands, "no worker of its own was seen"
    told = [*commands, *(path.read_text() for path in log_directory().glob("*.log")), report, _ledger(new, name)]
    for secret in secrets_of(environment):
        assert not [text for text in told if secret in text]


async def _watch(commands: list[str]) -> None:
    while True:
        commands += [command for _, command in workers()]
        await anyio.sleep(0.05)


def _ledger(server: QdrantServer, name: str) -> str:
    body = {"limit": 10_000, "with_payload": True}
    url = f"{server.url}/collections/_{name}_migrations/points/scroll"
    return json.dumps(rest(url, method="POST", body=body, api_key=server.api_key))


async def test_a_new_chat_goes_on_and_rolls_back(new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows neither the id nor on which server the ledger lies."""
    environment = connections(new_server("1.16.3"), new_server("1.17.0"), name)
    await _seed(environment, name, monkeypatch)
    async with hosted(environment) as host:
        made = await host.call(
            "create_target",
            collection=name,
            strategy="new_collection",
            model=NEW,
            text_field="text",
            writes="frozen",
            target_connection=FAR,
        )
        await host.call("start_backfill", migration_id=made["migration_id"])
    async with hosted(environment) as host:
        seen = await host.call("inspect_collection", collection=f"{name}-live")
        assert seen["migrations"][0]["target_connection"] == FAR
        step = seen["next_step"]
        assert step["tool"] == "migration_status"
        assert (await host.call("migration_status"))["migration_id"] == step["arguments"]["migration_id"] == made["migration_id"]
        await _cut_over(host, made["migration_id"])
        planned = await host.call("swap_alias", migration_id=made["migration_id"], direction="back")
        assert planned["plan"]["moves"] == [
            {"alias": f"{name}-live", "from_collection": made["target"]["collection"], "to_collection": None}
        ]
        assert any("is removed from connection 'new'" in line for line in planned["plan"]["breaks"])
        back = await host.call("swap_alias", migration_id=made["migration_id"], direction="back", plan=planned["plan"]["code"])
        assert "was removed" in back["summary"]
        assert (await host.call("inspect_collection", connection=FAR))["aliases"] == []
        again = await host.call("swap_alias", migration_id=made["migration_id"], direction="back", plan=planned["plan"]["code"])
        assert again["phase"] == "rolled_back"


async def _cut_over(host: Host, migration_id: str) -> None:
    await host.backfilled(migration_id)
    assert (await host.whole("verify_target", migration_id=migration_id))["is_complete"]
    planned = await host.call("swap_alias", migration_id=migration_id)
    assert planned["plan"]["left"], "the alias on the old server stays, and is named"
    done = await host.whole("swap_alias", migration_id=migration_id, plan=planned["plan"]["code"])
    assert "on connection 'new'" in done["summary"]
    assert "connects to 'default'" in done["undo"]


async def test_the_embedded_database_moves_to_a_server(
    server_1_17: QdrantServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From trying out to a server. Only this process can open the embedded side, so no other one is started."""
    environment = connections(tmp_path / "qdrant", server_1_17, name)
    await _seed(environment, name, monkeypatch)
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    asked = {"collection": name, "strategy": "new_collection", "model": NEW, "text_field": "text", "target_connection": FAR}
    async with hosted(environment) as host:
        await person.follow(host, "create_target", asked, until_phase="finished")
        assert (await host.call("inspect_collection", collection=f"{name}-live", connection=FAR))["collection"]["points"] == POINTS
        assert list(workers()) == []
    delete_collections(server_1_17.url, name)
