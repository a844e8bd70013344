"""Is what hosts and models see as promised? Names, texts and schemas by snapshot; sizes; and that no key or address gets out."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from qdrant_model_migration.tools import TOOLS
from tests.conftest import Backend, NewServer
from tests.mcp.hosts import Host, hosted, log_directory, tokens, until, workers
from tests.pages import read_page
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.timeout(180)

SNAPSHOTS = Path(__file__).parent / "snapshots"
READING = {
    "inspect_collection",
    "recommend_strategy",
    "migration_status",
    "verify_target",
    "compare_models",
    "read_guidance",
}
DESTRUCTIVE = {"repair_target", "swap_alias", "finish_migration"}
WRITING = {"create_target", "start_backfill", "control_backfill"} | DESTRUCTIVE
COMMON = {"summary", "warnings", "next_step"}
ARGUMENTS = {
    "inspect_collection": "collection connection sample_size name_filter response_format",
    "recommend_strategy": "collection goal model current_model text_field vector writes readers connection",
    "create_target": "collection strategy model text_field texts_file target vector new_vector dimensions current_model alias writes readers "
    "on_missing_text on_long_text on_disk quantization sample_size gate updated_at_field connection target_connection dry_run",
    "start_backfill": "migration_id points_per_second concurrency max_source_latency_ms max_failed_points max_cost_usd executor",
    "migration_status": "migration_id wait_seconds",
    "control_backfill": "migration_id action points_per_second concurrency max_source_latency_ms max_cost_usd",
    "verify_target": "migration_id provenance_sample",
    "repair_target": "migration_id",
    "compare_models": "migration_id collection models queries queries_file qrels_file search_template slice_field k sample_size margin",
    "swap_alias": "migration_id alias direction plan",
    "finish_migration": "migration_id action snapshot_first plan",
    "read_guidance": "topic",
}
STATUS = "phase error progress worker failed_points events"
RESULTS = {
    "inspect_collection": "server collections aliases migrations collection",
    "recommend_strategy": "source_match recommendations models",
    "create_target": "undo migration_id phase source target recipes config_diff app_changes dual_write_snippet",
    "start_backfill": f"undo {STATUS}",
    "migration_status": STATUS,
    "control_backfill": f"undo {STATUS}",
    "verify_target": "is_complete source_points target_points missing extra changed accounted bad_vectors provenance config_diff is_index_ready",
    "repair_target": "undo repaired verification",
    "compare_models": "verdict is_judged metrics overlap_at_k latency_ms index_recall most_changed gate",
    "swap_alias": "undo plan alias previous current write_gap app_changes",
    "finish_migration": "undo plan phase deleted kept",
    "read_guidance": "sections",
}
INNER = {
    "CollectionInfo": "name alias points vectors sparse_vectors payload_indexes text_fields framework provenance health estimates",
    "TextField": "field coverage mean_chars p95_tokens example",
    "SourceMatch": "sampled min_cosine mean_cosine",
    "Recommendation": "strategy is_feasible reasons refusals prerequisites risks card guidance next_step",
    "Card": "points tokens truncated_share seconds cost_usd disk_bytes ram_bytes app_changes undo",
    "Progress": "stage total read written skipped failed points_per_second eta_seconds lag",
    "Worker": "state host pid heartbeat_age_s log",
    "ProvenanceCheck": "sampled min_cosine mean_cosine wrong upper_bound",
    "Repaired": "missing extra changed bad_vectors",
    "Metric": "metric model value difference ci_low ci_high",
    "SwapPlan": "code moves counts comparison breaks undo",
    "WriteGap": "carried_over superseded unresolved",
    "NextStep": "tool arguments why",
    "Section": "title text",
}


async def _listed(environment: dict[str, str]) -> dict[str, Any]:
    async with hosted(environment, errors=Path(os.environ["HOME"]) / "errors.txt") as host:
        client = host.client
        return {
            "tools": {t.name: t for t in (await client.list_tools()).tools},
            "instructions": client.instructions or "",
            "resources": [r.model_dump(mode="json", exclude_none=True) for r in (await client.list_resources()).resources],
            "templates": [
                r.model_dump(mode="json", exclude_none=True) for r in (await client.list_resource_templates()).resource_templates
            ],
            "prompts": [p.model_dump(mode="json", exclude_none=True) for p in (await client.list_prompts()).prompts],
        }


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a host is told when it connects, without any Qdrant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        return anyio.run(partial(_listed, {}))


def _same_as_snapshot(name: str, value: object) -> None:
    path = SNAPSHOTS / f"{name}.json"
    shown = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown)
    assert path.is_file(), f"there is no snapshot {path.name}: run the tests with UPDATE_SNAPSHOTS=1 and look at what it wrote"
    assert json.loads(shown) == json.loads(path.read_text()), f"{path.name} differs; if that is meant, run with UPDATE_SNAPSHOTS=1"


def test_there_are_exactly_the_twelve_tools(listed: dict[str, Any]) -> None:
    assert set(listed["tools"]) == READING | WRITING == set(ARGUMENTS)
    assert list(listed["tools"]) == [spec.name for spec in TOOLS]
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} <= set(ARGUMENTS) | {"server"}


@pytest.mark.parametrize("tool", sorted(ARGUMENTS))
def test_a_tool_is_as_its_snapshot(listed: dict[str, Any], tool: str) -> None:
    """A host's model has learnt these texts and schemas by the time somebody changes them."""
    _same_as_snapshot(tool, listed["tools"][tool].model_dump(mode="json", exclude_none=True))


