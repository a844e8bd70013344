"""May the readers be moved, which aliases move, and when is a plan void?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from qdrant_model_migration.domain.breaks import breaks_back, breaks_of
from qdrant_model_migration.domain.cutover import FRESH_S, SwapFacts, check_gates, is_fence_of_use, overrides_of, plan_code, shown
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.moves import moves_across, moves_back, moves_forward, reversed_moves
from qdrant_model_migration.domain.recipe import Cutover, Endpoint, Gate, Moved
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Comparison, ProvenanceCheck, Verification
from tests.unit.test_migration import migration

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def verification(age_s: float = 0.0, **changes: Any) -> Verification:
    values: dict[str, Any] = {
        "is_complete": True,
        "source_points": 10,
        "target_points": 10,
        "missing": 0,
        "extra": 0,
        "changed": 0,
        "accounted": 0,
        "bad_vectors": 0,
        "provenance": ProvenanceCheck(),
        "is_index_ready": True,
        "at": (NOW - timedelta(seconds=age_s)).isoformat(),
    }
    return Verification(**{**values, **changes})


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "verdict": "equivalent",
        "is_judged": True,
        "queries": 20,
        "query_source": "given",
        "k": 10,
        "margin": 0.01,
        "primary_metric": "nDCG@10",
        "baseline": "old",
        "candidates": ["new"],
        "metrics": [],
    }
    return Comparison(**{**values, **changes})


def verified(**changes: Any) -> Migration:
    return migration("verified", **{"verification": verification(), **changes})


def test_a_fresh_complete_verification_opens_the_gate() -> None:
    check_gates(verified(verification=verification(FRESH_S)), NOW)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "was never verified"),
        (verification(is_complete=False, problems=["214 points missing"]), "found 214 points missing in 'docs-new'. Call repair_target"),
        (verification(FRESH_S + 60), "is 16 minutes old; at most 15 are allowed. Call verify_target"),
    ],
)
def test_without_a_proof_the_gate_stays_shut(found: Verification | None, why: str) -> None:
    with pytest.raises(Refused, match="Cannot swap") as refused:
        check_gates(verified(verification=found), NOW)
    assert why in str(refused.value)


def test_a_phase_that_is_not_verified_keeps_the_gate_shut() -> None:
    with pytest.raises(Refused, match="not possible for migration m-1 in phase 'backfilled'"):
        check_gates(migration("backfilled", verification=verification()), NOW)


ALIASES = {"live": "docs", "beta": "docs", "other": "elsewhere"}


def test_all_aliases_of_the_source_move() -> None:
    moves, left = moves_forward(verified(), ALIASES, None)
    assert [(m.alias, m.previous, m.current) for m in moves] == [("beta", "docs", "docs-new"), ("live", "docs", "docs-new")]
    assert left == ()


@pytest.mark.parametrize(("planned", "asked"), [(None, "live"), ("live", None), ("beta", "live")])
def test_a_named_alias_moves_alone_and_the_others_are_listed(planned: str | None, asked: str | None) -> None:
    moves, left = moves_forward(verified(alias=planned), ALIASES, asked)
    assert [m.alias for m in moves] == ["live"]
    assert left == ("beta",)


def test_a_new_alias_is_created() -> None:
    moves, left = moves_forward(verified(), ALIASES, "fresh")
    assert moves == (Moved(alias="fresh", previous=None, current="docs-new"),)
    assert left == ("beta", "live")


def test_a_foreign_alias_or_none_at_all_is_refused() -> None:
    with pytest.raises(Refused, match="alias 'other' points to 'elsewhere'"):
        moves_forward(verified(), ALIASES, "other")
    with pytest.raises(Refused, match="no alias points to 'docs'"):
        moves_forward(verified(), {"other": "elsewhere"}, None)


def test_the_rollback_reverses_the_moves_unless_somebody_moved_an_alias_since() -> None:
    moves, _ = moves_forward(verified(), {"live": "docs"}, None)
    new, _ = moves_forward(verified(), {}, "fresh")
    done = migration("cut_over", cutover=Cutover(moves=(*moves, *new), at="2026-01-01"))
    back = moves_back(done, {"live": "docs-new", "fresh": "docs-new"})
    assert [(m.alias, m.previous, m.current) for m in back] == [("live", "docs-new", "docs"), ("fresh", "docs-new", "docs")]
    for aliases in ({"live": "third", "fresh": "docs-new"}, {"live": "docs-new"}):
        with pytest.raises(Refused, match="Somebody moved it since"):
            moves_back(done, aliases)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, []),
        ({"comparison": comparison()}, []),
        ({"comparison": comparison(verdict="worse")}, ["found the new model worse"]),
        ({"gate": Gate(metric="nDCG@10", margin=0.01)}, ["was not made"]),
        ({"gate": Gate(metric="nDCG@10", margin=0.01), "comparison": comparison(gate="pass")}, []),
        ({"gate": Gate(metric="nDCG@10", margin=0.01), "comparison": comparison(gate="fail")}, ["failed"]),
        # A comparison without the gate is none that passed it.
        ({"gate": Gate(metric="nDCG@10", margin=0.01), "comparison": comparison()}, ["failed"]),
        ({"verification": verification(accounted=3)}, ["3 points have no vector of the new model"]),
    ],
)
def test_what_somebody_who_agrees_accepts(changes: dict[str, Any], accepted: list[str]) -> None:
    found = overrides_of(verified(**changes))
    assert len(found) == len(accepted)
    assert all(part in line for part, line in zip(accepted, found, strict=True))


@pytest.mark.parametrize("writes", ["frozen", "dual_write", "live"])
def test_who_breaks_is_said_for_both_cases_of_dimensions(writes: str) -> None:
    moves, _ = moves_forward(verified(), {"live": "docs"}, None)
    other = " ".join(breaks_of(verified(writes=writes), moves, 384, is_numbered=True))
    equal = " ".join(breaks_of(verified(writes=writes), moves, 32, is_numbered=True))
    assert "(384 dimensions) through 'live' fail with a dimension error" in other
    assert "get nonsense without an error" in equal
    assert ("the target's point wins" in other) is (writes == "live")
    assert ("Writers through 'live' must embed" in other) is (writes != "frozen")


def test_writers_that_wait_are_told_so_and_nothing_is_said_of_late_writes() -> None:
    moves, _ = moves_forward(verified(), {"live": "docs"}, None)
    told = " ".join(breaks_of(verified(writes="live"), moves, 384, is_numbered=False, is_fenced=True))
    assert "writes to 'docs' are answered with 429" in told
    assert "may be lost" not in told
    assert "wins" not in told


@pytest.mark.parametrize(
    ("writes", "direction", "is_of_use"),
    [
        ("live", "forward", True),
        ("dual_write", "forward", False),
        ("frozen", "forward", False),
        ("live", "back", True),
        ("dual_write", "back", True),
        ("frozen", "back", False),
    ],
)
def test_writers_wait_only_where_it_saves_their_writes(writes: str, direction: Literal["forward", "back"], is_of_use: bool) -> None:
    assert is_fence_of_use(verified(writes=writes), direction) is is_of_use
    across = verified(writes=writes, target=Endpoint(connection="new", collection="docs-new"))
    assert not is_fence_of_use(across, direction)


def facts(**changes: Any) -> SwapFacts:
    values: dict[str, Any] = {
        "migration_id": "m-1",
        "direction": "forward",
        "phase": "verified",
        "moves": (Moved(alias="live", previous="docs", current="docs-new"),),
        "left": (),
        "verified_at": "2026-01-01",
        "comparison": "none",
        "overrides": (),
        "breaks": (),
        "undo": "back",
        "source_points": 10,
        "target_points": 10,
    }
    return SwapFacts(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "backfilled"},
        {"moves": (Moved(alias="live", previous="third", current="docs-new"),)},
        {"left": ("beta",)},
        {"verified_at": "2026-01-02"},
        {"comparison": "worse"},
        {"overrides": ("something",)},
        {"direction": "back"},
    ],
)
def test_a_plan_is_void_when_a_fact_changed(changes: dict[str, Any]) -> None:
    for with_counts in (True, False):
        assert facts(**changes).digest(with_counts=with_counts) != facts().digest(with_counts=with_counts)


def test_counts_are_facts_only_where_nobody_writes() -> None:
    assert facts(source_points=11).digest(with_counts=True) != facts().digest(with_counts=True)
    assert facts(source_points=11).digest(with_counts=False) == facts().digest(with_counts=False)


def test_a_plan_is_shown_with_its_code() -> None:
    plan = shown(facts(target_points=None), "live-3f9a2b", "2026-01-01")
    assert (plan.code, plan.counts) == ("live-3f9a2b", {"source_points": 10})
    assert [(m.alias, m.from_collection, m.to_collection) for m in plan.moves] == [("live", "docs", "docs-new")]


@pytest.mark.parametrize(("name", "code"), [("docs", "docs-3f9a2b"), ("a b/c", "a_b_c-3f9a2b"), ("x" * 50, "x" * 24 + "-3f9a2b")])
def test_a_code_can_be_said(name: str, code: str) -> None:
    assert plan_code(name, "3f9a2b77") == code


def test_late_writes_of_a_sharded_source_are_announced_as_lost_not_as_carried_over() -> None:
    """Operations of several shards are not numbered together, so a plan must not promise to tell late writes apart."""
    moves, _ = moves_forward(verified(), {"live": "docs"}, None)
    one, several = (" ".join(breaks_of(verified(writes="live"), moves, 384, is_numbered=is_numbered)) for is_numbered in (True, False))
    assert "are carried over afterwards" in one
    assert "are carried over afterwards" not in several
    assert "may be lost" in several


def across(**changes: Any) -> Migration:
    return migration(source=Endpoint(collection="docs"), target=Endpoint(connection="new", collection="docs"), **changes)


def test_on_another_server_the_known_names_are_created_and_removed_again() -> None:
    """One that points to the target there already stays where it is, in both directions."""
    moves, left = moves_across(across(), ("live", "search"), {"search": "docs"}, ["docs"], None)
    assert moves == (Moved(alias="live", previous=None, current="docs"), Moved(alias="search", previous="docs", current="docs"))
    assert left == ("live", "search")
    back = reversed_moves(across(cutover=Cutover(moves=moves, at="now")))
    assert back == (Moved(alias="live", previous="docs", current=None), Moved(alias="search", previous="docs", current="docs"))


@pytest.mark.parametrize(
    ("aliases", "collections", "wanted", "told"),
    [
        ({"live": "other"}, ["other"], None, "'live' is an alias of 'other' on connection 'new' already"),
        ({}, ["live"], None, "'live' is a collection on connection 'new' already"),
        ({}, [], "docs", None),
    ],
)
def test_a_name_that_is_taken_on_the_other_server_is_refused(
    aliases: dict[str, str], collections: list[str], wanted: str | None, told: str | None
) -> None:
    """The source's own name is free there, unless the target has it."""
    if told is None:
        assert moves_across(across(), ("live",), aliases, collections, wanted)[0] == (Moved(alias="docs", previous=None, current="docs"),)
        return
    with pytest.raises(Refused, match=told):
        moves_across(across(), ("live",), aliases, collections, wanted)


def test_the_plan_says_that_nobody_moves_by_a_swap_to_another_server() -> None:
    moves = (Moved(alias="live", previous=None, current="docs"),)
    told = " ".join(breaks_of(across(writes="live"), moves, 384, is_numbered=True))
    assert "Until then it reads and writes 'docs' on connection 'default'." in told
    assert "is carried over while the worker runs" in told
    unmarked = " ".join(breaks_of(across(writes="live"), moves, 384, is_numbered=False, may_mark=False))
    assert "may only be read with this key" in unmarked
    assert "until their release has moved them" in unmarked
    assert "go back to 'docs' on connection 'default' first" in breaks_back(across(), "'live'")
