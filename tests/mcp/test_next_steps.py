"""Does a client that follows nothing but `next_step` arrive? It adds only what a person must choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conftest import Backend
from tests.mcp.hosts import Answer, Host, hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = pytest.mark.timeout(180)

MOST_STEPS = 40


class Person:
    """What only a person decides: the models, and agreement to a plan that was shown."""

    def __init__(self, *, agrees_to: set[str], **choices: Any) -> None:
        self.choices = choices
        self.agrees_to = agrees_to
        self.path: list[str] = []

    async def follow(self, host: Host, tool: str, arguments: dict[str, Any], *, until_phase: str) -> Answer:
        """Call, and go on as the answers say, until the migration is in the phase."""
        for _ in range(MOST_STEPS):
            self.path.append(tool)
            answer = await host.call(tool, **arguments)
            assert answer["summary"]
            if answer.get("phase") == until_phase and answer["state"] == "done":
                return answer
            if answer.get("plan"):
                assert tool in self.agrees_to, f"nobody agreed to {tool}"
                assert answer["next_step"] is None, "a plan's code is passed by a person, never by next_step"
                arguments = {**arguments, "plan": answer["plan"]["code"]}
                continue
            step = answer["next_step"]
            if step is None and tool == "recommend_strategy" and answer["models"]:
                assert self.choices["model"] in [m["name"] for m in answer["models"]]
                arguments = {**arguments, **self.choices}
                continue
            if step is None and answer["check_again_after_s"]:
                await anyio.sleep(1)
                continue
            assert step is not None, f"{tool} leads nowhere: {answer['summary']} {answer['warnings']}"
            assert "plan" not in step["arguments"]
            assert "delete" not in str(step["arguments"])
            assert "discard" not in str(step["arguments"])
            assert step["why"]
            tool, arguments = step["tool"], step["arguments"]
        raise AssertionError(f"not there after {MOST_STEPS} calls: {self.path}")


async def test_next_steps_lead_from_inspection_to_the_end(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=120, payload=lambda n: {"text": text(n), "title": f"A report of some length, number {n}"})
        await (await context.gateway()).point_alias(f"{name}-live", name)
    person = Person(model="builtin:hashing-256", current_model=OLD, agrees_to={"swap_alias", "finish_migration"})
    async with hosted(any_qdrant.environment) as host:
        ended = await person.follow(host, "inspect_collection", {"collection": f"{name}-live"}, until_phase="finished")
        assert ended["deleted"] == []
        seen = await host.call("inspect_collection", collection=f"{name}-live")
    assert seen["collection"]["name"] != name
    assert seen["collection"]["points"] == 120
    assert seen["collection"]["vectors"][0]["size"] == 256
    order = list(dict.fromkeys(person.path))
    assert [t for t in order if t != "migration_status"] == [
        "inspect_collection",
        "recommend_strategy",
        "create_target",
        "start_backfill",
        "verify_target",
        "compare_models",
        "swap_alias",
        "finish_migration",
    ]


async def test_a_comparison_in_place_leads_to_the_end_without_a_swap(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old field against new field of one collection; no alias moves."""
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=60, vector="old")
    person = Person(agrees_to={"finish_migration"})
    arguments = {"collection": name, "strategy": "named_vector", "model": NEW, "current_model": OLD, "text_field": "text"}
    async with hosted(backend.environment) as host:
        await person.follow(host, "create_target", arguments, until_phase="finished")
    order = [tool for tool in dict.fromkeys(person.path) if tool != "migration_status"]
    assert order == ["create_target", "start_backfill", "verify_target", "compare_models", "finish_migration"]


