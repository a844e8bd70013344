"""Does every strategy lead to target == recipes(source), while an app that changes as it was told never fails a search?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.conftest import Backend, Cranfield
from tests.mcp.hosts import Answer, Host
from tests.mcp.test_next_steps import Person
from tests.strategies import cases
from tests.strategies.cases import Case, expected, prepare, readers_of, with_vector
from tests.strategies.oracle import Oracle
from tests.strategies.places import Place
from tests.strategies.readers import Loop
from tests.strategies.recipes import check_target
from tests.strategies.scene import NAMED, OLD_MODEL, UNNAMED, seed

pytestmark = [pytest.mark.timeout(240), pytest.mark.assets]


class Watching(Host):
    """A host that lets the test see every answer."""

    def __init__(self, host: Host, see: Callable[[str, Answer], None]) -> None:
        super().__init__(host.client, host._errors)
        self._see = see

    async def call(self, tool: str, **arguments: Any) -> Answer:
        answer = await super().call(tool, **arguments)
        self._see(tool, answer)
        return answer


class Progress:
    """What the answers told so far."""

    def __init__(self, *, is_in_place: bool, has_fill: bool) -> None:
        self.has_moved = is_in_place
        self.is_covered = not has_fill
        self.migration_id = ""
        self.answers: list[tuple[str, Answer]] = []

    def see(self, tool: str, answer: Answer) -> None:
        self.answers.append((tool, answer))
        self.migration_id = answer.get("migration_id") or self.migration_id
        self.has_moved = self.has_moved or answer.get("phase") == "cut_over"
        if tool == "verify_target" and answer["is_complete"] and (answer["coverage"] or 0) > 0.9:
            self.is_covered = True

    @property
    def created(self) -> Answer:
        return next(answer for tool, answer in self.answers if tool == "create_target" and answer["state"] == "done")

    @property
    def may_change(self) -> bool:
        return self.has_moved and self.is_covered


ALL = [
    cases.NEW_COLLECTION,
    cases.SIDE_BY_SIDE,
    cases.NAMED_VECTOR,
    cases.ADD_SPARSE,
    cases.ADD_MULTIVECTOR,
    cases.TRUNCATE,
    cases.LINEAR_MAP,
    cases.REQUANTIZE,
]
CASES = [
    *(pytest.param(made, id=made.id) for made in (with_vector(case, NAMED) for case in ALL)),
    *(
        pytest.param(made, id=made.id, marks=pytest.mark.in_turn)
        for made in (with_vector(case, UNNAMED) for case in (cases.SIDE_BY_SIDE, cases.ADD_SPARSE, cases.ADD_MULTIVECTOR, cases.TRUNCATE))
    ),
]


def is_possible(parameters: Mapping[str, Any]) -> bool:
    """What cannot be carried out is refused, which test_refusals.py shows."""
    case: Case = parameters["case"]
    is_embedded: bool = parameters["any_qdrant"] == "embedded"
    if case.strategy == "named_vector":
        return is_embedded
    return case.strategy != "requantize" or not is_embedded


@pytest.mark.only(where=is_possible)
@pytest.mark.parametrize("case", CASES)
async def test_a_strategy_makes_what_its_recipes_say_under_searches(
    any_qdrant: Backend,
    place: Place,
    name: str,
    case: Case,
    oracle: Oracle,
    cranfield: Cranfield,
    asset_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await seed(place, name, case.variant, oracle, cranfield)
    source = place.dump(name)
    is_in_place = case.is_in_place(any_qdrant)
    progress = Progress(is_in_place=is_in_place, has_fill=case.strategy == "side_by_side" or (is_in_place and case.made is not None))
    first, second = readers_of(case, any_qdrant, place, oracle, cranfield, name)
    loop = Loop(first=first, second=second, may_change=lambda: progress.may_change)
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    async with place.hosted(asset_models) as host, loop.running():
        await prepare(case, host, name)
        watched = Watching(host, progress.see)
        ended = await person.follow(watched, "create_target", case.request(any_qdrant, name), until_phase="finished")
    assert ended["deleted"] == []
    assert not [failure for reader in loop.readers for failure in reader.failures]
    _check_readers(case, any_qdrant, loop, name, place)
    says_how_to_write = any("bare list" in warning for warning in progress.created["warnings"])
    assert says_how_to_write == (any_qdrant.is_embedded and case.strategy in ("side_by_side", "add_multivector") and not case.variant.old)
    target = place.aliases()[f"{name}-live"]
    assert (target == name) == is_in_place
    wanted = await expected(case, any_qdrant, place, source, oracle, name, progress.migration_id, monkeypatch)
    check_target(
        place.dump(target),
        source,
        made=case.field_made(),
        replaced=case.variant.old if case.replaces else None,
        expected=wanted,
        agree=case.agree,
        is_exact=not any_qdrant.is_embedded,
    )
    if not is_in_place:
        assert place.dump(name) == source, "the source was changed"


def _check_readers(case: Case, backend: Backend, loop: Loop, name: str, place: Place) -> None:
    """Everybody searched, and each with the model and the collection that belong together."""
    assert len(loop.first.asked) > len(loop.first.bodies[OLD_MODEL])
    if case.replaces:
        target = place.aliases()[f"{name}-live"]
        new = next(model for model in loop.first.bodies if model != OLD_MODEL)
        assert loop.first.models_used == [OLD_MODEL, new]
        assert set(loop.first.asked) == {(name, OLD_MODEL), (target, new)}
    elif loop.second is not None:
        assert loop.second.models_used == [case.model_on(backend)]