def test_instructions_resources_and_prompts_are_as_their_snapshot(listed: dict[str, Any]) -> None:
    _same_as_snapshot("server", {key: listed[key] for key in ("instructions", "resources", "templates", "prompts")})


def test_hosts_with_limits_can_take_it(listed: dict[str, Any]) -> None:
    """Claude Code cuts instructions at 2,048 characters; others limit names and descriptions."""
    assert 200 < len(listed["instructions"]) < 2000
    for name, tool in listed["tools"].items():
        assert re.fullmatch(r"[a-z0-9_]{1,35}", name)
        assert tool.title
        assert 100 < len(tool.description) < 1024
        assert tool.description == tool.description.strip()
    assert (
        len(json.dumps([t.model_dump(mode="json", exclude_none=True, exclude={"output_schema"}) for t in listed["tools"].values()]))
        < 40_000
    )


def test_every_argument_is_described_and_named_as_designed(listed: dict[str, Any]) -> None:
    for name, tool in listed["tools"].items():
        properties = tool.input_schema["properties"]
        assert set(ARGUMENTS[name].split()) <= properties.keys()
        assert all(p.get("description") for p in properties.values()), name
        assert "ctx" not in properties
        assert "agreement" not in properties


def test_every_result_holds_the_designed_fields(listed: dict[str, Any]) -> None:
    definitions: dict[str, Any] = {}
    for name, tool in listed["tools"].items():
        assert (COMMON | set(RESULTS[name].split())) <= tool.output_schema["properties"].keys(), name
        definitions |= tool.output_schema.get("$defs", {})
    for name, fields in INNER.items():
        assert set(fields.split()) <= definitions[name]["properties"].keys(), name


def test_every_tool_states_all_its_hints(listed: dict[str, Any]) -> None:
    for name, tool in listed["tools"].items():
        hints = tool.annotations
        assert None not in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint), name
        assert hints.read_only_hint is (name in READING)
        assert hints.destructive_hint is (name in DESTRUCTIVE)