async def test_cut_and_hybrid_searches_are_compared_on_the_way(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """'truncate' by the evidence of a comparison that came before it; BM25 of the server beside copied dense vectors."""
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=120)
        await seed(context, f"{name}-2", points=60)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    cut = f"{OLD}@48"
    async with hosted(backend.environment) as host:
        request = {"collection": name, "strategy": "truncate", "current_model": OLD, "dimensions": 48, "text_field": "text"}
        assert "No comparison of the two was made" in await host.refused("create_target", **request)
        sample = await host.call("compare_models", collection=name, models=[OLD, cut], text_field="text", margin=0.9)
        assert sample["verdicts"] == {cut: "equivalent"}
        person = Person(agrees_to={"swap_alias"})
        shorter = await person.follow(host, "create_target", {**request, "alias": f"{name}-live"}, until_phase="cut_over")
        assert "compare_models" in person.path
        compared = await host.whole("compare_models", migration_id=shorter["migration_id"])
        assert {m["model"] for m in compared["metrics"]} == {OLD, cut}
        assert compared["next_step"]["tool"] == "finish_migration"

        request = {"collection": f"{name}-2", "strategy": "add_sparse", "model": "qdrant:bm25", "current_model": OLD, "text_field": "text"}
        me = (await host.call("create_target", **request))["migration_id"]
        await host.call("start_backfill", migration_id=me)
        await host.backfilled(me)
        compared = await host.whole("compare_models", migration_id=me)
        assert {m["model"] for m in compared["metrics"]} == {OLD, f"{OLD} + qdrant:bm25 (RRF)"}
        assert compared["next_step"]["tool"] == "verify_target"


