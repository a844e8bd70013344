"""Does every way to end a migration that added a field leave exactly what was said? Deleting the old, discarding the new, rolling back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Backend
from tests.mcp.hosts import Answer, Host, hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed, text
from tests.strategies.driving import agreed, drive
from tests.strategies.places import Place, place_of
from tests.strategies.recipes import agree_closely, check_target

pytestmark = [pytest.mark.timeout(180), pytest.mark.in_turn]

POINTS = 60


async def seeded(backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty points with one named field, two of them without a text."""
    async with opened(backend, monkeypatch) as context:
        await seed(context, name, points=POINTS, vector="old", payload=lambda n: {"n": n} if n < 2 else {"text": text(n), "n": n})
        await (await context.gateway()).point_alias(f"{name}-live", name)


def asked(name: str, strategy: str, **more: Any) -> dict[str, Any]:
    return {"collection": name, "strategy": strategy, "model": NEW, "new_vector": "new", "text_field": "text", "writes": "frozen", **more}


def fields(place: Place, name: str) -> set[str]:
    """Dense fields that the collection is configured with."""
    return set(place.config(name)["config"]["params"]["vectors"])


def holding(place: Place, name: str, field: str) -> int:
    return sum(field in p["vector"] for p in place.dump(name).values())


async def swapped(host: Host, name: str) -> Answer:
    """side_by_side, copied, verified and swapped; the new field is not filled yet."""
    before = await drive(host, "create_target", asked(name, "side_by_side"), before="swap_alias")
    return await agreed(host, "swap_alias", migration_id=before["migration_id"])


async def test_the_old_side_goes_only_when_the_new_field_is_complete(
    any_qdrant: Backend, place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server can, the old field goes with the old collection; where it cannot, it is said to stay."""
    await seeded(any_qdrant, name, monkeypatch)
    async with hosted(any_qdrant.environment) as host:
        moved = await swapped(host, name)
        me, target = moved["migration_id"], moved["current"]
        assert moved["phase"] == "cut_over"
        refusal = await host.refused("finish_migration", migration_id=me, action="delete_old")
        assert "'new' was not filled yet" in refusal
        step = moved["next_step"]
        await drive(host, step["tool"], step["arguments"], before="finish_migration")
        plan = (await host.call("finish_migration", migration_id=me, action="delete_old"))["plan"]
        stays = [line for line in plan["keeps"] if "vector 'old'" in line]
        ended = await agreed(host, "finish_migration", migration_id=me, action="delete_old")
        assert ended["phase"] == "finished"
    assert place.collections() >= {target}
    assert name not in place.collections()
    assert place.aliases()[f"{name}-live"] == target
    can = any_qdrant.is_embedded
    assert len(stays) == (0 if can else 1)
    assert can or "cannot remove a vector field" in stays[0]
    assert any("vector 'old'" in line for line in ended["deleted"]) == can
    assert fields(place, target) == ({"new"} if can else {"old", "new"})
    assert (holding(place, target, "old"), holding(place, target, "new")) == (0 if can else POINTS, POINTS - 2)


async def test_a_discarded_copy_leaves_the_source_as_it_was(
    any_qdrant: Backend, place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seeded(any_qdrant, name, monkeypatch)
    before, there = place.dump(name), place.collections()
    async with hosted(any_qdrant.environment) as host:
        verified = await drive(host, "create_target", asked(name, "side_by_side"), before="swap_alias")
        me = verified["migration_id"]
        ended = await agreed(host, "finish_migration", migration_id=me, action="discard_new")
        assert ended["phase"] == "abandoned"
        assert len(ended["deleted"]) == 1
    assert place.collections() - there == {any_qdrant.environment["QDRANT_MIGRATION_LEDGER"]}
    assert place.aliases()[f"{name}-live"] == name
    assert place.dump(name) == before


@pytest.mark.parametrize("is_filled", [False, True], ids=["before-filling", "after-filling"])
async def test_a_rollback_of_both_fields_leads_back_and_forward_again(
    any_qdrant: Backend, place: Place, name: str, is_filled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await seeded(any_qdrant, name, monkeypatch)
    before = place.dump(name)
    async with hosted(any_qdrant.environment) as host:
        moved = await swapped(host, name)
        me, target, step = moved["migration_id"], moved["current"], moved["next_step"]
        if is_filled:
            await drive(host, step["tool"], step["arguments"], before="finish_migration")
        back = await agreed(host, "swap_alias", migration_id=me, direction="back")
        assert (back["phase"], back["previous"], back["current"]) == ("rolled_back", target, name)
        seen = await host.call("inspect_collection", collection=f"{name}-live")
        assert seen["collection"]["name"] == name
        step = back["next_step"]
        again = await drive(host, step["tool"], step["arguments"], before="swap_alias")
        assert again["phase"] == "verified"
        moved = await agreed(host, "swap_alias", migration_id=me)
        assert moved["current"] == target
        step = moved["next_step"]
        if step["tool"] != "finish_migration":
            await drive(host, step["tool"], step["arguments"], before="finish_migration")
        status = await host.call("migration_status", migration_id=me)
        assert status["coverage"] == pytest.approx((POINTS - 2) / POINTS)
    assert place.dump(name) == before
    assert (holding(place, target, "old"), holding(place, target, "new")) == (POINTS, POINTS - 2)


@pytest.mark.parametrize("action", ["delete_old", "discard_new"])
async def test_a_field_added_in_place_ends_with_one_of_the_two(
    tmp_path: Any, name: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": str(tmp_path / "qdrant")}, version=None)
    place = place_of(backend, monkeypatch)
    await seeded(backend, name, monkeypatch)
    before = place.dump(name)
    async with hosted(backend.environment) as host:
        ready = await drive(host, "create_target", asked(name, "named_vector", current_model=OLD), before="finish_migration")
        ended = await agreed(host, "finish_migration", migration_id=ready["migration_id"], action=action)
        assert ended["phase"] == ("finished" if action == "delete_old" else "abandoned")
        gone = "old" if action == "delete_old" else "new"
        assert ended["deleted"] == [f"vector '{gone}' of '{name}'"]
    after = place.dump(name)
    assert fields(place, name) == {"old", "new"} - {gone}
    if action == "discard_new":
        # The embedded database writes a point that is touched anew, in its own precision.
        check_target(after, before, made=None, replaced=None, expected={}, agree=agree_closely, is_exact=False)
    else:
        assert {i: p["payload"] for i, p in after.items()} == {i: p["payload"] for i, p in before.items()}
        assert {frozenset(p["vector"]) for p in after.values()} == {frozenset(), frozenset({"new"})}
