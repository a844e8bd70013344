"""How do two collections differ, and what are a collection's fields?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, config_differences, fields_of, is_same_setting


def collection(config: Json, indexes: dict[str, Json] | None = None) -> Collection:
    return Collection(name="c", points=0, fields=(), config=config, payload_indexes=indexes or {})


def changed(a: Json, b: Json, intended: dict[str, str] | None = None) -> list[tuple[str, Any, Any, bool]]:
    found = config_differences(collection(a), collection(b), intended or {})
    return [(d.path, d.source, d.target, d.is_intended) for d in found]


@pytest.mark.parametrize(
    ("a", "b", "is_same"),
    [
        (0.99, 0.9900000095367432, True),
        (1, 1.0, True),
        (0, 1, False),
        (100, 101, False),
        (True, 1, True),
        (True, False, False),
        (None, 0, False),
        ("a", "a", True),
        ([1, 2], [2, 1], False),
    ],
)
def test_numbers_have_a_tolerance(a: object, b: object, is_same: bool) -> None:
    """gRPC gives back a quantile of 0.99 as 0.99000001."""
    assert is_same_setting(a, b) is is_same


def test_differences_are_listed_by_path_on_both_sides() -> None:
    a = {"params": {"vectors": {"": {"size": 4}, "b": {"size": 2}}}, "hnsw_config": {"m": 16, "on_disk": None}}
    b = {"params": {"vectors": {"": {"size": 8}}}, "hnsw_config": {"m": 16}, "extra": True}
    assert changed(a, b) == [
        ("extra", None, True, False),
        ('params.vectors."".size', 4, 8, False),
        ("params.vectors.b.size", 2, None, False),
    ]


def test_a_prefix_is_intended_for_what_lies_below_it_only() -> None:
    a, b = {"x": {"ab": 1, "a": {"c": 1}}}, {"x": {"ab": 2, "a": {"c": 2}}}
    assert changed(a, b, {"x.a": "planned"}) == [("x.a.c", 1, 2, True), ("x.ab", 1, 2, False)]


def test_payload_indexes_are_part_of_the_configuration() -> None:
    source = collection({}, {"a.b": {"data_type": "keyword"}, "n": {"data_type": "integer", "params": {"type": "integer", "range": True}}})
    target = collection({}, {"n": {"data_type": "integer"}})
    found = [d.path for d in config_differences(source, target, {})]
    assert found == ["payload_indexes.a.b.data_type", "payload_indexes.n.params.range", "payload_indexes.n.params.type"]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"vectors": {"size": 4, "distance": "Dot"}}, [("", FieldKind.DENSE, 4, "float32")]),
        ({"vectors": {"size": {"size": 4, "distance": "Dot"}}}, [("size", FieldKind.DENSE, 4, "float32")]),
        ({"vectors": {"": {"size": 4, "distance": "Dot", "datatype": "uint8"}}}, [("", FieldKind.DENSE, 4, "uint8")]),
        (
            {"vectors": {"m": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}},
            [("m", FieldKind.MULTIVECTOR, 4, "float32")],
        ),
        (
            {"vectors": {}, "sparse_vectors": {"s": {"index": {"datatype": "float16"}}, "t": None}},
            [("s", FieldKind.SPARSE, None, "float16"), ("t", FieldKind.SPARSE, None, "float32")],
        ),
        ({}, []),
    ],
)
def test_fields(params: Json, expected: list[tuple[str, FieldKind, int | None, str]]) -> None:
    assert [(f.name, f.kind, f.size, f.datatype) for f in fields_of(params)] == expected


@pytest.mark.parametrize(
    ("strict", "limit"), [(None, None), ({"enabled": True, "max_query_limit": 9}, 9), ({"enabled": False, "max_query_limit": 9}, None)]
)
def test_strict_mode_limits_a_read(strict: Json | None, limit: int | None) -> None:
    assert collection({"strict_mode_config": strict}).page_limit == limit
