"""Is every strategy that is recommended carried out, by a client that follows nothing but `next_step`?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Backend
from tests.mcp.hosts import hosted
from tests.mcp.test_next_steps import Person
from tests.qdrant.seeds import NEW, OLD, opened, seed, text

pytestmark = pytest.mark.timeout(240)

POINTS = 150


@pytest.mark.parametrize("strategy", ["new_collection", "side_by_side", "named_vector", "truncate"])
async def test_a_strategy_leads_to_its_end(any_qdrant: Backend, name: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if strategy == "named_vector" and not any_qdrant.is_embedded:
        pytest.skip("tried and refused elsewhere")
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=POINTS, payload=lambda n: {"text": text(n), "n": n}, vector="old")
        await (await context.gateway()).point_alias(f"{name}-live", name)
    asked: dict[str, Any] = {"collection": name, "strategy": strategy, "current_model": OLD, "text_field": "text", "writes": "frozen"}
    if strategy == "truncate":
        asked |= {"dimensions": 32}
    else:
        asked |= {"model": NEW}
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    async with hosted(any_qdrant.environment) as host:
        ended = await person.follow(host, "create_target", asked, until_phase="finished")
        print(person.path, ended["summary"])
