"""Do apps of LangChain, LlamaIndex and Haystack write to both collections, and query the new one, by the code that create_target gives them?

Each app is a process in an environment of its own, with the framework as PyPI has it. What is in the target is read here, by plain requests.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.operations.backfill import start_backfill
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.work import open_work
from qdrant_model_migration.worker.driver import Driver
from tests.faults.apps import Collection
from tests.frameworks import installed
from tests.pinned import required
from tests.qdrant.cutovers import backend_of, impatient, swap, verify
from tests.qdrant.seeds import opened
from tests.servers import QdrantServer
from tests.servers import request as rest

OLD, NEW, OLD_SIZE = "hashing-64", "hashing-128", 64
POINTS = 120
TEXT_FIELDS = {"langchain": "page_content", "llama_index": "_node_content.text", "haystack": "content"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def frameworks() -> None:
    required(installed.install, "frameworks")


class App:
    """The process, seen from outside."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child = child
        self._log = log

    async def does(self, step: str, argument: Any) -> Any:
        def ask() -> bytes:
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(json.dumps([step, argument]).encode() + b"\n")
            self._child.stdin.flush()
            return self._child.stdout.readline()

        with anyio.fail_after(180):
            answer = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
        assert answer, self.log[-3000:]
        assert "target not updated" not in self.log, self.log[-3000:]
        return json.loads(answer)

    @property
    def log(self) -> str:
        return self._log.read_text()


@contextmanager
def app(framework: str, config: dict[str, Any], home: Path) -> Iterator[App]:
    settings = home / "config.json"
    settings.write_text(json.dumps(config))
    # What the frameworks would tell their makers, they would tell from here.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "server"),
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LANGCHAIN_TRACING_V2": "false",
    }
    command = [str(installed.PYTHON), str(Path(__file__).with_name("apps.py")), framework, str(settings)]
    with (home / "app.log").open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=home)
        try:
            yield App(child, home / "app.log")
        finally:
            # Its input ends, and so does it.
            try:
                child.communicate(timeout=30)
            finally:
                child.kill()


def text_of(framework: str, payload: dict[str, Any]) -> str:
    held = json.loads(payload["_node_content"])["text"] if framework == "llama_index" else payload[TEXT_FIELDS[framework]]
    return str(held)


def in_target(framework: str, target: Collection) -> dict[str, Any]:
    """Text -> its vector, of what was written by the app while the migration ran."""
    return {text_of(framework, p["payload"]): p["vector"] for p in target.points().values()}


async def filled(context: OperationContext, migration_id: str) -> None:
    """Until the target is: the driver would go on catching up."""
    context.ensure_driver = _nobody
    await start_backfill(context, migration_id=migration_id)
    ledger, stopped = await context.ledger(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(Driver(context, migration_id, is_stopping=stopped.is_set, idle_exit_s=0.0).run)
        with anyio.fail_after(60):
            while (await ledger.migration(migration_id)).phase is not Phase.BACKFILLED:  # noqa: ASYNC110 - the driver's doing
                await anyio.sleep(0.05)
        stopped.set()


async def _nobody(migration: Migration) -> None:
    """Starts no driver: it runs here."""


@pytest.mark.slow
@pytest.mark.parametrize("framework", list(TEXT_FIELDS))
async def test_a_store_given_the_dual_write_client_writes_to_both_and_queries_the_new_one(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    """In front of the cursor, which has not begun, and behind it, which is at its end."""
    impatient(monkeypatch)
    source, target, alias = f"{name}-docs", Collection(server_1_17, f"{name}-new"), f"{name}-alias"
    snippet, query = home / "dual_writes.py", home / "query.py"
    config = {"url": server_1_17.url, "collection": source, "named": alias, "old": OLD, "new": NEW, "old_size": OLD_SIZE}
    with app(framework, config | {"snippet": str(snippet), "query": str(query)}, home) as running:
        await running.does("seed", [f"a text about subject {n}" for n in range(POINTS)])
        action = {"create_alias": {"collection_name": source, "alias_name": alias}}
        rest(f"{server_1_17.url}/collections/aliases", method="POST", body={"actions": [action]})
        async with opened(backend_of(server_1_17, name), monkeypatch) as context:
            request = Request(
                collection=source,
                strategy="new_collection",
                model=f"builtin:{NEW}",
                text_field=TEXT_FIELDS[framework],
                target=target.name,
                writes="dual_write",
            )
            made = await create_target(context, request)
            snippet.write_text(made.dual_write_snippet)
            query.write_text(made.query_snippet)
            embedder = HashingEmbedder(NEW)
            written: list[dict[str, Any]] = []
            for number in range(2):
                written.append(await running.does("write", number))
                held = in_target(framework, target)
                for text in written[-1]["there"]:
                    assert np.abs(np.array(held[text]) - embedder._embed_one(text)).max() < 1e-5, text
                assert not held.keys() & set(written[-1]["gone"])
                if number == 0:
                    assert set(held) == set(written[0]["there"]), "the backfill has not begun"
                    await filled(context, made.migration_id)
            work = await open_work(context, await (await context.ledger()).migration(made.migration_id), lambda: None)
            proven = await verify(work)
            assert proven.is_complete, proven.problems
            await swap(work)
        [replaced] = [text for text in written[1]["there"] if text.endswith("after 1")]
        assert await running.does("query", replaced) == replaced
        assert await running.does("query", "a text about subject 7") == "a text about subject 7"
