"""Does a plan's code fail closed? Void when anything changed, and good for nothing but what was shown under it."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult

from qdrant_model_migration.app import build_server
from qdrant_model_migration.domain.cutover import plan_code
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import ConnectionFailed, MigrationError, NotFound
from qdrant_model_migration.operations import finding
from qdrant_model_migration.operations.plans import MOST_WRONG_CODES
from tests.conftest import Backend
from tests.mcp.hosts import Answer, Host, hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.security.said import problem_of_refusal, steps_of
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.timeout(180), pytest.mark.in_turn]


@pytest.fixture
def backend(server_1_17: QdrantServer, name: str) -> Backend:
    environment = {**server_1_17.environment, "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    return Backend(name="server 1.17.0", environment=environment, version=server_1_17.version)


async def _prepared(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
        await (await context.gateway()).point_alias(f"{name}-live", name)


async def _where(host: Host, name: str) -> str:
    found: str = (await host.call("inspect_collection", collection=f"{name}-live"))["collection"]["name"]
    return found


async def test_guessing_codes_makes_the_open_plan_void(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that tries codes has a handful of tries; then even the right one is void, and a new plan with a new code is shown."""
    await _prepared(backend, name, monkeypatch)
    async with hosted(backend.environment) as host:
        me = await host.verified(name, NEW, current_model=OLD)
        plan = (await host.call("swap_alias", migration_id=me))["plan"]
        slug, _, token = plan["code"].rpartition("-")
        for number in range(MOST_WRONG_CODES):
            wrong = f"{slug}-{int(token, 16) ^ (number + 1):06x}"
            said = await host.refused("swap_alias", migration_id=me, plan=wrong)
            assert "no plan" in said
            assert token not in said
        answer = await host.call("swap_alias", migration_id=me, plan=plan["code"])
        assert "wrong codes" in answer["refusal"]
        assert answer["alias"] is None
        assert answer["plan"]["code"] != plan["code"]
        assert await _where(host, name) == name
        # A person who is shown the new plan is not locked out.
        swapped = await host.call("swap_alias", migration_id=me, plan=answer["plan"]["code"])
        assert swapped["phase"] == "cut_over"


async def test_a_person_who_could_not_be_asked_did_not_agree(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qdrant, or the ledger's record, is away for just as long as it is found out what the person is to be asked."""
    await _prepared(backend, name, monkeypatch)
    asked: list[str] = []

    async def agree(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"agreed": True})

    async with hosted(backend.environment, answers=agree) as host:
        me = await host.verified(name, NEW, current_model=OLD)
        code = (await host.call("swap_alias", migration_id=me))["plan"]["code"]
    for failure in (ConnectionFailed("Qdrant does not answer."), NotFound("There is no such migration.")):
        with pytest.MonkeyPatch.context() as patch:
            for variable, value in backend.environment.items():
                patch.setenv(variable, value)
            find, met = finding.find_migration, list[MigrationError]()

            async def away_once(
                *arguments: Any, failure: MigrationError = failure, find: Any = find, met: list[MigrationError] = met
            ) -> Any:
                if not met:
                    met.append(failure)
                    raise failure
                return await find(*arguments)

            patch.setattr(finding, "find_migration", away_once)
            async with Client(build_server(read_settings()), elicitation_callback=agree) as client:
                answer = await client.call_tool("swap_alias", {"migration_id": me, "plan": code})
            assert met == [failure]
            content = answer.structured_content or {}
            assert answer.is_error or content["refusal"] == "the person declined", answer
            assert asked == []
            if isinstance(failure, ConnectionFailed):
                assert "Qdrant does not answer." in str(answer.content)
    async with hosted(backend.environment) as host:
        assert await _where(host, name) == name


