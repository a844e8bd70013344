"""Does it live with what hosts do? Started twice, closed at once, killed, called again; the work goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from tests.conftest import Backend
from tests.mcp.hosts import Host, hosted, log_directory, parameters, until, workers
from tests.openai_server import Answer, OpenAIServer
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.timeout(240), pytest.mark.in_turn]

CREATE: dict[str, Any] = {"strategy": "new_collection", "model": NEW, "text_field": "text"}

ENDS_WITHIN_S = 6.0
"""On a machine that does something else as well; alone it takes well under the two seconds that hosts give."""


def _backend(server: QdrantServer, name: str) -> Backend:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name=f"server {server.version}", environment=environment, version=server.version)


async def test_two_servers_at_once_share_one_migration(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that probes starts the server twice, and a person has two hosts: one migration, one driver, the same answers."""
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=300)
    made: list[str] = []
    async with hosted(backend.environment) as first, hosted(backend.environment) as second:

        async def begin(host: Host) -> None:
            me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
            await host.call("start_backfill", migration_id=me)
            made.append(me)

        async with anyio.create_task_group() as group:
            group.start_soon(begin, first)
            group.start_soon(begin, second)
        assert made[0] == made[1]
        status = await first.backfilled(made[0])
        other = await second.call("migration_status", migration_id=made[0])
        assert other["worker"]["pid"] == status["worker"]["pid"]
        assert status["progress"]["written"] == 300
        assert (await second.whole("verify_target", migration_id=made[0]))["is_complete"]
        listed = await second.call("inspect_collection", name_filter=name)
        assert len(listed["collections"]) == 2
        assert len(listed["migrations"]) == 1
        # The one that came too late left by itself.
        await until(lambda: len(list(workers())) <= 1)


@contextmanager
def _raw(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server as a bare process, to see what it prints and how it ends."""
    command = parameters(environment)
    assert command.env is not None
    with subprocess.Popen(
        [command.command, *command.args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **command.env},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Wire:
    """The protocol by hand, line by line; every line of stdout must be a message."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._number = 0
        start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        self.ask("initialize", start)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        self._send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, "the server ended"
            message: dict[str, Any] = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == self._number:
                return message

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})["result"]
        assert not result.get("isError"), result
        content: dict[str, Any] = result["structuredContent"]
        return content


async def test_closing_the_host_ends_the_server_and_not_the_work(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """End of stdin is how hosts end a server, and they wait two seconds. The detached worker goes on and a new chat finds it done."""
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=300)
    with _raw(backend.environment) as process:
        wire = Wire(process)
        assert len(wire.ask("tools/list", {})["result"]["tools"]) == 12
        me = wire.call("create_target", collection=name, **CREATE)["migration_id"]
        began = time.monotonic()
        wire.call("start_backfill", migration_id=me, points_per_second=8)
        assert time.monotonic() - began < 2
        await until(lambda: bool(list(workers())))
        (worker, _), *_ = workers()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.close()
        closed = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - closed < ENDS_WITHIN_S
        assert process.stdout.read() == b""
        assert b"Traceback" not in process.stderr.read()
    os.kill(worker, 0)
    assert os.getsid(worker) != os.getsid(0)
    async with hosted(backend.environment) as host:
        status = await host.call("migration_status")
        assert status["migration_id"] == me
        assert status["phase"] == "backfilling", status["summary"]
        assert status["worker"]["pid"] == worker
        await host.call("control_backfill", migration_id=me, action="set_pace", points_per_second=0)
        done = await host.backfilled(me)
        assert done["progress"]["written"] == 300
        assert done["worker"]["pid"] == worker


