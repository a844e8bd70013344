"""What may this installation touch? Read-only mode, the list of allowed collections, and what belongs to the tool or to another migration."""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.tools import TOOLS
from tests.conftest import Backend
from tests.faults.proxy import Fault, FaultProxy, Rule
from tests.mcp.hosts import Answer, hosted
from tests.mcp.test_bad_input import state_of
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.security.inside import inside
from tests.security.said import problem_of_refusal
from tests.servers import QdrantServer

pytestmark = pytest.mark.timeout(180)

CREATE: dict[str, Any] = {"strategy": "new_collection", "model": NEW, "text_field": "text"}


async def _seeded(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two collections that are allowed below, one that is not, and an alias to each kind."""
    async with opened(backend, monkeypatch) as context:
        for collection in (f"{name}-open", f"{name}-open2", f"{name}-secret"):
            await seed(context, collection)
        gateway = await context.gateway()
        await gateway.point_alias(f"{name}-live", f"{name}-open")
        await gateway.point_alias(f"{name}-open-door", f"{name}-secret")


async def test_in_read_only_mode_nothing_that_writes_is_there_and_nothing_is_written(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _seeded(any_qdrant, name, monkeypatch)
    before = state_of(any_qdrant, name)
    writing = {spec.name for spec in TOOLS if spec.is_writing}
    async with inside({**any_qdrant.environment, "QDRANT_MIGRATION_READ_ONLY": "true"}) as host:
        offered = {tool.name for tool in (await host.client.list_tools()).tools}
        assert offered == {spec.name for spec in TOOLS} - writing
        assert len(writing) == 6
        for tool in sorted(writing):
            said = await host.refused(tool, migration_id="m-000000", collection=f"{name}-open", strategy="new_collection")
            assert "no tool" in said
            assert "inspect_collection" in said
        await host.call("inspect_collection", collection=f"{name}-open", response_format="detailed")
        advice = await host.call("recommend_strategy", collection=f"{name}-open", goal="replace_model", model=NEW, current_model=OLD)
        assert advice["recommendations"]
        assert not [step for step in advice["recommendations"] if step["next_step"] and step["next_step"]["tool"] in writing]
        compared = await host.call("compare_models", collection=f"{name}-open", models=["builtin:hashing-128", "builtin:hashing-128@64"])
        assert compared["metrics"]
        await host.call("migration_status")
    assert state_of(any_qdrant, name) == before


async def test_outside_the_allow_list_nothing_is_touched_or_told(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, through an alias whose own name is allowed, as a target, and as the near miss of a wrong name."""
    await _seeded(any_qdrant, name, monkeypatch)
    before = state_of(any_qdrant, name)
    secret, door = f"{name}-secret", f"{name}-open-door"
    calls: tuple[tuple[str, Answer], ...] = (
        ("inspect_collection", {}),
        ("recommend_strategy", {"goal": "replace_model", "model": NEW}),
        ("compare_models", {"models": [OLD, NEW]}),
        ("create_target", CREATE),
        ("create_target", {**CREATE, "dry_run": True}),
    )
    async with inside({**any_qdrant.environment, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": f"{name}-open*"}) as host:
        seen = await host.call("inspect_collection")
        assert [c["name"] for c in seen["collections"]] == [f"{name}-open", f"{name}-open2"]
        assert [a["alias"] for a in seen["aliases"]] == [f"{name}-live"]
        for tool, more in calls:
            said = await host.refused(tool, collection=secret, **more)
            assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in said
            said = await host.refused(tool, collection=door, **more)
            assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in said
            assert secret not in said, "an alias tells what it leads to"
            said = await host.refused(tool, collection=f"{name}-secrt", **more)
            assert f"'{secret}'" not in said
            assert f"'{door}'" not in said
        said = await host.refused("create_target", collection=f"{name}-open", target=f"{name}-elsewhere", **CREATE)
        assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in said
        assert state_of(any_qdrant, name) == before
        made = await host.call("create_target", collection=f"{name}-live", **CREATE)
        assert made["target"]["collection"].startswith(f"{name}-open__")


async def test_a_migration_of_other_collections_is_out_of_reach(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another installation began it in the same ledger: its id opens no way around the allow-list, and no list tells its names."""
    await _seeded(any_qdrant, name, monkeypatch)
    secret = f"{name}-secret"
    async with inside(any_qdrant.environment) as host:
        me = (await host.call("create_target", collection=secret, **CREATE))["migration_id"]
    before = state_of(any_qdrant, name)
    calls: tuple[tuple[str, Answer], ...] = (
        ("migration_status", {}),
        ("start_backfill", {}),
        ("control_backfill", {"action": "pause"}),
        ("verify_target", {}),
        ("repair_target", {}),
        ("compare_models", {}),
        ("swap_alias", {"alias": f"{name}-live"}),
        ("finish_migration", {"action": "discard_new"}),
    )
    async with inside({**any_qdrant.environment, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": f"{name}-open*"}) as host:
        for tool, more in calls:
            said = await host.refused(tool, migration_id=me, **more)
            assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in said
            assert secret not in said
            assert secret not in await host.refused(tool, migration_id="m-000000", **more)
        nothing = await host.call("migration_status")
        assert "No migration is open" in nothing["summary"]
        assert (await host.call("inspect_collection"))["migrations"] == []
        for uri in (f"migration://{me}", f"migration://{me}/report", f"migration://{me}/report.html"):
            with pytest.raises(Exception, match="QDRANT_MIGRATION_ALLOWED_COLLECTIONS"):
                await host.client.read_resource(uri)
    assert state_of(any_qdrant, name) == before


async def test_a_deleted_ledger_is_told_as_such_with_an_allow_list_too(any_qdrant: Backend, name: str) -> None:
    async with inside({**any_qdrant.environment, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": f"{name}-open*"}) as host:
        said = await host.refused("migration_status", migration_id="m-000000")
    assert "does not exist" in said
    assert "restore the ledger from a snapshot" in said


async def test_a_key_that_may_not_list_aliases_opens_no_way_around_the_allow_list(
    server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of an alias may be allowed, and what it leads to not; who cannot list cannot tell. Qdrant filters what it lists; proxies refuse."""
    environment = {**server_1_17.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    await _seeded(Backend(name="server", environment=environment, version=server_1_17.version), name, monkeypatch)
    with FaultProxy(server=server_1_17, rules=[Rule(fault=Fault.FORBIDDEN, method="GET", path=r"^/aliases")]) as proxy:
        environment |= proxy.environment
        async with inside(environment) as host:
            await host.call("inspect_collection", collection=f"{name}-open")
        async with inside({**environment, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": f"{name}-open*"}) as host:
            for collection in (f"{name}-open-door", f"{name}-open"):
                said = await host.refused("inspect_collection", collection=collection)
                assert "QDRANT_MIGRATION_ALLOWED_COLLECTIONS" in said
                assert "Use a key that may list" in said
        proxy.assert_struck()


async def test_the_ledger_is_no_source_no_target_and_no_alias(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it exists and after; by its name and through an alias that somebody pointed to it."""
    await _seeded(any_qdrant, name, monkeypatch)
    ledger = any_qdrant.environment["QDRANT_MIGRATION_LEDGER"]
    async with hosted(any_qdrant.environment) as host:
        before = state_of(any_qdrant, name)
        assert ledger not in before[0]
        for more in ({"target": ledger}, {"alias": ledger}):
            said = await host.refused("create_target", collection=f"{name}-open", **CREATE, **more)
            assert "ledger" in said
        assert state_of(any_qdrant, name) == before
        made = await host.call("create_target", collection=f"{name}-open", **CREATE)
        me = made["migration_id"]
        shadows: list[str] = []
        if not any_qdrant.is_embedded:
            # The embedded database is held by the session.
            async with opened(any_qdrant, monkeypatch) as context:
                await (await context.gateway()).point_alias(f"{name}-shadow", ledger)
            shadows.append(f"{name}-shadow")
        before = state_of(any_qdrant, name)
        for source in (ledger, *shadows):
            readers: tuple[tuple[str, Answer], ...] = (
                ("inspect_collection", {}),
                ("recommend_strategy", {"goal": "replace_model"}),
                ("compare_models", {"models": [OLD, NEW]}),
                ("create_target", CREATE),
            )
            for tool, arguments in readers:
                said = await host.refused(tool, collection=source, **arguments)
                assert "ledger" in said
        for more in ({"target": ledger}, {"alias": ledger}):
            assert problem_of_refusal(await host.refused("create_target", collection=f"{name}-open2", **CREATE, **more)) is None
        await host.call("start_backfill", migration_id=me)
        await host.backfilled(me)
        assert (await host.whole("verify_target", migration_id=me))["is_complete"]
        for alias in (ledger, *shadows, "a/b", "a\x1bb", "."):
            assert problem_of_refusal(await host.refused("swap_alias", migration_id=me, alias=alias)) is None
        assert state_of(any_qdrant, name) == before


async def test_the_target_of_another_migration_is_no_source_no_target_and_no_alias(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Created already, or only promised: a linear map is fitted before its target is created."""
    await _seeded(any_qdrant, name, monkeypatch)
    async with hosted(any_qdrant.environment) as host:
        first = await host.call("create_target", collection=f"{name}-open", target=f"{name}-first", **CREATE)
        second = await host.call("create_target", collection=f"{name}-open2", target=f"{name}-second", **CREATE)
        before = state_of(any_qdrant, name)
        taken = f"{name}-first"
        said = await host.refused("create_target", collection=taken, **CREATE)
        assert first["migration_id"] in said or "is empty" in said
        for more in ({"target": taken}, {"alias": taken}):
            said = await host.refused("create_target", collection=f"{name}-secret", **CREATE, **more)
            assert taken in said
        me = second["migration_id"]
        await host.call("start_backfill", migration_id=me)
        await host.backfilled(me)
        assert (await host.whole("verify_target", migration_id=me))["is_complete"]
        assert taken in await host.refused("swap_alias", migration_id=me, alias=taken)
        assert state_of(any_qdrant, name) == before
    async with opened(any_qdrant, monkeypatch) as context:
        # As a driver that died while it fitted a map leaves it: recorded, and nothing created yet.
        ledger = await context.ledger()
        found = await ledger.migration(first["migration_id"])
        promised = found.model_copy(
            update={"id": "m-abcdef", "phase": Phase.PLANNED, "target": found.target.model_copy(update={"collection": f"{name}-promised"})}
        )
        assert await ledger.add_migration(promised)
    async with hosted(any_qdrant.environment) as host:
        for more in ({"target": f"{name}-promised"}, {"alias": f"{name}-promised"}):
            said = await host.refused("create_target", collection=f"{name}-secret", **CREATE, **more)
            assert "is the target of migration m-abcdef" in said
        assert "is the target of migration m-abcdef" in await host.refused("swap_alias", migration_id=me, alias=f"{name}-promised")
        assert state_of(any_qdrant, name) == before
