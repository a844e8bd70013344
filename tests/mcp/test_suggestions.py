"""Is a person helped while typing, and told when a migration goes on? Completions and subscriptions, in both eras of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import stdio_client
from mcp.types import PromptReference, ResourceTemplateReference

from tests.conftest import Backend
from tests.mcp.hosts import hosted, parameters, until
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.servers import free_ports

MIGRATION = ResourceTemplateReference(uri="migration://{migration_id}")


def prompt(name: str) -> PromptReference:
    return PromptReference(name=name)


async def suggested(client: Client, ref: Any, argument: str, typed: str) -> list[str]:
    found = (await client.complete(ref, {"name": argument, "value": typed})).completion
    assert found.total == len(found.values)
    return list(found.values)


@pytest.mark.in_turn
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_names_are_suggested_while_somebody_types(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    async with hosted(any_qdrant.environment, mode=mode) as host:
        assert await suggested(host.client, prompt("replace_model"), "collection", name.upper()) == [f"{name}-live", name]
        assert await suggested(host.client, prompt("replace_model"), "collection", f"{name[3:]}-l") == [f"{name}-live"]
        assert await suggested(host.client, prompt("add_reranking"), "collection", "nothing-is-named-so") == []
        models = await suggested(host.client, prompt("replace_model"), "model", "builtin:")
        assert models
        assert all(model.startswith("builtin:") for model in models)
        assert f"{OLD}, {models[-1]}" in await suggested(host.client, prompt("compare_models"), "models", f"{OLD}, builtin:")
        assert OLD not in await suggested(host.client, prompt("compare_models"), "models", f"{OLD},builtin:")
        assert await suggested(host.client, MIGRATION, "migration_id", "") == []
        made = await host.call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text")
        assert await suggested(host.client, MIGRATION, "migration_id", "m-") == [made["migration_id"]]
        assert await suggested(host.client, prompt("resume_migration"), "migration_id", "") == [made["migration_id"]]
        assert await suggested(host.client, prompt("resume_migration"), "no_such_argument", "") == []


async def test_only_what_may_be_touched_is_suggested(server_1_17: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, other = f"{name}-mine", f"{name}-theirs"
    backend = Backend(
        name="server",
        environment={
            **server_1_17.environment,
            "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations",
            "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": f"{name}-m*",
        },
        version="1.17.0",
    )
    async with opened(backend, monkeypatch) as context:
        gateway = await context.gateway()
        for collection in (allowed, other):
            await gateway.create_collection(collection, {"vectors": {"size": 4, "distance": "Cosine"}})
            await gateway.point_alias(f"{collection}-alias", collection)
    async with hosted(backend.environment) as host:
        assert await suggested(host.client, prompt("replace_model"), "collection", name) == [f"{allowed}-alias", allowed]


async def test_a_qdrant_that_is_away_suggests_nothing_and_fails_nothing() -> None:
    async with hosted({"QDRANT_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}) as host:
        assert await suggested(host.client, prompt("replace_model"), "collection", "") == []


@pytest.mark.in_turn
async def test_who_listens_hears_that_a_migration_went_on(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    async with hosted(any_qdrant.environment, mode="2026-07-28") as host:
        made = await host.call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text")
        uri = f"migration://{made['migration_id']}"
        async with host.client.listen(resource_subscriptions=[uri]) as heard:
            assert list(heard.honored.resource_subscriptions or ()) == [uri]
            # It has to be seen as it is before a change can be.
            await anyio.sleep(5)
            await host.call("start_backfill", migration_id=made["migration_id"])
            with anyio.fail_after(60):
                event = await anext(aiter(heard))
            assert getattr(event, "uri", None) == uri
        await host.backfilled(made["migration_id"])


# Of the client, which would rather not be used for the older protocol; hosts are.
@pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")
async def test_a_session_of_the_older_protocol_is_told_what_it_subscribed_to(
    any_qdrant: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    told: list[str] = []

    async def hear(message: Any) -> None:
        uri = getattr(getattr(message, "params", None), "uri", None)
        if uri is not None:
            told.append(str(uri))

    with (tmp_path / "stderr.txt").open("w") as sink:
        transport = stdio_client(parameters(any_qdrant.environment), errlog=sink)
        async with Client(transport, mode="legacy", message_handler=hear, read_timeout_seconds=60) as client:
            assert client.server_capabilities.resources is not None
            assert client.server_capabilities.resources.subscribe
            given = {"collection": name, "strategy": "new_collection", "model": NEW, "text_field": "text"}
            made = (await client.call_tool("create_target", given)).structured_content
            assert made is not None
            uri = f"migration://{made['migration_id']}"
            await client.session.subscribe_resource(uri)
            await anyio.sleep(5)
            await client.call_tool("start_backfill", {"migration_id": made["migration_id"]})
            await until(lambda: bool(told), within_s=60)
            assert set(told) == {uri}
            await client.session.unsubscribe_resource(uri)
            await anyio.sleep(5)
            told.clear()
            await client.call_tool("control_backfill", {"migration_id": made["migration_id"], "action": "pause"})
            await anyio.sleep(6)
            assert told == []
