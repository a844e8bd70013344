"""How are points named and compared?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from qdrant_model_migration.domain.points import order_key, payload_digest, tag, untag, vector_problem
from qdrant_model_migration.errors import Refused

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"


@pytest.mark.parametrize(("point_id", "text"), [(0, "i:0"), (2**64 - 1, "i:18446744073709551615"), (UUID, f"u:{UUID}")])
def test_an_id_travels_as_a_string(point_id: int | str, text: str) -> None:
    assert tag(point_id) == text
    assert untag(text) == point_id


def test_other_spellings_of_a_uuid_are_the_same_id() -> None:
    assert untag(f"u:{UUID.upper()}") == untag(f"u:{UUID.replace('-', '')}") == UUID
    assert order_key(UUID) == order_key(UUID.upper())


@pytest.mark.parametrize("text", ["42", "i:", "i:-1", "i:1.5", "u:42", "u:", "x:1", "", f"i:{UUID}"])
def test_what_is_no_tagged_id_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="not a point id"):
        untag(text)


@pytest.mark.parametrize(
    ("a", "b", "is_same"),
    [
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 2, "c": 1}, "a": 1}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": None}, {}, False),
        ({"a": []}, {"a": {}}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": "\u00e9"}, {"a": "e\u0301"}, False),
        ({"a": "\ud800"}, {"a": "?"}, False),
        ({"a": 2**64 - 1}, {"a": 2**64 - 2}, False),
        ({"a": 2**53}, {"a": 2**53 + 1}, False),
        ({"a": 2**64 - 1}, {"a": float(2**64 - 1)}, False),
        (None, {}, True),
    ],
)
def test_digests_tell_json_values_apart(a: Any, b: Any, is_same: bool) -> None:
    assert (payload_digest(a) == payload_digest(b)) is is_same


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        ([0.5, 0.5], None),
        (None, "no vector"),
        ([], "no vector"),
        ({"indices": [1], "values": [1.0]}, "no vector"),
        ([1.0], "1 dimensions instead of 2"),
        ([math.nan, 1.0], "a value that is not finite"),
        ([math.inf, 1.0], "a value that is not finite"),
        ([0.0, -0.0], "a zero vector"),
    ],
)
def test_vectors_that_cannot_be_right_are_found(vector: object, problem: str | None) -> None:
    assert vector_problem(vector, 2) == problem
