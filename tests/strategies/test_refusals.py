"""Is what this Qdrant or these models cannot do refused before anything is written, with the number and the way that is left?"""

from __future__ import annotations

import re

import pytest

from tests.conftest import Backend, Cranfield
from tests.mcp.hosts import hosted
from tests.qdrant.seeds import NEW, OLD, opened, seed
from tests.strategies import cases
from tests.strategies.oracle import Oracle
from tests.strategies.places import Place
from tests.strategies.scene import NAMED
from tests.strategies.scene import seed as seed_scene

pytestmark = pytest.mark.timeout(180)


async def test_a_field_in_place_is_refused_where_the_server_is_too_old(
    any_qdrant: Backend, place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the embedded database it is the unnamed vector that stands in the way."""
    vector = "" if any_qdrant.is_embedded else "old"
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, vector=vector)
    before = (place.collections(), place.aliases(), place.config(name)["config"], place.dump(name))
    async with hosted(any_qdrant.environment) as host:
        refusal = await host.refused("create_target", collection=name, strategy="named_vector", model=NEW, text_field="text")
    assert "side_by_side" in refusal
    assert ("unnamed" if any_qdrant.is_embedded else f"needs Qdrant 1.18 or later; this server is {any_qdrant.version}") in refusal
    assert (place.collections(), place.aliases(), place.config(name)["config"], place.dump(name)) == before


async def test_quantizing_is_refused_by_the_embedded_database(tmp_path: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(name="embedded", environment={"QDRANT_PATH": f"{tmp_path}/qdrant"}, version=None)
    async with opened(backend, monkeypatch) as context:
        await seed(context, name)
    async with hosted(backend.environment) as host:
        refusal = await host.refused("create_target", collection=name, strategy="requantize", quantization="scalar")
        assert "embedded" in refusal
        assert "Nothing was changed" in refusal
        assert (await host.call("inspect_collection"))["migrations"] == []


async def test_cutting_vectors_that_nothing_speaks_for_is_refused(
    any_qdrant: Backend, place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name)
    before = place.collections()
    async with hosted(any_qdrant.environment) as host:
        refusal = await host.refused(
            "create_target", collection=name, strategy="truncate", dimensions=32, current_model=OLD, text_field="text"
        )
    assert "not known to be a Matryoshka model" in refusal
    assert "compare_models" in refusal
    assert place.collections() == before


async def test_a_map_that_finds_too_little_is_refused_with_the_number(
    any_qdrant: Backend,
    place: Place,
    name: str,
    oracle: Oracle,
    cranfield: Cranfield,
    asset_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between these two models there is no good linear map."""
    await seed_scene(place, name, NAMED, oracle, cranfield)
    before = (place.collections(), place.aliases(), place.dump(name))
    case = cases.with_vector(cases.LINEAR_MAP, NAMED)
    async with place.hosted(asset_models) as host:
        refusal = await host.refused("create_target", **{**case.request(any_qdrant, name), "model": "builtin:hashing-256"})
        found = re.search(r"Recall@10 .*? is (0\.\d+) .*interval", refusal)
        assert found, refusal
        assert float(found[1]) < 0.9
        assert "new_collection" in refusal
    ledger = any_qdrant.environment["QDRANT_MIGRATION_LEDGER"]
    assert (place.collections() - {ledger}, place.aliases(), place.dump(name)) == before
    async with opened(any_qdrant, monkeypatch) as context:
        recorded = await (await context.ledger()).migrations()
        assert [m.phase.value for m in recorded] == ["abandoned"]
        assert await (await context.ledger()).load_map(recorded[0].id) is None
