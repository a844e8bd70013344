"""What happens to a call that cannot succeed? It says the fact and the next step, and nothing half-made is left."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import VERSIONS, Backend, NewServer
from tests.mcp.hosts import Answer, Host, hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.timeout(180), pytest.mark.in_turn]

CREATE: dict[str, Any] = {"strategy": "new_collection", "model": NEW, "text_field": "text"}
WIDE = 2**63


def state_of(backend: Backend, name: str) -> tuple[set[str], dict[str, str]]:
    """(collections, aliases), read past the code under test. The embedded database keeps them in a file."""
    if backend.is_embedded:
        found = json.loads((Path(backend.environment["QDRANT_PATH"]) / "meta.json").read_text())
        return set(found["collections"]), dict(found["aliases"])
    url, key = backend.environment["QDRANT_URL"], backend.environment.get("QDRANT_API_KEY")
    collections = rest(f"{url}/collections", api_key=key)["result"]["collections"]
    aliases = rest(f"{url}/aliases", api_key=key)["result"]["aliases"]
    return {c["name"] for c in collections if name in c["name"] or "probe" in c["name"]}, {
        a["alias_name"]: a["collection_name"] for a in aliases if name in a["alias_name"]
    }


async def test_names_that_do_not_exist_are_answered_with_near_ones(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, f"{name}-docs")
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        for tool, more in (
            ("inspect_collection", {}),
            ("recommend_strategy", {"goal": "replace_model"}),
            ("create_target", CREATE),
            ("compare_models", {"models": [OLD, NEW]}),
        ):
            refusal = await host.refused(tool, collection=f"{name}-dosc", **more)
            assert f"'{name}-dosc'" in refusal
            assert f"'{name}-docs'" in refusal
        for model in ("builtin:hashng-128", "fastembed:BAAI/bge-smal-en-v1.5"):
            for tool, more in (("recommend_strategy", {"goal": "replace_model"}), ("create_target", {**CREATE})):
                refusal = await host.refused(tool, collection=f"{name}-docs", **{**more, "model": model})
                assert model.partition(":")[2] in refusal
                assert "hashing" in refusal or "bge-small-en-v1.5" in refusal
        refusal = await host.refused("create_target", collection=f"{name}-docs", **{**CREATE, "strategy": "new_colection"})
        assert "'new_collection'" in refusal
        refusal = await host.refused("inspect_collection", connection="prod")
        assert "'default'" in refusal
        refusal = await host.refused("recommend_strategy", collection=f"{name}-docs", goal="replace_model", model=NEW, vector="dense")
        assert "'dense'" in refusal
    assert state_of(any_qdrant, name) == before


async def test_an_unknown_migration_is_answered_with_the_open_ones(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    async with hosted(any_qdrant.environment) as host:
        nothing = await host.call("migration_status")
        assert "No migration is open" in nothing["summary"]
        assert nothing["next_step"]["tool"] == "inspect_collection"
        before = state_of(any_qdrant, name)
        for tool in ("start_backfill", "migration_status", "verify_target", "repair_target", "compare_models", "swap_alias"):
            refusal = await host.refused(tool, migration_id="m-000000")
            assert "'m-000000'" in refusal
            assert "does not exist" in refusal, "nothing was ever begun here"
        assert state_of(any_qdrant, name) == before
        made = await host.call("create_target", collection=name, **CREATE)
        before = state_of(any_qdrant, name)
        for tool, more in (
            ("start_backfill", {}),
            ("migration_status", {}),
            ("control_backfill", {"action": "pause"}),
            ("verify_target", {}),
            ("repair_target", {}),
            ("compare_models", {}),
            ("swap_alias", {}),
            ("finish_migration", {"action": "discard_new"}),
        ):
            refusal = await host.refused(tool, migration_id="m-000000", **more)
            assert made["migration_id"] in refusal
    assert state_of(any_qdrant, name) == before


async def test_a_target_that_exists_is_never_touched(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        await seed(context, f"{name}-taken", points=3, model=NEW)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        for target, what in ((f"{name}-taken", "a collection"), (f"{name}-live", "an alias of"), (name, "a collection")):
            refusal = await host.refused("create_target", collection=name, target=target, **CREATE)
            assert f"{target!r} exists already ({what}" in refusal
            assert "Choose another name with 'target'" in refusal
        refusal = await host.refused("create_target", collection=name, alias=f"{name}-taken", **CREATE)
        assert f"{name}-taken" in refusal
        assert state_of(any_qdrant, name) == before
        kept = await host.call("inspect_collection", collection=f"{name}-taken")
        assert kept["collection"]["points"] == 3


async def test_a_model_that_cannot_be_loaded_is_told_before_anything_exists(
    any_qdrant: Backend, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in ("model.onnx", "tokenizer.json", "config.json", "tokenizer_config.json", "special_tokens_map.json"):
        (broken / file).write_text("{}")
    models = {"broken": {"path": str(broken), "dimensions": 8}, "absent": {"path": str(tmp_path / "nowhere"), "dimensions": 8}}
    before = state_of(any_qdrant, name)
    async with hosted({**any_qdrant.environment, "QDRANT_MIGRATION_MODELS": json.dumps(models)}) as host:
        for model in ("broken", "absent", "fastembed:BAAI/bge-small-en-v1.5", "openai:text-embedding-3-small", "qdrant:bm25"):
            for tool, more in (("recommend_strategy", {"goal": "replace_model"}), ("create_target", {"strategy": "new_collection"})):
                refusal = await host.refused(tool, collection=name, model=model, text_field="text", **more)
                assert model.partition(":")[2] in refusal or model in refusal, refusal
    assert state_of(any_qdrant, name) == before


async def test_text_that_is_not_there_is_refused_with_the_fields_that_are(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": text(n), "n": n})
        await seed(context, f"{name}-bare", payload=lambda n: {"n": n})
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        for field in ("body", "text.deeper", "{titel}\n{body}", "{title", "n"):
            for tool, more in (("recommend_strategy", {"goal": "replace_model"}), ("create_target", {"strategy": "new_collection"})):
                refusal = await host.refused(tool, collection=name, model=NEW, text_field=field, **more)
                assert "'text' (100%)" in refusal
        refusal = await host.refused("create_target", collection=f"{name}-bare", strategy="new_collection", model=NEW)
        assert "none of 40 sampled points" in refusal
        for field in ("{}", "{title!r}", "{title:>10}", "   ", "x" * 501):
            refusal = await host.refused("create_target", collection=name, strategy="new_collection", model=NEW, text_field=field)
            assert "text_field" in refusal
        # Attributes of Python objects are not fields of the payload.
        refusal = await host.refused(
            "create_target", collection=name, strategy="new_collection", model=NEW, text_field="{text.__class__.__mro__}"
        )
        assert "'text' (100%)" in refusal
    assert state_of(any_qdrant, name) == before


async def test_collections_with_nothing_to_migrate_are_refused(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, f"{name}-empty", points=0)
        gateway = await context.gateway()
        await gateway.create_collection(f"{name}-payload", {"vectors": {}})
        from qdrant_model_migration.domain.points import Point

        await gateway.points.write(f"{name}-payload", [Point(id=n, payload={"text": text(n)}) for n in range(10)])
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        for tool, more in (("recommend_strategy", {"goal": "replace_model", "model": NEW}), ("create_target", CREATE)):
            refusal = await host.refused(tool, collection=f"{name}-empty", **more)
            assert "is empty" in refusal
            refusal = await host.refused(tool, collection=f"{name}-payload", **more)
            assert "vector" in refusal
        seen = await host.call("inspect_collection", collection=f"{name}-empty")
        assert seen["next_step"] is None
        assert any("empty" in w for w in seen["warnings"])
        seen = await host.call("inspect_collection", collection=f"{name}-payload")
        assert seen["next_step"] is None
        assert any("payload only" in w for w in seen["warnings"])
    assert state_of(any_qdrant, name) == before


def _wide(number: int) -> dict[str, Any]:
    """Payload values that careless code rounds or converts."""
    return {
        "text": text(number),
        "above": WIDE + 1 + number,
        "most": 2**64 - 1,
        "least": -WIDE,
        "rounded_by_javascript": 2**53 + 1,
        "nested": {"list": [WIDE + 3, 1, 1.0, -0.5, True, None, "9223372036854775809"]},
        "float": 1.0,
        "integer": 1,
        "empty": {},
        "Ünïcode ☃": "𝔘 \u0000 \u2028",
    }


IDS: list[int | str] = [0, 1, 2**53 + 1, WIDE - 1, WIDE, WIDE + 7, 2**64 - 1, str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))]
IDS += [str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(20)]


def _speaks(parameters: Mapping[str, Any]) -> bool:
    """The embedded database has no gRPC."""
    return not (parameters["prefer_grpc"] and parameters["any_qdrant"] == "embedded")


@pytest.mark.only(where=_speaks)
@pytest.mark.parametrize("prefer_grpc", [False, True], ids=["rest", "grpc"])
async def test_wide_integers_and_mixed_ids_survive_bit_for_bit(
    any_qdrant: Backend, name: str, prefer_grpc: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=len(IDS), payload=_wide, identifier=lambda n: IDS[n])
        await (await context.gateway()).point_alias(f"{name}-live", name)
    environment = {**any_qdrant.environment, **({"QDRANT_PREFER_GRPC": "true"} if prefer_grpc else {})}
    async with hosted(environment) as host:
        seen = await host.call("inspect_collection", collection=name)
        assert seen["collection"]["id_kinds"] == ["integer", "uuid"]
        target = await _migrated(host, name)
    async with opened(any_qdrant, monkeypatch) as context:
        gateway = await context.gateway()
        copied, _ = await gateway.points.scroll(target, offset=None, limit=100)
    assert {p.id for p in copied} == set(IDS)
    for point in copied:
        expected = _wide(IDS.index(point.id))
        assert json.dumps(point.payload, sort_keys=True) == json.dumps(expected, sort_keys=True)
    if not any_qdrant.is_embedded:
        # Past every client: what the server itself prints is the same text for source and target.
        url, body = any_qdrant.environment["QDRANT_URL"], {"limit": 100, "with_payload": True}
        pages = [rest(f"{url}/collections/{c}/points/scroll", method="POST", body=body)["result"]["points"] for c in (name, target)]
        assert json.dumps([(p["id"], p["payload"]) for p in pages[0]]) == json.dumps([(p["id"], p["payload"]) for p in pages[1]])


async def _migrated(host: Host, collection: str) -> str:
    """Carry a migration to the swap; the name of the target."""
    made = await host.call("create_target", collection=collection, current_model=OLD, **CREATE)
    me = made["migration_id"]
    await host.call("start_backfill", migration_id=me)
    await host.backfilled(me)
    verified = await host.whole("verify_target", migration_id=me)
    assert verified["is_complete"], verified["summary"]
    planned = await host.call("swap_alias", migration_id=me)
    swapped = await host.call("swap_alias", migration_id=me, plan=planned["plan"]["code"])
    assert swapped["phase"] == "cut_over", swapped["summary"]
    target: str = made["target"]["collection"]
    return target


async def test_points_without_vectors_or_text_are_carried_and_counted(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, vector="dense")
        from qdrant_model_migration.domain.points import Point

        bare = [Point(id=100, payload={"text": text(100)}), Point(id=101, payload={"text": "  "}), Point(id=102, payload={"n": 1})]
        gateway = await context.gateway()
        await gateway.points.write(name, bare)
        await gateway.point_alias(f"{name}-live", name)
    async with hosted(any_qdrant.environment) as host:
        seen = await host.call("inspect_collection", collection=name)
        assert any("have no vector 'dense'" in w for w in seen["warnings"])
        made = await host.call("create_target", collection=name, current_model=OLD, **CREATE)
        me = made["migration_id"]
        await host.call("start_backfill", migration_id=me)
        status = await host.backfilled(me)
        assert status["progress"]["failed"] == 0
        verified = await host.whole("verify_target", migration_id=me)
        assert verified["is_complete"], verified["summary"]
        assert (verified["target_points"], verified["accounted"]) == (43, 2)
        planned = await host.call("swap_alias", migration_id=me)
        assert any("2 points have no vector" in w for w in planned["warnings"])
    async with opened(any_qdrant, monkeypatch) as context:
        points = await (await context.gateway()).points.retrieve(made["target"]["collection"], [100, 101, 102], vectors=["dense"])
    assert len(points[100].vectors["dense"]) == 128
    assert (points[101].payload, points[102].payload) == ({"text": "  "}, {"n": 1})
    assert not points[101].vectors.get("dense")


async def test_a_phase_that_does_not_allow_a_call_says_what_does(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    async with hosted(any_qdrant.environment) as host:
        me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
        before = state_of(any_qdrant, name)
        for tool, more in (
            ("verify_target", {}),
            ("repair_target", {}),
            ("compare_models", {}),
            ("swap_alias", {}),
            ("swap_alias", {"direction": "back"}),
            ("finish_migration", {"action": "keep_old"}),
            ("finish_migration", {"action": "delete_old"}),
        ):
            refusal = await host.refused(tool, migration_id=me, **more)
            assert "in phase 'target_created'" in refusal
            assert "Call start_backfill" in refusal
        for tool, more in (("swap_alias", {}), ("finish_migration", {"action": "discard_new"})):
            refusal = await host.refused(tool, migration_id=me, plan="docs-abc123", **more)
            assert me in refusal
        assert state_of(any_qdrant, name) == before
        plan = (await host.call("finish_migration", migration_id=me, action="discard_new"))["plan"]
        assert any("40 points" not in d for d in plan["deletes"])
        assert state_of(any_qdrant, name) == before
        ended = await host.call("finish_migration", migration_id=me, action="discard_new", plan=plan["code"])
        assert ended["phase"] == "abandoned"
        refusal = await host.refused("start_backfill", migration_id=me)
        assert "in phase 'abandoned'" in refusal
    collections, aliases = state_of(any_qdrant, name)
    assert collections == {name, f"_{name}_migrations"}
    assert aliases == {f"{name}-live": name}


@pytest.mark.parametrize("intent", ["swapping", "sweeping"])
async def test_a_swap_that_was_begun_and_is_not_over_is_named_where_another_is_asked_for(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, intent: str
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    async with hosted(any_qdrant.environment) as host:
        me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
    async with opened(any_qdrant, monkeypatch) as context:
        # As the ledger stands after the machine of the driver died.
        await (await context.ledger()).change(me, lambda m: m.model_copy(update={"intent": intent}))
    async with hosted(any_qdrant.environment) as host:
        refusal = await host.refused("swap_alias", migration_id=me)
    assert "was begun before and is not over" in refusal
    assert f"migration_status(migration_id={me!r})" in refusal


async def test_an_argument_that_would_be_of_no_use_is_refused_not_ignored(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        idle: list[tuple[str, dict[str, Any]]] = [
            ("new_collection", {"sample_size": 400}),
            ("add_sparse", {"sample_size": 400, "quantization": "scalar"}),
            ("requantize", {"quantization": "scalar", "target": f"{name}-new", "model": NEW, "new_vector": "v", "on_disk": True}),
        ]
        for strategy, given in idle:
            refusal = await host.refused("create_target", collection=name, **{**CREATE, "strategy": strategy, **given})
            assert f"'{strategy}' has no use for" in refusal
            assert all(f"'{argument}'" in refusal for argument in set(given) - ({"quantization"} if strategy == "requantize" else set()))
        refusal = await host.refused("create_target", collection=name, **CREATE, texts_file="texts.jsonl")
        assert "QDRANT_MIGRATION_ALLOWED_DIRECTORIES" in refusal
        refusal = await host.refused("create_target", collection=name, **CREATE, target_connection="elsewhere")
        assert "'elsewhere'" in refusal
        refusal = await host.refused("create_target", collection=name, **{**CREATE, "model": f"{NEW}@64"}, dimensions=32)
        assert "twice" in refusal
        refusal = await host.refused("create_target", collection=name, strategy="new_collection")
        assert "'model' is missing" in refusal
        refusal = await host.refused("compare_models", collection=name, models=[OLD, NEW], slice_field=" ")
        assert "'slice_field' is blank" in refusal
        refusal = await host.refused("compare_models", collection=name, models=[OLD, NEW], search_template='{"query": "{query}"}')
        assert "two sides of a migration" in refusal
        refusal = await host.refused("compare_models", collection=name)
        assert "'models'" in refusal
        refusal = await host.refused("compare_models", collection=name, models=[OLD, NEW], queries_file="/etc/passwd")
        assert "QDRANT_MIGRATION_ALLOWED_DIRECTORIES" in refusal
        assert state_of(any_qdrant, name) == before
        me = (await host.call("create_target", collection=name, **CREATE))["migration_id"]
        for template, why in (
            ("{", "is not JSON"),
            ('{"query": [1.0]}', "'query' must be"),
            ({"query": "{query}", "offset": 5}, "'offset'"),
        ):
            refusal = await host.refused("compare_models", migration_id=me, search_template=template)
            assert "Nothing was compared: search_template" in refusal
            assert why in refusal
        for more, why in (({"executor": "ray"}, "QDRANT_MIGRATION_RAY_ADDRESS"), ({"max_cost_usd": 1.0}, "no price is known")):
            refusal = await host.refused("start_backfill", migration_id=me, **more)
            assert why in refusal
        if any_qdrant.is_embedded:
            assert "needs a Qdrant server" in await host.refused("start_backfill", migration_id=me, max_source_latency_ms=5.0)
        refusal = await host.refused("control_backfill", migration_id=me, action="set_pace")
        assert "points_per_second" in refusal
        status = await host.call("migration_status", migration_id=me)
        assert status["phase"] == "target_created"


HOSTILE = ['it\'s "quoted"', "two\nlines", "../../etc/passwd", "a" * 255, "☃ {text}", "'; DROP", "\u0000", " "]


async def test_hostile_names_are_only_names(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    before = state_of(any_qdrant, name)
    async with hosted(any_qdrant.environment) as host:
        for hostile in HOSTILE:
            for tool, more in (("inspect_collection", {}), ("recommend_strategy", {"goal": "replace_model"}), ("create_target", CREATE)):
                refusal = await host.refused(tool, collection=hostile, **more)
                assert len(refusal) < 1500
        for argument in ("collection", "target", "alias"):
            arguments = {"collection": name, **CREATE, argument: "x" * 256}
            refusal = await host.refused("create_target", **arguments)
            assert "255" in refusal
        for hostile in ("", "../up", "two\nlines", "\u0000"):
            refusal = await host.refused("create_target", collection=name, target=hostile, **CREATE)
            assert "Nothing was changed" in refusal or "at least 1 character" in refusal
        assert state_of(any_qdrant, name) == before
        assert (await host.call("inspect_collection", collection=name))["collection"]["points"] == 40


async def test_a_collection_with_a_hostile_name_migrates(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes, spaces and 255 characters are legal names on a server."""
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    backend = Backend(name="server", environment=environment, version=server.version)
    quoted, longest = f"{name} it's {{docs}} ☃", name.ljust(255, "x")
    async with opened(backend, monkeypatch) as context:
        for source in (quoted, longest):
            await seed(context, source, points=10)
            await (await context.gateway()).point_alias(f"{source[:200]} live", source)
    async with hosted(environment) as host:
        for source in (quoted, longest):
            target = await _migrated(host, source)
            assert len(target) <= 255
            assert state_of(backend, name)[1][f"{source[:200]} live"] == target