async def test_standard_output_holds_nothing_but_protocol(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings, progress bars and logs of every library would break the session; `Wire` reads every line as a message."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    with _raw(any_qdrant.environment) as process:
        wire = Wire(process)
        wire.call("inspect_collection", collection=name)
        wire.call("recommend_strategy", collection=name, goal="replace_model")
        wire.call("compare_models", collection=name, models=[OLD, NEW], text_field="text")
        me = wire.call("create_target", collection=name, current_model=OLD, **CREATE)["migration_id"]
        wire.call("start_backfill", migration_id=me)
        while wire.call("migration_status", migration_id=me, wait_seconds=5)["phase"] == "backfilling":
            pass
        assert wire.call("verify_target", migration_id=me)["is_complete"]
        wire.call("compare_models", migration_id=me)
        code = wire.call("swap_alias", migration_id=me)["plan"]["code"]
        assert wire.call("swap_alias", migration_id=me, plan=code)["phase"] == "cut_over"
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.wait(10) == 0
        for line in process.stdout.read().splitlines():
            json.loads(line)


async def test_the_backfill_starts_in_under_two_seconds(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=200)
    async with hosted(any_qdrant.environment) as host:
        me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
        began = time.monotonic()
        started = await host.call("start_backfill", migration_id=me)
        assert time.monotonic() - began < 2
        assert started["phase"] == "backfilling"
        await host.backfilled(me)


@pytest.mark.slow
async def test_a_long_verification_is_attached_to_and_never_started_twice(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model takes its time: the first call answers within 40 s with state 'running', the next one waits for the same operation."""
    pytest.importorskip("pydantic_ai")
    backend = _backend(server_1_17, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    with OpenAIServer() as endpoint:
        address = f"http://127.0.0.1:{endpoint.port}/v1"
        entry = {"provider": "openai", "model": "slow", "base_url": address, "key_variable": "SLOW_KEY", "batch_size": 2}
        model = {"slow": entry}
        environment = {**backend.environment, "SLOW_KEY": "planted-slow-key", "QDRANT_MIGRATION_MODELS": json.dumps(model)}
        async with hosted(environment) as host:
            made = await host.call("create_target", collection=name, **{**CREATE, "model": "slow"}, writes="frozen")
            me = made["migration_id"]
            await host.call("start_backfill", migration_id=me)
            await host.backfilled(me)
            endpoint.always = Answer(delay_s=8.0)
            before = len(endpoint.requests)
            answer = await host.call("verify_target", migration_id=me)
            assert answer["state"] == "running", answer["summary"]
            assert answer["is_complete"] is None
            assert answer["next_step"] == {
                "tool": "verify_target",
                "arguments": {"migration_id": me, "provenance_sample": 200},
                "why": answer["next_step"]["why"],
            }
            keys = await _operations(backend, me, monkeypatch)
            endpoint.always = None
            again = await host.whole("verify_target", **answer["next_step"]["arguments"])
            assert again["is_complete"], again["summary"]
            assert await _operations(backend, me, monkeypatch) == keys
            assert len(keys) == 1
            # Forty texts one by one and in pairs is one verification; a second one would double it.
            assert len(endpoint.requests) - before <= 62, "nothing was embedded a second time"


async def _operations(backend: Backend, me: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    async with opened(backend, monkeypatch) as context:
        return [o.key for o in await (await context.ledger()).operations(me)]


async def test_an_embedded_backfill_killed_with_the_server_resumes_when_asked(
    tmp_path: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=300)
    with _raw(backend.environment) as process:
        wire = Wire(process)
        me = wire.call("create_target", collection=name, **CREATE)["migration_id"]
        wire.call("start_backfill", migration_id=me, points_per_second=100)
        written = 0
        while not 0 < written < 300:
            written = wire.call("migration_status", migration_id=me)["progress"]["written"]
            await anyio.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    async with hosted(backend.environment) as host:
        status = await host.call("migration_status")
        assert (status["migration_id"], status["phase"]) == (me, "backfilling")
        before = status["progress"]["written"]
        assert status["next_step"] is None or status["next_step"]["tool"] in ("start_backfill", "migration_status")
        await host.call("start_backfill", migration_id=me, points_per_second=0)
        done = await host.backfilled(me)
        assert done["progress"]["read"] == 300
        assert done["progress"]["written"] + done["progress"]["skipped"] == 300
        assert before <= 300
        assert (await host.whole("verify_target", migration_id=me))["is_complete"]


async def test_a_worker_that_died_is_shown_and_replaced(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 of the worker: status says so with the call that goes on, and that call goes on where it was."""
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=300)
    async with hosted({**backend.environment, "QDRANT_MIGRATION_LEASE_SECONDS": "4"}) as host:
        me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
        await host.call("start_backfill", migration_id=me, points_per_second=50)
        with anyio.fail_after(40):
            status = await host.call("migration_status", migration_id=me)
            while status["progress"]["written"] == 0 or status["worker"]["state"] != "running":
                status = await host.call("migration_status", migration_id=me, wait_seconds=1)
        dead: int = status["worker"]["pid"]
        os.kill(dead, signal.SIGKILL)
        with anyio.fail_after(40):
            while status["worker"]["state"] == "running":
                status = await host.call("migration_status", migration_id=me, wait_seconds=1)
        assert status["phase"] == "backfilling"
        assert status["worker"]["state"] in ("stalled", "none")
        step = status["next_step"]
        while step["tool"] != "start_backfill":
            step = (await host.call(step["tool"], **step["arguments"]))["next_step"]
        await host.call("start_backfill", migration_id=me, points_per_second=0)
        done = await host.backfilled(me)
        assert done["worker"]["pid"] != dead
        assert (
            rest(f"{server.url}/collections/{done['target']}/points/count", method="POST", body={"exact": True})["result"]["count"] == 300
        )
        assert list(log_directory().glob("*.log"))
