"""Do TypeScript's clients, of which most hosts are made, carry a migration through? Both generations, over stdio and HTTP, with and without elicitation."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from qdrant_model_migration.tools import TOOLS
from tests.clients.conftest import Serve
from tests.clients.installed import HERE, NODE
from tests.conftest import Backend
from tests.mcp.hosts import parameters
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.servers import QdrantServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Reply = Literal["accept", "decline", "cancel", "none"]
GENERATIONS = ("v1", "v2")


class Session:
    """A TypeScript client that does what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def told(self, method: str, timeout: int | None = None, **params: Any) -> dict[str, Any]:
        """The whole answer: `result`, or `error` and its `code`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"method": method, "params": params, "timeout": timeout}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, method: str, **params: Any) -> Any:
        found = self.told(method, **params)
        assert "error" not in found, found
        return found["result"]

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured answer of a tool that does not refuse."""
        answer = self.ask("call", name=tool, arguments=arguments)["answer"]
        assert not answer.get("isError"), answer
        found: dict[str, Any] = answer["structuredContent"]
        return found

    def migrated(self, name: str) -> str:
        """A migration up to the swap; its id."""
        given = {"strategy": "new_collection", "model": NEW, "current_model": OLD, "text_field": "text", "writes": "frozen"}
        me: str = self.call("create_target", collection=name, **given)["migration_id"]
        status = self.call("start_backfill", migration_id=me)
        for _ in range(60):
            if status["phase"] == "backfilled":
                break
            status = self.call("migration_status", migration_id=me, wait_seconds=5)
        assert status["phase"] == "backfilled", status
        assert self.call("verify_target", migration_id=me)["is_complete"]
        return me


@contextmanager
def session(generation: str, target: dict[str, Any], reply: Reply = "none") -> Iterator[Session]:
    process = subprocess.Popen(
        [str(NODE), str(HERE / "session.mjs"), generation, json.dumps(target), reply],
        cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Session(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def over_stdio(environment: dict[str, str]) -> dict[str, Any]:
    found = parameters(environment)
    return {"command": found.command, "args": found.args, "env": {"PATH": os.environ["PATH"], **(found.env or {})}}


@pytest.fixture
def backend(server_1_17: QdrantServer, name: str) -> Backend:
    environment = {**server_1_17.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name="server", environment=environment, version="1.17.0")


async def seeded(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_what_is_offered_is_seen_and_a_migration_is_carried_through(
    backend: Backend, name: str, serve: Serve, monkeypatch: pytest.MonkeyPatch, generation: str, transport: str
) -> None:
    await seeded(backend, name, monkeypatch)
    environment = dict(backend.environment)
    token = "a-token-of-thirty-two-characters"
    target = (
        over_stdio(environment)
        if transport == "stdio"
        else {"url": serve(**environment, QDRANT_MIGRATION_HTTP_TOKEN=token), "token": token}
    )
    with session(generation, target) as client:
        seen = client.ask("server")
        assert seen["info"]["name"] == "qdrant-model-migration"
        assert seen["info"]["icons"][0]["src"].startswith("data:image/svg+xml")
        assert "inspect_collection -> recommend_strategy" in seen["instructions"]
        tools = client.ask("tools")
        assert [tool["name"] for tool in tools] == [spec.name for spec in TOOLS]
        assert all(tool["title"] and tool["annotations"] and tool["outputSchema"] and tool["icons"] for tool in tools)
        assert len(client.ask("prompts")) >= 6
        assert name in client.ask(
            "complete", ref={"type": "ref/prompt", "name": "replace_model"}, argument={"name": "collection", "value": name}
        )
        me = client.migrated(name)
        contents = client.ask("resource", uri=f"migration://{me}/report")
        assert me in contents[0]["text"]
        # It cannot ask its person: the plan is shown, and its code is passed.
        plan = client.call("swap_alias", migration_id=me)["plan"]
        assert client.call("swap_alias", migration_id=me, plan=plan["code"])["phase"] == "cut_over"
        refused = client.ask("call", name="verify_target", arguments={"migration_id": "m-000000"})["answer"]
        assert refused["isError"]
        assert "m-000000" in refused["content"][0]["text"]


@pytest.mark.parametrize("reply", ["accept", "decline", "cancel"])
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_person_who_is_asked_decides(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch, generation: str, reply: Reply
) -> None:
    await seeded(backend, name, monkeypatch)
    with session(generation, over_stdio(dict(backend.environment)), reply) as client:
        me = client.migrated(name)
        plan = client.call("swap_alias", migration_id=me)["plan"]
        told = client.ask("call", name="swap_alias", arguments={"migration_id": me, "plan": plan["code"]})
        assert len(told["asked"]) == 1
        assert plan["code"] in told["asked"][0] or f"{name}-live" in told["asked"][0]
        leads_to = client.call("inspect_collection", collection=f"{name}-live")["collection"]["name"]
        assert (leads_to != name) is (reply == "accept")


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_progress_is_told_and_a_call_that_the_client_gives_up_breaks_nothing(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch, generation: str
) -> None:
    await seeded(backend, name, monkeypatch)
    with session(generation, over_stdio(dict(backend.environment))) as client:
        given = {"strategy": "new_collection", "model": NEW, "current_model": OLD, "text_field": "text", "writes": "frozen"}
        me = client.call("create_target", collection=name, **given)["migration_id"]
        client.call("start_backfill", migration_id=me, points_per_second=5)
        told = client.ask("call", name="migration_status", arguments={"migration_id": me, "wait_seconds": 5})
        assert told["progress"]
        given_up = client.told("call", timeout=1000, name="migration_status", arguments={"migration_id": me, "wait_seconds": 20})
        assert "error" in given_up
        assert client.call("migration_status", migration_id=me)["phase"] == "backfilling"
        assert client.call("control_backfill", migration_id=me, action="pause")["is_paused"]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_two_hosts_on_one_embedded_database_both_start(tmp_path: Path, generation: str) -> None:
    """Starting locks nothing; clients that probe start the server twice. Only who touches the data holds it."""
    target = over_stdio({"QDRANT_PATH": str(tmp_path / "qdrant")})
    with session(generation, target) as first, session(generation, target) as second:
        assert len(first.ask("tools")) == len(second.ask("tools")) == len(TOOLS)
        assert first.call("inspect_collection")["collections"] == []
        answer = second.ask("call", name="inspect_collection", arguments={})["answer"]
        assert answer["isError"]
        assert "in use by another process" in answer["content"][0]["text"]
