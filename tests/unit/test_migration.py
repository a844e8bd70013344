"""Which call is allowed in which phase, and where does each event lead?"""

from __future__ import annotations

from typing import Any, get_args

import pytest

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelSpec
from qdrant_model_migration.domain.phases import ALLOWED, CLOSED, TRANSITIONS, Event, Phase
from qdrant_model_migration.domain.recipe import Cutover, Endpoint, Recipe
from qdrant_model_migration.errors import Refused

PHASES = ["planned", "target_created", "backfilling", "backfilled", "verified", "cut_over", "finished", "rolled_back", "abandoned"]

#: One row a call: y where the phase (in the order of PHASES) allows it.
CALLS = {
    "start_backfill": "-yyyy--y-",
    "control_backfill": "-yyyy----",
    "verify_target": "---yyy---",
    "repair_target": "---yy----",
    "compare_models": "---yyy-y-",
    "swap_alias:forward": "----y----",
    "swap_alias:back": "-----y---",
    "finish_migration:keep_old": "-----y---",
    "finish_migration:delete_old": "-----yy--",
    "finish_migration:discard_new": "yyyyy--y-",
}

#: The rows that differ where a collection is changed in place: no alias moves, and a migration ends where it is verified.
CALLS_IN_PLACE = {
    "swap_alias:forward": "---------",
    "swap_alias:back": "---------",
    "finish_migration:keep_old": "----y----",
    "finish_migration:delete_old": "----y-y--",
}
#: The rows that differ where a field is filled after the copy, perhaps when the readers have moved already.
CALLS_FILLING = {"start_backfill": "-yyyyy-y-", "control_backfill": "-yyyyy---", "repair_target": "---yyy---"}
FILLED = Recipe(field="new", kind="embed", source_field="", stage="fill")
COPIED = Recipe(field="", kind="copy", source_field="")

#: One row an event: the phase that each phase leads to, by its index in PHASES; - where the event cannot happen.
EVENTS = {
    "created": "1--------",
    "started": "-22345-2-",
    "converged": "--334----",
    "verified": "---445---",
    "found_incomplete": "---335---",
    "swapped": "----5----",
    "rolled_back": "-----7---",
    "finished": "----666--",
    "discarded": "88888--8-",
}


def migration(phase: str = "planned", **changes: Any) -> Migration:
    values: dict[str, Any] = {
        "id": "m-1",
        "arguments_digest": "d",
        "created_at": "2026-01-01",
        "phase": phase,
        "strategy": "new_collection",
        "source": Endpoint(collection="docs"),
        "target": Endpoint(collection="docs-new"),
        "recipes": (Recipe(field="", kind="embed", source_field=""), Recipe(field="b", kind="copy", source_field="b")),
        "model": ModelSpec(name="builtin:hashing-32", dimensions=32),
        "text_field": "text",
        "create": {},
        "restore": {},
    }
    return Migration(**{**values, **changes})


def test_the_tables_name_every_phase_call_and_event() -> None:
    assert [p.value for p in Phase] == PHASES
    assert CALLS.keys() == ALLOWED.keys()
    assert EVENTS.keys() == TRANSITIONS.keys() == set(get_args(Event))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("call", CALLS)
def test_each_call_in_each_phase(call: str, phase: str) -> None:
    """A refusal says the phase, what it needs and what to do instead."""
    is_allowed = CALLS[call][PHASES.index(phase)] == "y"
    if is_allowed:
        migration(phase).check_allows(call)
        return
    with pytest.raises(Refused) as refused:
        migration(phase).check_allows(call)
    text = str(refused.value)
    assert text.startswith("Nothing was changed: ")
    assert f"in phase '{phase}'" in text
    assert all(p in text for p, mark in zip(PHASES, CALLS[call], strict=True) if mark == "y")
    assert text.rstrip(".").rpartition(").")[2].strip()


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ({**CALLS, **CALLS_IN_PLACE}, {"placement": "in_place", "recipes": (FILLED,), "is_filling": True}),
        ({**CALLS, **CALLS_IN_PLACE}, {"placement": "in_place", "recipes": (), "model": None}),
        ({**CALLS, **CALLS_FILLING}, {"recipes": (FILLED, COPIED)}),
    ],
    ids=["named_vector", "requantize", "side_by_side"],
)
def test_each_call_in_each_phase_of_other_kinds(rows: dict[str, str], kind: dict[str, Any], phase: str) -> None:
    found = {call: phase in found.phases_of(call) for found in [migration(phase, **kind)] for call in rows}
    assert found == {call: row[PHASES.index(phase)] == "y" for call, row in rows.items()}


def test_in_place_no_alias_moves() -> None:
    with pytest.raises(Refused, match="no alias moves"):
        migration("verified", placement="in_place", recipes=(FILLED,)).check_allows("swap_alias:forward")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("event", EVENTS)
def test_each_event_in_each_phase(event: Event, phase: str) -> None:
    leads_to = EVENTS[event][PHASES.index(phase)]
    if leads_to == "-":
        with pytest.raises(Refused, match=f"'{phase}', where '{event}' cannot happen"):
            migration(phase).after(event)
    else:
        assert migration(phase).after(event).value == PHASES[int(leads_to)]


def test_every_open_phase_can_be_left_and_every_closed_one_is_over() -> None:
    """No dead end: from every phase there is a way to 'finished' or 'abandoned'."""
    ways = {p: {t[p] for t in TRANSITIONS.values() if p in t} for p in Phase}
    for phase in Phase:
        reached, frontier = {phase}, [phase]
        while frontier:
            new = ways[frontier.pop()] - reached
            reached |= new
            frontier += new
        assert reached & CLOSED
        assert migration(phase.value).is_open is (phase not in CLOSED)
    assert all(ways[p] <= CLOSED for p in CLOSED)


@pytest.mark.parametrize(
    ("phase", "was_cut_over", "is_serving_source"),
    [
        ("backfilling", False, True),
        ("verified", False, True),
        # The intent of a swap is recorded before the aliases move.
        ("verified", True, True),
        ("cut_over", True, False),
        ("finished", True, False),
        ("rolled_back", True, True),
        ("backfilling", True, True),
    ],
)
def test_after_the_cutover_the_target_serves(phase: str, was_cut_over: bool, is_serving_source: bool) -> None:
    cutover = Cutover(moves=(), at="2026-01-01") if was_cut_over else None
    assert migration(phase, cutover=cutover).is_serving_source is is_serving_source


def test_recipes_are_told_apart() -> None:
    found = migration()
    assert found.making.field == ""
    assert [r.field for r in found.copies] == ["b"]


def test_a_record_is_read_back_from_its_json() -> None:
    found = migration("cut_over", cutover=Cutover(moves=(), at="2026-01-01", source_watermark=7))
    assert Migration.model_validate(found.model_dump(mode="json")) == found