async def test_the_end_is_reached_without_a_known_old_model(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No comparison is possible then, and no step leads to one."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    person = Person(model="builtin:hashing-256", agrees_to={"swap_alias", "finish_migration"})
    async with hosted(any_qdrant.environment) as host:
        await person.follow(host, "inspect_collection", {"collection": f"{name}-live"}, until_phase="finished")
    assert "compare_models" not in person.path


async def test_a_text_field_that_must_be_chosen_is_asked_for(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without next_step from a recommendation, create_target does not guess between two fields, and its refusal names both."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"summary": text(n), "abstract": text(n + 1)})
    async with hosted(any_qdrant.environment) as host:
        refusal = await host.refused("create_target", collection=name, strategy="new_collection", model=NEW)
        assert "text_field" in refusal
        assert "'summary' (100%)" in refusal
        assert "'abstract' (100%)" in refusal
        made = await host.call(
            "create_target", collection=name, strategy="new_collection", model=NEW, text_field="{summary}\n{abstract}", dry_run=True
        )
    assert made["is_dry_run"]


async def test_after_a_rollback_next_steps_lead_forward_again(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=60)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    person = Person(model=NEW, current_model=OLD, agrees_to={"swap_alias"})
    async with hosted(backend.environment) as host:
        moved = await person.follow(
            host,
            "recommend_strategy",
            {"collection": name, "goal": "replace_model", "model": NEW, "current_model": OLD},
            until_phase="cut_over",
        )
        me = moved["migration_id"]
        back = await host.call("swap_alias", migration_id=me, direction="back")
        returned = await host.call("swap_alias", migration_id=me, direction="back", plan=back["plan"]["code"])
        assert returned["phase"] == "rolled_back"
        assert (returned["previous"], returned["current"]) == (moved["current"], name)
        rest(
            f"{server.url}/collections/{name}/points?wait=true",
            method="PUT",
            body={"points": [{"id": 900, "vector": [0.5] * 64, "payload": {"text": "written after the rollback to the old side"}}]},
        )
        step = returned["next_step"]
        again = await person.follow(host, step["tool"], step["arguments"], until_phase="cut_over")
        assert again["current"] == moved["current"]
        seen = await host.call("inspect_collection", collection=f"{name}-live")
        assert (seen["collection"]["name"], seen["collection"]["points"]) == (moved["current"], 61)


async def test_a_comparison_leads_to_what_it_found_best(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that may be cut are cut, not embedded anew; a candidate that loses leads nowhere."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60)
    async with hosted(any_qdrant.environment) as host:
        asked = {"collection": name, "models": [OLD, f"{OLD}@48", f"{OLD}@2"], "text_field": "text", "margin": 0.9}
        found = await host.whole("compare_models", **asked)
        assert found["verdict"] == "equivalent"
        step = found["next_step"]
        assert step["arguments"] == {
            "collection": name,
            "text_field": "text",
            "goal": "shrink_vectors",
            "model": f"{OLD}@48",
            "current_model": OLD,
        }
        advised = await host.call(step["tool"], **step["arguments"])
        assert advised["recommendations"][0]["strategy"] == "truncate"
        assert advised["next_step"]["arguments"]["dimensions"] == 48
        assert (await host.whole("compare_models", **{**asked, "models": [OLD, f"{OLD}@2"], "margin": 0.01}))["next_step"] is None
        refusal = await host.refused("compare_models", migration_id="m-1", collection=name, text_field="text")
        assert "'collection' and 'text_field' would be without effect" in refusal


async def test_what_a_verification_finds_leads_to_the_repair(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(server, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=60)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    person = Person(model=NEW, agrees_to={"swap_alias"})
    asked = {"collection": name, "goal": "replace_model", "model": NEW, "writes": "frozen"}
    async with hosted(backend.environment) as host:
        found = await person.follow(host, "recommend_strategy", asked, until_phase="verified")
        me, target = found["migration_id"], (await host.call("migration_status", migration_id=found["migration_id"]))["target"]
        rest(f"{server.url}/collections/{target}/points/delete?wait=true", method="POST", body={"points": [3, 4, 5]})
        before = len(person.path)
        verified = await host.whole("verify_target", migration_id=me)
        assert not verified["is_complete"]
        assert verified["missing"] == 3
        assert verified["missing_samples"] == ["i:3", "i:4", "i:5"]
        assert verified["phase"] == "backfilled"
        step = verified["next_step"]
        done = await person.follow(host, step["tool"], step["arguments"], until_phase="cut_over")
        assert done["current"] == target
    assert person.path[before] == "repair_target"
    assert rest(f"{server.url}/collections/{target}/points/count", method="POST", body={"exact": True})["result"]["count"] == 60


async def test_a_new_chat_finds_the_open_migration(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first chat ends in the middle; the second one knows no id and gets one from the first look."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60)
    first = Person(model=NEW, agrees_to=set())
    asked = {"collection": name, "goal": "replace_model", "model": NEW, "text_field": "text"}
    async with hosted(any_qdrant.environment) as host:
        await first.follow(host, "recommend_strategy", asked, until_phase="target_created")
    second = Person(agrees_to=set())
    async with hosted(any_qdrant.environment) as host:
        found = await host.call("inspect_collection", collection=name)
        step = found["next_step"]
        assert step["tool"] == "migration_status"
        await second.follow(host, step["tool"], step["arguments"], until_phase="verified")
        assert (await host.call("migration_status"))["phase"] == "verified"


def _backend(server: QdrantServer, name: str) -> Backend:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name=f"server {server.version}", environment=environment, version=server.version)


async def test_a_hybrid_candidate_leads_to_the_field_beside_the_dense_one(
    any_qdrant: Backend, name: str, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the sparse field is new, the dense vectors stay; a baseline that has it already leads nowhere."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=60)
    async with hosted({**any_qdrant.environment, "QDRANT_MIGRATION_MODELS": asset_models}) as host:
        asked = {"collection": name, "text_field": "text", "margin": 0.9}
        found = await host.whole("compare_models", **asked, models=[OLD, f"{OLD} + bm25"])
        assert [row["model"] for row in found["candidates_table"]] == [OLD, f"{OLD} + bm25 (RRF)"]
        step = found["next_step"]
        assert step["arguments"] == {
            "collection": name,
            "text_field": "text",
            "goal": "add_sparse",
            "model": "bm25",
            "current_model": OLD,
        }
        advised = await host.call(step["tool"], **step["arguments"])
        assert advised["recommendations"][0]["strategy"] == "add_sparse"
        same = await host.whole("compare_models", **asked, models=[f"{OLD} + bm25", f"{OLD} + bm25"])
        assert (same["verdict"], same["next_step"]) == ("equivalent", None)
        other = await host.whole("compare_models", **asked, models=[OLD, f"{NEW} + bm25"])
        assert (other["next_step"]["arguments"]["goal"], other["next_step"]["arguments"]["model"]) == ("replace_model", NEW)