@pytest.mark.parametrize("version", VERSIONS)
async def test_keys_without_the_rights_leave_nothing_behind(
    version: str, new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_server(version, api_key="right-key-7d1f", read_only_key="reading-key-93b0")
    backend = Backend(name="server", environment=server.environment, version=version)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    before = state_of(backend, name)
    async with hosted({**server.environment, "QDRANT_API_KEY": "wrong-key-55aa"}) as host:
        for tool, more in _EVERY_CALL:
            refusal = await host.refused(tool, **{**more, **({"collection": name} if "collection" in more else {})})
            assert "QDRANT_API_KEY" in refusal
    async with hosted({k: v for k, v in server.environment.items() if k != "QDRANT_API_KEY"}) as host:
        assert "QDRANT_API_KEY" in await host.refused("inspect_collection")
    async with hosted({**server.environment, "QDRANT_API_KEY": "reading-key-93b0"}) as host:
        assert (await host.call("inspect_collection", collection=name))["collection"]["points"] == 40
        advice = await host.call("recommend_strategy", collection=name, goal="replace_model", model=NEW, current_model=OLD)
        assert advice["source_match"]["is_match"]
        refusal = await host.refused("create_target", collection=name, **CREATE)
        assert "may not create collections" in refusal
        assert "key" in refusal
    assert state_of(backend, name) == before


_EVERY_CALL: tuple[tuple[str, Answer], ...] = (
    ("inspect_collection", {}),
    ("inspect_collection", {"collection": "docs"}),
    ("recommend_strategy", {"collection": "docs", "goal": "replace_model", "model": NEW}),
    ("create_target", {"collection": "docs", **CREATE}),
    ("start_backfill", {"migration_id": "m-000000"}),
    ("migration_status", {}),
    ("control_backfill", {"migration_id": "m-000000", "action": "pause"}),
    ("verify_target", {"migration_id": "m-000000"}),
    ("repair_target", {"migration_id": "m-000000"}),
    ("compare_models", {"collection": "docs", "models": [OLD, NEW]}),
    ("swap_alias", {"migration_id": "m-000000"}),
    ("finish_migration", {"migration_id": "m-000000", "action": "keep_old"}),
)


async def test_a_server_that_is_down_is_told_in_seconds_and_works_when_it_is_back(
    fresh_server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="server", environment=fresh_server.environment, version=fresh_server.version)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    before = state_of(backend, name)
    fresh_server.stop()
    async with hosted(fresh_server.environment) as host:
        for tool, more in _EVERY_CALL[:4]:
            refusal = await host.refused(tool, **more)
            assert "does not answer" in refusal
            assert "QDRANT_URL" in refusal
        assert max(took for _, took in host.took) < 20
        guidance = await host.call("read_guidance", topic="zero downtime")
        assert guidance["sections"]
        fresh_server.start()
        assert (await host.call("inspect_collection", collection=name))["collection"]["points"] == 40
    assert state_of(backend, name) == before


async def test_a_second_server_on_the_same_embedded_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant")}
    async with opened(Backend(name="embedded", environment=environment, version=None), monkeypatch) as context:
        await seed(context, name)
    async with hosted(environment) as first, hosted(environment) as second:
        assert (await first.call("inspect_collection", collection=name))["collection"]["points"] == 40
        for tool, more in (("inspect_collection", {}), ("create_target", {"collection": name, **CREATE})):
            refusal = await second.refused(tool, **more)
            assert "in use by another process" in refusal
            assert "QDRANT_URL" in refusal
        assert (await second.call("read_guidance"))["sections"]
        # The first goes on undisturbed.
        assert (await first.call("create_target", collection=name, **CREATE))["phase"] == "target_created"


async def test_numbers_out_of_bounds_are_refused_by_the_schema(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    async with hosted(any_qdrant.environment) as host:
        for tool, more in (
            ("inspect_collection", {"sample_size": 0}),
            ("recommend_strategy", {"collection": name, "goal": "win"}),
            ("migration_status", {"wait_seconds": 1000}),
            ("start_backfill", {"migration_id": "m-1", "points_per_second": -1}),
            ("compare_models", {"collection": name, "models": [OLD, NEW], "k": 0}),
            ("finish_migration", {"migration_id": "m-1", "action": "delete_everything"}),
        ):
            refusal = await host.refused(tool, **more)
            assert len(refusal) < 1500
        assert math.isclose((await host.call("inspect_collection", collection=name))["collection"]["points"], 40)
