"""Is a pair of points what its recipe says, and what does a sample still leave open?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest

from qdrant_model_migration.domain.points import Payload, Point
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.verification import Expectation, Kind, is_accounted, judge, same_vector, wrong_share_upper_bound

OLD, NEW = [0.5, 0.5], [1.0, 0.0, 0.0]


def expected(**changes: Any) -> Expectation:
    values: dict[str, Any] = {
        "texts": TextSource.parse("text"),
        "made": Recipe(field="new", kind="embed", source_field="", dimensions=3),
        "copied": {"other": "other"},
        "skips_textless": False,
        "accounted": {},
        "checks_made": True,
    }
    return Expectation(**{**values, **changes})


def source(payload: Payload | None = None, vectors: Mapping[str, Any] | None = None) -> Point:
    return Point(id=1, payload={"text": "a text"} if payload is None else payload, vectors={"other": OLD} if vectors is None else vectors)


def target(payload: Payload | None = None, vectors: Mapping[str, Any] | None = None) -> Point:
    return source(payload, {"other": OLD, "new": NEW} if vectors is None else vectors)


NO_TEXT: Payload = {"title": "only"}


@pytest.mark.parametrize(
    ("a", "b", "changes", "kind", "why"),
    [
        (source(), target(), {}, None, ""),
        (source(), None, {}, Kind.MISSING, "not in the target"),
        (None, target(), {}, Kind.EXTRA, "not in the source"),
        (source({"text": "b"}), target(), {}, Kind.CHANGED, "payload differs in text"),
        (source({"text": "a text", "there": 1}), target({"text": "a text", "there": 2}), {}, Kind.CHANGED, "payload differs in there"),
        (source({"text": "a text", "n": None}), target(), {}, Kind.CHANGED, "payload differs in n"),
        (source({"text": "a text", "n": 1}), target({"text": "a text", "n": 1.0}), {}, Kind.CHANGED, "payload differs in n"),
        (source({"text": "a", "n": [0.1]}), target({"text": "a", "n": [0.1 + 2e-16]}), {}, None, ""),
        (source({"text": "a", "n": [0.1]}), target({"text": "a", "n": [0.1 + 1e-14]}), {}, Kind.CHANGED, "payload differs in n"),
        (source(), target(vectors={"new": NEW}), {}, Kind.CHANGED, "copied vector 'other' differs"),
        (source(vectors={}), target(), {}, Kind.CHANGED, "copied vector 'other' differs"),
        (source(vectors={"other": [0.5, 0.25]}), target(), {}, Kind.CHANGED, "copied vector 'other' differs"),
        (source(), target(vectors={"other": OLD}), {}, Kind.BAD_VECTOR, "no vector"),
        (source(), target(vectors={"other": OLD, "new": [1.0]}), {}, Kind.BAD_VECTOR, "1 dimensions instead of 3"),
        (source(), target(vectors={"other": OLD, "new": [0.0] * 3}), {}, Kind.BAD_VECTOR, "a zero vector"),
        (source(), target(vectors={"other": OLD, "new": [math.nan, 1.0, 1.0]}), {}, Kind.BAD_VECTOR, "a value that is not finite"),
        (source(), target(vectors={"other": OLD}), {"checks_made": False}, None, ""),
        # A point without text needs no vector; under 'skip' it need not even be there.
        (source(NO_TEXT), target(NO_TEXT, {"other": OLD}), {}, None, ""),
        (source(NO_TEXT), None, {}, Kind.MISSING, "not in the target"),
        (source(NO_TEXT), None, {"skips_textless": True}, None, ""),
        # Recorded failures: the payload is there, the vector is not.
        (source(), target(vectors={"other": OLD}), {"accounted": {"i:1": True}}, None, ""),
        (source(), None, {"accounted": {"i:1": True}}, Kind.MISSING, "not in the target"),
        (source(NO_TEXT), None, {"skips_textless": True, "accounted": {"i:1": False}}, None, ""),
        # It was skipped for want of a text, and has one now.
        (source(), None, {"skips_textless": True, "accounted": {"i:1": False}}, Kind.MISSING, "not in the target"),
        (source(), target(vectors={"other": OLD, "new": [0.0] * 3}), {"accounted": {"i:1": True}}, Kind.BAD_VECTOR, "a zero vector"),
    ],
)
def test_judge(a: Point | None, b: Point | None, changes: dict[str, Any], kind: Kind | None, why: str) -> None:
    found = judge(a, b, expected(**changes))
    assert (found.kind if found else None, found.why if found else "") == (kind, why)


@pytest.mark.parametrize(
    ("a", "b", "changes", "is_one"),
    [
        (source(NO_TEXT), target(NO_TEXT, {"other": OLD}), {}, True),
        (source(), target(vectors={"other": OLD}), {"accounted": {"i:1": True}}, True),
        (source(NO_TEXT), None, {"skips_textless": True}, True),
        (source(), target(), {}, False),
        (source(), None, {}, False),
        # Somebody gave it its vector since it failed.
        (source(), target(), {"accounted": {"i:1": True}}, False),
        (source(), None, {"skips_textless": True, "accounted": {"i:1": False}}, False),
    ],
)
def test_accounted_is_what_lacks_something_by_policy_or_failure(a: Point, b: Point | None, changes: dict[str, Any], is_one: bool) -> None:
    assert is_accounted(a, b, expected(**changes)) is is_one


def single(*values: float) -> list[float]:
    return [float(np.float32(v)) for v in values]


@pytest.mark.parametrize(
    ("a", "b", "is_same"),
    [
        ([0.1, 0.2], single(0.1, 0.2), True),
        ([0.1, 0.2], [0.1, 0.2000001], False),
        ([0.0, 1.0], [-0.0, 1.0], True),
        ([1, 2], [1.0, 2.0], True),
        ([1.0, 2.0], [1.0, 2.0, 3.0], False),
        ([[0.1, 0.2], [0.3, 0.4]], [single(0.1, 0.2), single(0.3, 0.4)], True),
        ([[0.1, 0.2], [0.3, 0.4]], [[0.1, 0.2, 0.3, 0.4]], False),
        ({"indices": [7, 3], "values": [0.1, 0.2]}, {"indices": [3, 7], "values": single(0.2, 0.1)}, True),
        ({"indices": [3], "values": [0.1]}, {"indices": [4], "values": [0.1]}, False),
        (None, None, True),
        (None, [1.0], False),
        ({"indices": [], "values": []}, None, False),
    ],
)
def test_vectors_are_compared_as_they_are_stored(a: Any, b: Any, is_same: bool) -> None:
    """REST writes the shortest text of a single-precision number, gRPC its exact value."""
    assert same_vector(a, b) is is_same
    assert same_vector(b, a) is is_same


def test_two_looks_by_different_transports_see_the_same() -> None:
    first = judge(source(vectors={"other": [0.1]}), None, expected())
    again = judge(source(vectors={"other": single(0.1)}), None, expected())
    edited = judge(source(vectors={"other": [0.3]}), None, expected())
    assert first is not None
    assert again is not None
    assert edited is not None
    assert first.seen == again.seen
    assert first.seen != edited.seen


def test_a_text_that_changed_between_two_looks_is_seen() -> None:
    first, again = judge(source({"text": "a"}), target(), expected()), judge(source({"text": "b"}), target(), expected())
    assert first is not None
    assert again is not None
    assert first.seen != again.seen


def at_most(wrong: int, sampled: int, share: Fraction) -> Fraction:
    """Probability of at most `wrong` wrong ones in the sample, exactly."""
    return sum((comb(sampled, k) * share**k * (1 - share) ** (sampled - k) for k in range(wrong + 1)), Fraction(0))


@pytest.mark.parametrize(("wrong", "sampled"), [(0, 1), (0, 10), (0, 200), (1, 10), (3, 50), (49, 50), (1, 1000)])
def test_the_upper_bound_is_the_share_at_which_so_few_wrong_ones_have_five_percent(wrong: int, sampled: int) -> None:
    """Clopper-Pearson, one-sided: checked against the binomial sum in exact fractions."""
    bound = wrong_share_upper_bound(wrong, sampled, population=10**9)
    assert float(at_most(wrong, sampled, Fraction(bound))) == pytest.approx(0.05, rel=1e-6)


def test_the_upper_bound_at_its_ends() -> None:
    assert wrong_share_upper_bound(0, 200, 10_000) == pytest.approx(0.014867, abs=1e-6)
    assert wrong_share_upper_bound(0, 0, 10) == 1.0
    assert wrong_share_upper_bound(5, 5, 10) == 1.0
    assert wrong_share_upper_bound(0, 10, 10) == 0.0
    assert wrong_share_upper_bound(2, 10, 10) == 0.2
