"""Does a collection reach another server by every strategy that copies, and are two servers never taken for one?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import Evidence
from qdrant_model_migration.errors import AlreadyExists, ConnectionFailed, Interrupted, MigrationError, NotFound, Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.finish import plan_finish
from qdrant_model_migration.operations.inspect import inspect
from qdrant_model_migration.operations.requests import carry_out
from qdrant_model_migration.operations.status import status
from qdrant_model_migration.operations.swap_plan import plan_swap
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import FinishPlan, SwapPlan
from tests.conftest import NewServer
from tests.qdrant.elsewhere import FAR, POINTS, Move, close, connections, held, moved, opened, seed_rich
from tests.qdrant.seeds import NEW, OLD, seed
from tests.servers import QdrantServer, delete_collections

pytestmark = pytest.mark.timeout(240)

SHORT = "builtin:hashing-64@32"


@pytest.fixture(params=["1.16.3 to 1.17.0", "1.17.0 to 1.16.3", "embedded to 1.17.0", "1.16.3 to embedded"])
def pair(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of two connections."""
    near, _, far = request.param.partition(" to ")
    yield from _paired(request, near, far, name, tmp_path)


@pytest.fixture
def upward(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    yield from _paired(request, "1.16.3", "1.17.0", name, tmp_path)


def _paired(request: pytest.FixtureRequest, near: str, far: str, name: str, folder: Path) -> Iterator[dict[str, str]]:
    sides: list[QdrantServer | Path] = []
    for version in (near, far):
        fixture = {"1.16.3": "server_1_16", "1.17.0": "server_1_17"}.get(version)
        sides.append(request.getfixturevalue(fixture) if fixture else folder / version)
    yield connections(sides[0], sides[1], name)
    for side in sides:
        if isinstance(side, QdrantServer):
            delete_collections(side.url, name)


async def swap_plan(move: Move, direction: Any = "forward", alias: str | None = None) -> SwapPlan:
    return await plan_swap(move.context, await move.context.ledger(FAR), await move.now(), direction, alias)


async def finish_plan(move: Move, action: Any, *, snapshot_first: bool = False) -> FinishPlan:
    return await plan_finish(move.context, await move.now(), action, snapshot_first=snapshot_first)


async def finished(move: Move, action: str, *, snapshot_first: bool = False) -> dict[str, Any]:
    code = (await finish_plan(move, action, snapshot_first=snapshot_first)).code
    return await move.done("finish", action=action, snapshot_first=snapshot_first, code=code)


async def ready(context: OperationContext, name: str, **arguments: Any) -> Move:
    """A verified migration of a plain collection, `new_collection`."""
    move = await moved(context, name, "new_collection", model=NEW, **arguments)
    await move.backfilled()
    found = await move.verified()
    assert found.is_complete, found.problems
    return move


async def swapped(context: OperationContext, name: str, **arguments: Any) -> Move:
    move = await ready(context, name, **arguments)
    await move.swapped((await swap_plan(move)).code)
    return move


@asynccontextmanager
async def seeded(environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OperationContext]:
    async with opened(environment, monkeypatch) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        yield context


# --- the strategies


async def test_a_collection_moves_in_every_direction(pair: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every id, payload and copied vector as it was; the new vectors are the model's; the name that the app knows is found there, and goes again."""
    async with opened(pair, monkeypatch) as context:
        await seed_rich(context, name, model=OLD)
        move = await moved(context, name, "new_collection", model=NEW, vector="old", current_model=OLD)
        target = move.made.target.collection
        assert move.made.target.connection == FAR
        assert [d for d in move.made.config_diff if not d.is_intended] == []
        near, far = await context.gateway(), await context.gateway(FAR)
        assert not await near.exists(target)
        assert not await (await context.ledger()).exists()
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        assert (found.source_points, found.target_points) == (POINTS, POINTS)
        assert found.provenance.wrong == 0 < found.provenance.sampled

        await _is_as_the_recipes_say(context, name, target, made="old", model=NEW)
        plan = await swap_plan(move)
        assert [(m.alias, m.from_collection, m.to_collection) for m in plan.moves] == [(f"{name}-live", None, target)]
        assert plan.left == [f"{name}-live"]
        await move.swapped(plan.code)
        assert (await far.aliases())[f"{name}-live"] == target
        assert (await near.aliases())[f"{name}-live"] == name
        back = await move.swapped((await swap_plan(move, "back")).code, "back")
        assert back.current is None
        assert f"{name}-live" not in await far.aliases()
        assert (await near.aliases())[f"{name}-live"] == name
        assert (await move.now()).phase is Phase.ROLLED_BACK
        await finished(move, "discard_new")
        assert not await far.exists(target)
        assert await near.points.count(name) == POINTS


async def _is_as_the_recipes_say(context: OperationContext, name: str, target: str, *, made: str | None, model: str | None) -> None:
    near, far = await context.gateway(), await context.gateway(FAR)
    source_fields = {f.name for f in (await near.describe(name)).fields}
    copied = source_fields - {made}
    sources = await held(near, name, *source_fields)
    targets = await held(far, target, *copied, *([made] if made else []))
    assert targets.keys() == sources.keys()
    for point_id, point in sources.items():
        other = targets[point_id]
        assert other.payload == point.payload
        for field in copied:
            assert _same(other.vectors[field], point.vectors[field]), (point_id, field)
    if made is not None and model is not None:
        rows = await (await context.catalogue.load(model)).embed([p.payload["text"] for p in sources.values()], Side.DOCUMENT)
        wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for row, point_id in zip(wanted, sources, strict=True):
            assert close(targets[point_id].vectors[made], row)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return bool(a["indices"] == b["indices"] and close(a["values"], b["values"]))
    return close(a, b)


async def test_side_by_side_swaps_early_and_fills_on_the_new_server(
    upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(upward, monkeypatch) as context:
        await seed_rich(context, name, model=OLD)
        move = await moved(context, name, "side_by_side", model=NEW, vector="old", new_vector="fresh")
        target = move.made.target.collection
        await move.backfilled()
        assert (await move.verified()).is_complete
        await move.swapped((await swap_plan(move)).code)
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        assert found.coverage == 1.0
        await _is_as_the_recipes_say(context, name, target, made=None, model=None)
        far = await context.gateway(FAR)
        assert await far.vectors.count_missing(target, "fresh") == 0
        outcome = await finished(move, "delete_old")
        assert outcome["deleted"][0] == name
        assert not await (await context.gateway()).exists(name)
        # The old vector cannot be removed before 1.18, which is said.
        assert any("cannot remove a vector field" in line for line in outcome["kept"])


async def test_cut_vectors_rest_on_a_comparison_made_beside_the_source(
    upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made before there is a target, so it is kept where the source lies."""
    async with opened(upward, monkeypatch) as context:
        await seed_rich(context, name, model=OLD)
        with pytest.raises(Refused, match="No comparison of the two was made"):
            await moved(context, name, "truncate", current_model=OLD, dimensions=32, vector="old")
        ledger = await context.ledger()
        await ledger.create()
        evidence = Evidence(baseline=OLD, candidate=SHORT, verdict="equivalent", text="as good", at="2026-01-01T00:00:00+00:00")
        await ledger.save_evidence(name, evidence)
        move = await moved(context, name, "truncate", current_model=OLD, dimensions=32, vector="old")
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        near, far = await context.gateway(), await context.gateway(FAR)
        sources, targets = await held(near, name, "old"), await held(far, move.made.target.collection, "old")
        assert len(targets) == POINTS
        for point_id, point in sources.items():
            cut = np.array(point.vectors["old"][:32], dtype=np.float32)
            assert close(targets[point_id].vectors["old"], cut / max(float(np.linalg.norm(cut)), 1e-12))


async def test_a_linear_map_is_kept_beside_the_target(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(upward, monkeypatch) as context:
        await seed_rich(context, name, model=OLD, points=460, rotated=80)
        move = await moved(context, name, "linear_map", model=OLD, vector="old", sample_size=400)
        assert move.made.fitted is not None
        assert move.made.fitted.recall > 0.95
        assert await (await context.ledger(FAR)).load_map(move.id) is not None
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        targets = await held(await context.gateway(FAR), move.made.target.collection, "old")
        rows = await (await context.catalogue.load(OLD)).embed([targets[n].payload["text"] for n in range(50)], Side.DOCUMENT)
        cosines = [float(np.dot(targets[n].vectors["old"], rows[n] / np.linalg.norm(rows[n]))) for n in range(50)]
        assert min(cosines) > 0.99


async def test_the_targets_server_computes_what_is_added(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BM25 by the server of the target; the dense vectors are copied."""
    async with opened(upward, monkeypatch) as context:
        await seed_rich(context, name, model=OLD)
        move = await moved(context, name, "add_sparse", model="qdrant:bm25", new_vector="bm25")
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        await _is_as_the_recipes_say(context, name, move.made.target.collection, made=None, model=None)
        assert await (await context.gateway(FAR)).vectors.count_missing(move.made.target.collection, "bm25") == 0


async def test_token_vectors_are_added_elsewhere(
    upward: dict[str, str], name: str, asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened({**upward, "QDRANT_MIGRATION_MODELS": asset_models}, monkeypatch) as context:
        await seed_rich(context, name, model=OLD, points=20)
        move = await moved(context, name, "add_multivector", model="colbert", new_vector="rerank")
        await move.backfilled()
        found = await move.verified()
        assert found.is_complete, found.problems
        await _is_as_the_recipes_say(context, name, move.made.target.collection, made=None, model=None)
        assert await (await context.gateway(FAR)).vectors.count_missing(move.made.target.collection, "rerank") == 0


@pytest.mark.parametrize("strategy", ["named_vector", "requantize"])
async def test_what_changes_in_place_is_refused(upward: dict[str, str], name: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with seeded(upward, name, monkeypatch) as context:
        with pytest.raises(Refused, match=r"Nothing was changed.*in place; it has no target on another connection"):
            await moved(context, name, strategy, model=NEW, quantization="scalar")
        assert not await (await context.ledger(FAR)).exists()


# --- found, and told apart


async def test_a_migration_is_found_from_either_side(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new chat knows neither the id nor where the ledger lies; looking at the source shows what leads away from it."""
    async with seeded(upward, name, monkeypatch) as context:
        move = await moved(context, name, "new_collection", model=NEW)
        target = move.made.target.collection
        assert (await status(context)).migration_id == move.id
        for connection in (None, "default", FAR):
            assert (await status(context, connection=connection)).migration_id == move.id
            assert (await status(context, migration_id=move.id, connection=connection)).phase == "target_created"
        assert "on 'default' -> " in (await status(context)).summary
        seen = await inspect(context, collection=name)
        assert [(m.migration_id, m.source_connection, m.target_connection) for m in seen.migrations] == [(move.id, "default", FAR)]
        assert seen.next_step is not None
        assert seen.next_step.tool == "migration_status"
        assert [m.migration_id for m in (await inspect(context, collection=target, connection=FAR)).migrations] == [move.id]
        with pytest.raises(NotFound, match=rf"{move.id} \({name} on 'default' -> {target} on 'new'"):
            await status(context, migration_id="m-none", connection=FAR)
        # The same request, with or without the name of the default connection.
        again = await moved(context, f"{name}-live", "new_collection", model=NEW, connection="default")
        assert again.id == move.id


async def test_collections_of_one_name_are_not_confused(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is called as the source, and a stranger beside each bears the other's name."""
    async with seeded(upward, name, monkeypatch) as context:
        near, far = await context.gateway(), await context.gateway(FAR)
        await far.create_collection(f"{name}-taken", {"vectors": {}})
        with pytest.raises(AlreadyExists):
            await moved(context, name, "new_collection", model=NEW, target=f"{name}-taken")
        move = await ready(context, name, target=name)
        assert (await inspect(context, collection=name, connection=FAR)).migrations[0].target == name
        await far.points.delete_if(name, 0, observed={})
        assert (await move.verified()).missing == 1
        await move.done("repair", provenance_sample=10)
        # A stranger on the source's server with a target's name: neither belongs to the other's migration.
        await near.create_collection(f"{name}-b", {"vectors": {"size": 64, "distance": "Cosine"}})
        other = await moved(context, name, "new_collection", model=SHORT, target=f"{name}-b")
        assert any("is open too" in text for text in other.made.warnings)
        assert (await inspect(context, collection=f"{name}-b")).migrations == []
        await finished(other, "discard_new")
        assert await near.exists(f"{name}-b")

        await move.swapped((await swap_plan(move)).code)
        await far.points.delete_if(name, 1, observed={})
        plan = await finish_plan(move, "delete_old")
        assert plan.counts == {f"default/{name}": POINTS, f"{FAR}/{name}": POINTS - 1}
        assert plan.deletes == [f"collection '{name}' on connection 'default' ({POINTS} points)", f"alias '{name}-live' of it"]
        assert f"collection '{name}' on connection 'new' ({POINTS - 1} points)" in plan.keeps
        await move.done("finish", action="delete_old", snapshot_first=False, code=plan.code)
        assert not await near.exists(name)
        assert await far.points.count(name) == POINTS - 1
        assert (await far.aliases())[f"{name}-live"] == name


async def test_what_another_migration_uses_is_not_deleted_nor_migrated(
    upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may lie on the other server."""
    async with seeded(upward, name, monkeypatch) as context:
        move = await swapped(context, name)
        ledger = await context.ledger()
        beside = await create_target(context, Request(collection=name, strategy="new_collection", model=SHORT, text_field="text"))
        assert any(f"{move.id} (" in text and "aliases" not in text for text in beside.warnings)
        with pytest.raises(Refused, match=f"belongs to the open migration {beside.migration_id}"):
            await finish_plan(move, "delete_old")
        assert (await ledger.migration(beside.migration_id)).is_open
        # What is being filled beside the source is no source of a migration elsewhere.
        near = await context.gateway()
        points = list((await held(near, name)).values())[:3]
        await near.points.insert(beside.target.collection, points)
        with pytest.raises(Refused, match=f"is the target of migration {beside.migration_id}"):
            await moved(context, beside.target.collection, "new_collection", model=NEW)


async def test_two_names_of_one_server_are_refused(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**upward, "QDRANT_MIGRATION_CONNECTIONS": json.dumps({FAR: {"url": upward["QDRANT_URL"]}})}
    async with seeded(environment, name, monkeypatch) as context:
        with pytest.raises(Refused, match="connections 'default' and 'new' are one server"):
            await moved(context, name, "new_collection", model=NEW)


@pytest.mark.parametrize("allowed", ["{name}", "{name},elsewhere-*"])
async def test_both_names_must_be_allowed(upward: dict[str, str], name: str, allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**upward, "QDRANT_MIGRATION_ALLOWED_COLLECTIONS": allowed.format(name=name)}
    async with seeded(environment, name, monkeypatch) as context:
        with pytest.raises(Refused, match=f"collection '{name}__hashing_128' is not among those"):
            await moved(context, name, "new_collection", model=NEW)
        if "," in allowed:
            far = await context.gateway(FAR)
            move = await moved(context, name, "new_collection", model=NEW, target=f"elsewhere-{name}")
            assert await far.exists(move.made.target.collection)


# --- cutover and end


async def test_a_name_that_is_taken_over_there_is_refused(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is created instead, and then the old alias is nobody's that the cutover knows: it goes only by hand."""
    async with seeded(upward, name, monkeypatch) as context:
        near, far = await context.gateway(), await context.gateway(FAR)
        await far.create_collection(f"{name}-other", {"vectors": {}})
        await far.point_alias(f"{name}-live", f"{name}-other")
        move = await ready(context, name)
        with pytest.raises(Refused, match=f"'{name}-live' is an alias of '{name}-other' on connection 'new' already"):
            await swap_plan(move)
        plan = await swap_plan(move, alias=f"{name}-next")
        await move.swapped(plan.code, alias=f"{name}-next")
        assert (await far.aliases())[f"{name}-next"] == move.made.target.collection
        with pytest.raises(Refused, match=f"created no such alias on connection 'new'.*remove it on connection 'default'.*{name}-live"):
            await finish_plan(move, "delete_old")
        await near.delete_alias(f"{name}-live")
        outcome = await finished(move, "delete_old", snapshot_first=True)
        assert outcome["deleted"] == [name]
        assert outcome["snapshot"]


async def test_a_swap_that_died_in_the_middle_is_completed(upward: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two names one had been created; the person agreed to both."""
    async with seeded(upward, name, monkeypatch) as context:
        near, far = await context.gateway(), await context.gateway(FAR)
        await near.point_alias(f"{name}-also", name)
        move = await ready(context, name)
        plan = await swap_plan(move)
        assert sorted(m.alias for m in plan.moves) == [f"{name}-also", f"{name}-live"]
        real = Gateway.point_alias
        calls: list[str] = []

        async def dies(self: Gateway, alias: str, collection: str) -> None:
            calls.append(alias)
            if len(calls) == 2:
                raise Interrupted("The driver was asked to stop.")
            await real(self, alias, collection)

        with monkeypatch.context() as patch:
            patch.setattr(Gateway, "point_alias", dies)
            operation = await carry_out(
                context,
                await move.now(),
                "swap",
                {"direction": "forward", "alias": None, "code": plan.code},
                wait_s=8,
                key=f"swap-{plan.code}",
            )
        found = await move.now()
        if operation.state != "done":
            # Ended in the middle, as recorded; the same driver may have taken it up again already.
            assert found.phase in (Phase.VERIFIED, Phase.CUT_OVER)
        await move.swapped(plan.code)
        target = move.made.target.collection
        assert {a: c for a, c in (await far.aliases()).items() if name in a} == {f"{name}-also": target, f"{name}-live": target}
        assert (await move.now()).phase is Phase.CUT_OVER
        assert (await move.now()).intent is None


async def test_an_old_server_that_was_switched_off_does_not_keep_a_migration_open(
    new_server: NewServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that does not need it goes on; what it got after the swap cannot be carried over, which the plan says."""
    old = new_server("1.16.3")
    async with opened(connections(old, server_1_17, name), monkeypatch, patience_s=1.0) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        move = await swapped(context, name, writes="live")
        old.stop()
        assert (await status(context)).migration_id == move.id
        assert (await status(context, migration_id=move.id)).phase == "cut_over"
        with pytest.raises(ConnectionFailed, match="connection 'default'"):
            await finish_plan(move, "delete_old")
        plan = await finish_plan(move, "keep_old")
        assert any("does not answer" in text and name in text for text in plan.warnings)
        await move.done("finish", action="keep_old", snapshot_first=False, code=plan.code)
        assert (await move.now()).phase is Phase.FINISHED
    delete_collections(server_1_17.url, name)


async def test_an_outage_of_the_old_server_is_waited_for(
    new_server: NewServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap that was agreed to is carried out when the server is back."""
    old = new_server("1.16.3")
    async with opened(connections(old, server_1_17, name), monkeypatch, patience_s=1.0) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        move = await ready(context, name)
        code = (await swap_plan(move)).code
        old.stop()
        arguments = {"direction": "forward", "alias": None, "code": code}
        waiting = await carry_out(context, await move.now(), "swap", arguments, wait_s=4, key=f"swap-{code}")
        assert waiting.state in ("requested", "running")
        assert (await move.now()).phase is Phase.VERIFIED
        old.start()
        await move.swapped(code)
        assert (await move.now()).phase is Phase.CUT_OVER
    delete_collections(server_1_17.url, name)


async def test_a_key_that_may_only_read_suffices_for_the_source(
    new_server: NewServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No moment can be marked in its writes then, which the plan says."""
    old = new_server("1.16.3", api_key="may-write", read_only_key="may-read")
    environment = connections(old, server_1_17, name)
    async with opened(environment, monkeypatch) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
    async with opened({**environment, "QDRANT_API_KEY": "may-read"}, monkeypatch) as context:
        move = await ready(context, name, writes="live")
        plan = await swap_plan(move)
        assert any("may only be read with this key" in text for text in plan.breaks)
        await move.swapped(plan.code)
        with pytest.raises(MigrationError, match="right"):
            await finished(move, "delete_old")
        await finished(move, "keep_old")
        assert (await move.now()).phase is Phase.FINISHED
    delete_collections(server_1_17.url, name)