async def test_read_only_mode_has_no_writing_tool(server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(server_1_17, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    async with hosted({**backend.environment, "QDRANT_MIGRATION_READ_ONLY": "true"}) as host:
        found = {t.name for t in (await host.client.list_tools()).tools}
        assert found == READING
        for tool in sorted(WRITING):
            is_error, said, _ = await _called(host, tool)
            assert is_error
            assert f"no tool {tool!r} is offered" in said
        advice = await host.call("recommend_strategy", collection=name, goal="replace_model", model=NEW, text_field="text")
        assert advice["next_step"] is None
        assert [r["next_step"] for r in advice["recommendations"] if r["next_step"]] == []
        assert any("QDRANT_MIGRATION_READ_ONLY" in w for w in advice["warnings"])
        compared = await host.whole("compare_models", collection=name, models=[OLD, NEW], text_field="text")
        assert compared["metrics"]
    assert rest(f"{server_1_17.url}/collections/_{name}_migrations/exists")["result"]["exists"] is False


async def _called(host: Host, tool: str) -> tuple[bool, str, object]:
    from mcp.shared.exceptions import MCPError

    try:
        return await host.raw(tool, migration_id="m-1", collection="docs", strategy="new_collection", action="pause")
    except MCPError as error:
        return True, str(error), None


def _backend(server: QdrantServer, name: str, **more: str) -> Backend:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations", **more}
    return Backend(name=f"server {server.version}", environment=environment, version=server.version)


async def test_results_stay_short_for_a_collection_with_very_much_of_everything(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 payload fields, 50 aliases, 40 indexes: each concise answer fits in 1,500 tokens, and says how much it left out."""
    backend = _backend(server, name)

    def payload(n: int) -> dict[str, Any]:
        words = {f"field_number_{i:03d}": f"{text(n)} and the words of field {i}" for i in range(500)}
        return {"text": text(n), **words}

    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=60, payload=payload)
        gateway = await context.gateway()
        for i in range(40):
            await gateway.create_payload_index(name, f"field_number_{i:03d}", {"data_type": "keyword"})
        for i in range(50):
            await gateway.point_alias(f"{name}-an-alias-of-some-length-{i:02d}", name)
    sizes: dict[str, int] = {}
    async with hosted(backend.environment) as host:

        async def call(tool: str, label: str = "", **arguments: Any) -> dict[str, Any]:
            answer = await host.whole(tool, **arguments)
            sizes[label or tool] = tokens(answer)
            return answer

        await call("inspect_collection", "overview", name_filter=name)
        seen = await call("inspect_collection", collection=name)
        assert seen["collection"]["omitted"]["text_fields"] > 400
        advice = await call(
            "recommend_strategy", collection=name, goal="replace_model", model=NEW, current_model=OLD, text_field="text", writes="frozen"
        )
        step = advice["next_step"]
        await call("create_target", "dry run", **step["arguments"], dry_run=True)
        me = (await call("create_target", **step["arguments"]))["migration_id"]
        await call("start_backfill", migration_id=me)
        await host.backfilled(me)
        await call("verify_target", migration_id=me)
        await call("migration_status", migration_id=me)
        plan = (await call("swap_alias", "swap plan", migration_id=me))["plan"]
        assert [m["alias"] for m in plan["moves"]] + plan["also"] == [f"{name}-an-alias-of-some-length-{i:02d}" for i in range(50)]
        await call("swap_alias", migration_id=me, plan=plan["code"])
        await call("finish_migration", "finish plan", migration_id=me, action="keep_old")
        await call("migration_status", "status after", migration_id=me)
    print(sizes)
    assert {label: size for label, size in sizes.items() if size >= 1500} == {}


async def test_resources_and_prompts_can_be_read(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    async with hosted(any_qdrant.environment) as host:
        client = host.client
        made = await host.call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text")
        me = made["migration_id"]
        skill = str(await client.read_resource("skill://qdrant-model-migration/SKILL.md"))
        assert "zero downtime" in skill.lower()
        recorded = (await client.read_resource(f"migration://{me}")).contents[0]
        assert json.loads(getattr(recorded, "text", ""))["phase"] == "target_created"
        report = (await client.read_resource(f"migration://{me}/report")).contents[0]
        assert me in getattr(report, "text", "")
        from mcp.shared.exceptions import MCPError

        page = (await client.read_resource(f"migration://{me}/report.html")).contents[0]
        assert page.mime_type == "text/html"
        assert read_page(getattr(page, "text", "")).one("h1").text == f"Migration {me}"
        for address in ("migration://m-000000", "migration://m-000000/report", "migration://m-000000/report.html"):
            with pytest.raises(MCPError) as refusal:
                await client.read_resource(address)
            assert "m-000000" in str(refusal.value)
        for prompt in (await client.list_prompts()).prompts:
            arguments = {a.name: f"{name}-{a.name}" for a in prompt.arguments or []}
            got = await client.get_prompt(prompt.name, arguments)
            assert got.messages
            required = [a.name for a in prompt.arguments or [] if a.required]
            assert all(arguments[r] in str(got.messages) for r in required)
        for topic in (None, "zero downtime", "which model", "xyzzy"):
            answer = await host.call("read_guidance", **({"topic": topic} if topic else {}))
            assert answer["sections"]
            assert tokens(answer) < 6_000


KEYS = {
    "OPENAI_API_KEY": "sk-planted-openai-51c2e0",
    "COHERE_API_KEY": "planted-cohere-51c2e1",
    "QDRANT_API_KEY": "planted-qdrant-51c2e2",
    "MY_PRIVATE_ENDPOINT_KEY": "planted-private-51c2e3",
    "SECOND_QDRANT_KEY": "planted-second-51c2e4",
}


async def test_keys_and_addresses_never_get_out(new_server: NewServer, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in the environment as people have them; looked for in every answer, error, command line, log and record."""
    server = new_server("1.17.0", api_key=KEYS["QDRANT_API_KEY"])
    models = {
        "private": {"provider": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "key_variable": "MY_PRIVATE_ENDPOINT_KEY"}
    }
    second = {"second": {"url": "http://127.0.0.1:9", "key_variable": "SECOND_QDRANT_KEY"}}
    environment = {
        **server.environment,
        **KEYS,
        "QDRANT_MIGRATION_MODELS": json.dumps(models),
        "QDRANT_MIGRATION_CONNECTIONS": json.dumps(second),
    }
    backend = Backend(name="server", environment=server.environment, version=server.version)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=200)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    async with hosted(environment) as host:
        await host.call("inspect_collection")
        await host.call("inspect_collection", collection=name, response_format="detailed")
        await host.refused("inspect_collection", connection="second")
        await host.refused("recommend_strategy", collection=name, goal="replace_model", model="private", text_field="text")
        await host.refused("recommend_strategy", collection=name, goal="replace_model", model="openai:nope", text_field="text")
        await host.call("recommend_strategy", collection=name, goal="replace_model")
        made = await host.call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text", current_model=OLD)
        me = made["migration_id"]
        await host.call("start_backfill", migration_id=me, points_per_second=100)
        await until(lambda: list(workers()))
        commands = [command for _, command in workers()]
        await host.backfilled(me)
        await host.whole("verify_target", migration_id=me)
        await host.whole("compare_models", migration_id=me)
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        await host.call("swap_alias", migration_id=me, plan=plan["code"])
        reports = [str(await host.client.read_resource(f"migration://{me}/{report}")) for report in ("report", "report.html")]
        said = [*host.said, *reports, host.stderr]
    logs = [path.read_text(errors="replace") for path in log_directory().rglob("*") if path.is_file()]
    assert any(logs)
    url = f"{server.url}/collections/_model_migrations/points/scroll"
    ledger = json.dumps(rest(url, method="POST", body={"limit": 1000, "with_payload": True}, api_key=server.api_key))
    assert me in ledger
    for secret in (*KEYS.values(), f"127.0.0.1:{server.http_port}", "127.0.0.1:9"):
        for place, texts in (("answers", said), ("command lines", commands), ("logs", logs), ("the ledger", [ledger])):
            assert not [found for found in texts if secret in found], f"{secret} is in {place}"


async def test_without_a_setting_every_summary_names_the_embedded_database(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(Backend(name="default", environment={}, version=None), monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    summaries: list[str] = []
    async with hosted({}) as host:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = await host.whole(tool, **arguments)
            summaries.append(answer["summary"])
            return answer

        await call("inspect_collection")
        await call("inspect_collection", collection=name)
        await call("recommend_strategy", collection=name, goal="replace_model")
        await call("recommend_strategy", collection=name, goal="replace_model", model=NEW)
        await call("compare_models", collection=name, models=[OLD, NEW], text_field="text")
        made = await call("create_target", collection=name, strategy="new_collection", model=NEW, text_field="text", current_model=OLD)
        me = made["migration_id"]
        await call("start_backfill", migration_id=me)
        await host.backfilled(me)
        await call("control_backfill", migration_id=me, action="set_pace", points_per_second=0)
        for tool in ("migration_status", "verify_target", "repair_target", "compare_models"):
            await call(tool, migration_id=me)
        await call("verify_target", migration_id=me)
        plan = (await call("swap_alias", migration_id=me))["plan"]
        await call("swap_alias", migration_id=me, plan=plan["code"])
        plan = (await call("finish_migration", migration_id=me, action="keep_old"))["plan"]
        await call("finish_migration", migration_id=me, action="keep_old", plan=plan["code"])
    assert len(summaries) == 17
    for summary in summaries:
        assert summary.startswith(f"[Embedded database at {home / '.qdrant-model-migration' / 'qdrant'}: no server is set. Set QDRANT_URL")
