"""Is a strict mode read, changed and restored so that nothing but writes is held back?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import UNLIMITED_WRITES, Collection, config_differences
from qdrant_model_migration.domain.fence import MOST_FENCED_PASS_S, is_lifted, lifted, outlasted_fence, raised, why_unfenced


def collection(strict: Any = None, **changes: Any) -> Collection:
    config: dict[str, Any] = {"params": {"shard_number": 1, **changes.pop("params", {})}}
    if strict is not None:
        config["strict_mode_config"] = strict
    return Collection(**{"name": "docs", "points": 1, "fields": (), "config": config, **changes})


@pytest.mark.parametrize(
    ("strict", "restored"),
    [
        ({}, {"enabled": False, "write_rate_limit": UNLIMITED_WRITES}),
        ({"enabled": True, "max_query_limit": 5}, {"enabled": True, "write_rate_limit": UNLIMITED_WRITES}),
        ({"enabled": True, "write_rate_limit": 600}, {"enabled": True, "write_rate_limit": 600}),
        ({"enabled": False, "write_rate_limit": 600}, {"enabled": False, "write_rate_limit": 600}),
    ],
)
def test_a_strict_mode_is_restored_as_far_as_qdrant_can(strict: dict[str, Any], restored: dict[str, Any]) -> None:
    assert lifted(strict) == restored
    assert is_lifted({**strict, **restored}, strict)
    assert not is_lifted({**strict, **raised()}, strict)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (collection(), None),
        (collection({"enabled": False, "write_rate_limit": 7}), None),
        (collection({"enabled": True, "max_query_limit": 5}), None),
        (collection({"enabled": False, "max_query_limit": 5, "search_allow_exact": None}), "also enforce max_query_limit"),
        (collection(peers=2), "each peer counts its own writes"),
        (collection(params={"sharding_method": "custom"}), "shard keys"),
        (collection(params={"shard_number": 6}), None),
    ],
)
def test_writers_are_made_to_wait_only_where_queries_go_on_as_before(found: Collection, why: str | None) -> None:
    reason = why_unfenced(found, is_embedded=False)
    assert (reason is None) if why is None else (reason is not None and why in reason)
    assert why_unfenced(found, is_embedded=True) is not None


@pytest.mark.parametrize("strict", [{"enabled": False, "write_rate_limit": UNLIMITED_WRITES}, None])
def test_a_fence_that_was_lifted_is_no_difference_between_two_collections(strict: Any) -> None:
    assert config_differences(collection(strict), collection(), {}) == []
    other = collection({"enabled": True, "write_rate_limit": 7})
    assert [d.path for d in config_differences(collection(strict), other, {})] == [
        "strict_mode_config.enabled",
        "strict_mode_config.write_rate_limit",
    ]


def test_a_plan_says_beforehand_that_the_writers_would_wait_for_too_long() -> None:
    assert outlasted_fence(None) is None
    assert outlasted_fence(MOST_FENCED_PASS_S) is None
    told = outlasted_fence(80.4) or ""
    assert "took 80 s" in told
    assert "fence=false" in told