async def test_the_call_with_the_code_carries_out_and_plans_again_what_the_plan_was_made_for(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choices of the first call need not be repeated: a plan for one alias does not become one for all, nor one without a fence one with it."""
    await _prepared(backend, name, monkeypatch)
    async with opened(backend, monkeypatch) as context:
        await (await context.gateway()).point_alias(f"{name}-second", name)
    async with hosted(backend.environment) as host:
        me = await host.verified(name, NEW, current_model=OLD, writes="live")
        first = (await host.call("swap_alias", migration_id=me, alias=f"{name}-live", fence=False))["plan"]
        assert (await host.whole("verify_target", migration_id=me))["is_complete"]
        answer = await host.call("swap_alias", migration_id=me, plan=first["code"])
        assert "has changed" in answer["refusal"]
        again = answer["plan"]
        assert [m["alias"] for m in again["moves"]] == [f"{name}-live"]
        async with opened(backend, monkeypatch) as context:
            held = await (await context.ledger()).plan(me, again["code"])
        assert held is not None
        assert held.arguments == {"direction": "forward", "alias": f"{name}-live", "fence": False}
        swapped = await host.call("swap_alias", migration_id=me, plan=again["code"])
        assert (swapped["phase"], swapped["alias"]) == ("cut_over", f"{name}-live"), swapped["summary"]
        assert (await host.call("inspect_collection", collection=f"{name}-second"))["collection"]["name"] == name


async def test_a_code_cannot_be_worked_out_before_the_plan_is_shown(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same facts, shown again after the first plan expired, have another code: nothing but the answer tells it."""
    await _prepared(backend, name, monkeypatch)
    async with hosted(backend.environment) as host:
        me = await host.verified(name, NEW, current_model=OLD)
        codes = []
        for _ in range(3):
            code = (await host.call("swap_alias", migration_id=me))["plan"]["code"]
            assert (await host.call("swap_alias", migration_id=me))["plan"]["code"] == code
            codes.append(code)
            async with opened(backend, monkeypatch) as context:
                assert await (await context.ledger()).renew_plan(me, code, 1.0)
        assert len(set(codes)) == 3
        for code in codes:
            answer = await host.call("swap_alias", migration_id=me, plan=code)
            assert "expired" in answer["refusal"]
            assert answer["plan"]["code"] not in codes
        assert await _where(host, name) == name


async def test_a_code_is_for_one_direction_one_action_and_one_migration(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{name}x"
    await _prepared(backend, name, monkeypatch)
    await _prepared(backend, other, monkeypatch)
    async with hosted(backend.environment) as host:
        me, them = await host.verified(name, NEW, current_model=OLD), await host.verified(other, NEW, current_model=OLD)
        keep_for_them = (await host.call("finish_migration", migration_id=them, action="discard_new"))["plan"]["code"]
        forward = (await host.call("swap_alias", migration_id=me))["plan"]["code"]
        assert "no plan" in await host.refused("finish_migration", migration_id=me, action="discard_new", plan=keep_for_them)
        assert "no plan" in await host.refused("finish_migration", migration_id=me, action="discard_new", plan=forward)
        swapped = await host.call("swap_alias", migration_id=me, plan=forward)
        target = swapped["current"]
        # A code that was carried out is told again for what it was, and is nothing for the way back.
        assert (await host.call("swap_alias", migration_id=me, plan=forward))["current"] == target
        said = await host.refused("swap_alias", migration_id=me, direction="back", plan=forward)
        assert "was made for direction='forward', not for 'back'" in said
        assert await _where(host, name) == target
        keep = (await host.call("finish_migration", migration_id=me, action="keep_old"))["plan"]["code"]
        said = await host.refused("finish_migration", migration_id=me, action="delete_old", plan=keep)
        assert "was made for action='keep_old', not for 'delete_old'" in said
        delete = (await host.call("finish_migration", migration_id=me, action="delete_old"))["plan"]["code"]
        said = await host.refused("finish_migration", migration_id=me, action="delete_old", plan=delete, snapshot_first=False)
        assert "was made for snapshot_first=True, not for False" in said
        assert "was made for action='delete_old'" in await host.refused("finish_migration", migration_id=me, action="keep_old", plan=delete)
        ended = await host.call("finish_migration", migration_id=me, action="keep_old", plan=keep)
        assert ended["phase"] == "finished"
        # The migration has ended; what was agreed to for keeping the old collection deletes nothing afterwards.
        said = await host.refused("finish_migration", migration_id=me, action="delete_old", plan=keep)
        assert problem_of_refusal(said) is None
        assert rest(f"{backend.environment['QDRANT_URL']}/collections/{name}")["result"]["points_count"] == 40


async def test_the_plan_of_a_deletion_is_void_when_a_fact_changed(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point more in what would be deleted, an alias that points there, a verification since: none of them was shown."""
    await _prepared(backend, name, monkeypatch)
    url = backend.environment["QDRANT_URL"]
    async with hosted(backend.environment) as host:
        me = await host.verified(name, NEW, current_model=OLD, writes="frozen")
        target = await _target(host, me)
        plan = (await host.call("finish_migration", migration_id=me, action="discard_new"))["plan"]
        rest(
            f"{url}/collections/{target}/points?wait=true",
            method="PUT",
            body={"points": [{"id": 900, "vector": [0.5] * 128, "payload": {}}]},
        )
        answer = await host.call("finish_migration", migration_id=me, action="discard_new", plan=plan["code"])
        assert answer["refusal"] == "something the plan rests on has changed since it was shown"
        assert answer["deleted"] == []
        plan = answer["plan"]
        action = {"create_alias": {"collection_name": target, "alias_name": f"{name}-new"}}
        rest(f"{url}/collections/aliases", method="POST", body={"actions": [action]})
        said = await host.refused("finish_migration", migration_id=me, action="discard_new", plan=plan["code"])
        assert f"{name}-new" in said
        assert rest(f"{url}/collections/{target}")["result"]["points_count"] == 41


async def _target(host: Host, me: str) -> str:
    listed = await host.call("inspect_collection")
    (found,) = [m for m in listed["migrations"] if m["migration_id"] == me]
    target: str = found["target"]
    return target


async def test_a_no_wins_over_the_right_code_and_over_an_answer_in_the_arguments(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person declines whatever is asked; the model passes the right code, again and again, and even an agreement of its own."""
    await _prepared(backend, name, monkeypatch)
    asked: list[str] = []

    async def declines(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="decline")

    async with hosted(backend.environment, answers=declines) as host:
        me = await host.verified(name, NEW, current_model=OLD)
        code = (await host.call("swap_alias", migration_id=me))["plan"]["code"]
        for _ in range(3):
            answer = await host.call("swap_alias", migration_id=me, plan=code)
            assert answer["refusal"] == "the person declined"
        said = await host.refused("swap_alias", migration_id=me, plan=code, agreement={"agreed": True})
        assert "no argument 'agreement'" in said
        assert len(asked) == 3
        discard = (await host.call("finish_migration", migration_id=me, action="discard_new"))["plan"]["code"]
        assert (await host.call("finish_migration", migration_id=me, action="discard_new", plan=discard))[
            "refusal"
        ] == "the person declined"
        assert await _where(host, name) == name


async def test_following_next_steps_alone_never_agrees_or_deletes(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer from inspection to the end, and the answers to what a person decides, carry steps without codes and deletions."""
    await _prepared(backend, name, monkeypatch)
    answers: list[Answer] = []
    async with hosted(backend.environment) as host:
        answers.append(await host.call("inspect_collection", collection=name))
        answers.append(await host.call("recommend_strategy", collection=name, goal="replace_model", model=NEW, current_model=OLD))
        me = await host.verified(name, NEW, current_model=OLD)
        answers.append(await host.call("migration_status", migration_id=me))
        answers.append(await host.whole("compare_models", migration_id=me))
        answers.append(await host.whole("verify_target", migration_id=me))
        planned = await host.call("swap_alias", migration_id=me)
        answers += [planned, await host.call("swap_alias", migration_id=me, plan=planned["plan"]["code"])]
        back = await host.call("swap_alias", migration_id=me, direction="back")
        answers += [back, await host.call("finish_migration", migration_id=me, action="delete_old")]
        answers.append(await host.call("migration_status", migration_id=me))
    steps = [step for answer in answers for step in steps_of(answer)]
    assert len(steps) >= 6
    for step in steps:
        assert "plan" not in step["arguments"]
        assert step["arguments"].get("action") not in ("delete_old", "discard_new")
        assert step["arguments"].get("direction") != "back"


def test_codes_are_plain_whatever_the_name_is() -> None:
    """A code is said aloud and typed: an alias of another script or of quotes gives one that still can be."""
    assert plan_code("docs", "3f9a1c") == "docs-3f9a1c"
    assert plan_code("a b'\"\n\u202e{}文", "3f9a1c") == "a_b_______-3f9a1c"
    assert len(plan_code("x" * 255, "3f9a1c")) == 31
