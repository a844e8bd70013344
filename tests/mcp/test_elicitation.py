"""Is nothing carried out that nobody agreed to? The plan's code, the question where a host can ask, and what makes a code void."""

from __future__ import annotations

from typing import Literal

import pytest
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from tests.conftest import Backend
from tests.mcp.hosts import Answer, Host, hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.timeout(180), pytest.mark.in_turn]

Reply = Literal["agree", "disagree", "decline", "cancel"]


class Person:
    """Sits before a host that can ask; `reply` is what the person does with the next question."""

    def __init__(self) -> None:
        self.reply: Reply = "cancel"
        self.questions: list[str] = []

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.questions.append(params.message)
        if self.reply in ("agree", "disagree"):
            return ElicitResult(action="accept", content={"agreed": self.reply == "agree"})
        return ElicitResult(action="decline" if self.reply == "decline" else "cancel")


def _backend(server: QdrantServer, name: str) -> Backend:
    environment = {**server.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name=f"server {server.version}", environment=environment, version=server.version)


async def _seeded(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)


async def _alias(host: Host, name: str) -> str:
    seen = await host.call("inspect_collection", collection=f"{name}-live")
    found: str = seen["collection"]["name"]
    return found


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_no_changes_nothing_and_a_yes_swaps(any_qdrant: Backend, name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both protocol eras: declining, closing the dialog and answering no are results, and the same code works after a yes."""
    await _seeded(any_qdrant, name, monkeypatch)
    person = Person()
    async with hosted(any_qdrant.environment, answers=person, mode=mode) as host:
        me = await host.verified(name, NEW, current_model=OLD)
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        assert person.questions == [], "a plan alone asks nobody"
        replies: dict[Reply, str] = {
            "decline": "the person declined",
            "disagree": "the person declined",
            # A host without a person closes it by itself.
            "cancel": "nobody answered the question",
        }
        for reply, refusal in replies.items():
            person.reply = reply
            answer = await host.call("swap_alias", migration_id=me, plan=plan["code"])
            assert answer["refusal"] == refusal
            assert "nothing was changed" in answer["summary"]
            assert answer["phase"] == "verified"
            assert await _alias(host, name) == name
        assert len(person.questions) == 3
        question = person.questions[0]
        assert plan["code"] in question
        assert f"'{name}-live': {name} -> {plan['moves'][0]['to_collection']}" in question
        person.reply = "agree"
        swapped = await host.call("swap_alias", migration_id=me, plan=plan["code"])
        assert swapped["phase"] == "cut_over", swapped["summary"]
        assert await _alias(host, name) == plan["moves"][0]["to_collection"]
        finish = (await host.call("finish_migration", migration_id=me, action="keep_old"))["plan"]
        person.reply = "decline"
        kept = await host.call("finish_migration", migration_id=me, action="keep_old", plan=finish["code"])
        assert (kept["refusal"], kept["phase"]) == ("the person declined", "cut_over")
        person.reply = "agree"
        ended = await host.call("finish_migration", migration_id=me, action="keep_old", plan=finish["code"])
        assert ended["phase"] == "finished"
    assert len(person.questions) == 6


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_host_that_cannot_ask_needs_the_code(any_qdrant: Backend, name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claude Desktop cannot elicit: the code of a plan that was shown is what stands for the agreement there."""
    await _seeded(any_qdrant, name, monkeypatch)
    async with hosted(any_qdrant.environment, mode=mode) as host:
        me = await host.verified(name, NEW)
        for code in ("yes", "", "docs-000000", f"{name}-live-000000"):
            refusal = await host.refused("swap_alias", migration_id=me, plan=code)
            assert "no plan" in refusal
            assert "Call again without 'plan'" in refusal
        assert await _alias(host, name) == name
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        swapped = await host.call("swap_alias", migration_id=me, plan=f" {plan['code']} ")
        assert swapped["phase"] == "cut_over"


async def test_a_code_works_once_and_only_for_what_it_was_made_for(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _backend(server, name)
    await _seeded(backend, name, monkeypatch)
    other = f"{name}-other"
    await _seeded(backend, other, monkeypatch)
    async with hosted(backend.environment) as host:
        me, them = await host.verified(name, NEW), await host.verified(other, NEW)
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        foreign = (await host.call("swap_alias", migration_id=them))["plan"]
        discard = (await host.call("finish_migration", migration_id=me, action="discard_new"))["plan"]
        for code in (foreign["code"], discard["code"]):
            assert "no plan" in await host.refused("swap_alias", migration_id=me, plan=code)
        assert "no plan" in await host.refused("finish_migration", migration_id=me, action="discard_new", plan=plan["code"])
        assert await _alias(host, name) == name
        for action in ("keep_old", "delete_old"):
            await host.refused("finish_migration", migration_id=me, action=action, plan=discard["code"])
        swapped = await host.call("swap_alias", migration_id=me, plan=plan["code"])
        target = swapped["current"]
        # Somebody points the alias elsewhere; the used code does not move it a second time.
        _point(server, f"{name}-live", name)
        is_error, said, answer = await host.raw("swap_alias", migration_id=me, plan=plan["code"])
        assert is_error or (answer is not None and answer["refusal"]), said
        assert await _alias(host, name) == name
        _point(server, f"{name}-live", target)
        # What was planned before the swap would delete what serves now.
        await host.refused("finish_migration", migration_id=me, action="discard_new", plan=discard["code"])
        assert rest(f"{server.url}/collections/{target}")["result"]["points_count"] == 40


async def test_a_plan_is_void_when_a_fact_changed_and_a_new_one_is_shown(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _backend(server, name)
    await _seeded(backend, name, monkeypatch)
    person = Person()
    person.reply = "agree"
    async with hosted(backend.environment, answers=person) as host:
        me = await host.verified(name, NEW, current_model=OLD, writes="frozen")
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        assert (await host.call("swap_alias", migration_id=me))["plan"]["code"] == plan["code"], "the same facts are the same plan"
        _point(server, f"{name}-second", name)
        plan = await _void(host, me, plan)
        assert [m["alias"] for m in plan["moves"]] == [f"{name}-live", f"{name}-second"]
        await host.whole("compare_models", migration_id=me)
        plan = await _void(host, me, plan)
        assert "queries" in plan["comparison"]
        assert (await host.whole("verify_target", migration_id=me))["is_complete"]
        plan = await _void(host, me, plan)
        await _expire(backend, me, plan["code"], monkeypatch)
        answer = await host.call("swap_alias", migration_id=me, plan=plan["code"])
        assert "expired" in answer["refusal"]
        assert await _alias(host, name) == name
        plan = answer["plan"]
        # With writes frozen a point more is a fact too.
        body = {"points": [{"id": 900, "vector": [0.5] * 64, "payload": {"text": "written although writes are frozen"}}]}
        rest(f"{server.url}/collections/{name}/points?wait=true", method="PUT", body=body)
        is_error, said, content = await host.raw("swap_alias", migration_id=me, plan=plan["code"])
        assert is_error or (content is not None and content["refusal"]), said
        assert await _alias(host, name) == name


def _point(server: QdrantServer, alias: str, collection: str) -> None:
    action = {"create_alias": {"collection_name": collection, "alias_name": alias}}
    rest(f"{server.url}/collections/aliases", method="POST", body={"actions": [action]})


async def _void(host: Host, me: str, plan: Answer) -> Answer:
    """The plan that is shown instead of carrying out one whose facts changed."""
    answer = await host.call("swap_alias", migration_id=me, plan=plan["code"])
    assert answer["refusal"] == "something the plan rests on has changed since it was shown"
    assert answer["phase"] == "verified"
    assert answer["alias"] is None
    new: Answer = answer["plan"]
    assert new["code"] != plan["code"]
    return new


async def _expire(backend: Backend, me: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend, monkeypatch) as context:
        ledger = await context.ledger()
        assert await ledger.renew_plan(me, code, 1.0)
