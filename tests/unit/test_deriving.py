"""Are pages of derived vectors in their order, without unusable ones, and recognised again as they were stored?"""

from __future__ import annotations

import numpy as np
import pytest

from qdrant_model_migration.domain.derived import check_datatype, same_derived
from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.deriving import Deriver

SWAP = LinearMap(
    matrix=np.array([[0, 1, 0], [1, 0, 0]], dtype=np.float32), offset=np.zeros(3, dtype=np.float32), normalizes=False, kind="procrustes"
)


def test_a_page_is_truncated_in_its_order() -> None:
    deriver = Deriver.truncate(3, 2)
    page = [[3.0, 4.0, 0.0], None, [0.0, 0.0, 1.0], [0.0, 0.6, 0.8], [1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, float("nan")]]
    assert deriver.target_size == 2
    assert deriver.derive(page) == [[3.0, 4.0], None, None, [0.0, 1.0], None, None, None]
    assert [deriver.reason(page[i]) for i in (1, 2, 4, 5, 6)] == [
        "the source's vector cannot be used: no vector",
        "its first 2 numbers are all zero",
        "the source's vector cannot be used: 2 dimensions instead of 3",
        "the source's vector cannot be used: a zero vector",
        "the source's vector cannot be used: a value that is not finite",
    ]
    assert deriver.derive([]) == []
    assert deriver.derive([None]) == [None]


def test_a_page_is_mapped_in_its_order() -> None:
    deriver = Deriver.linear_map(SWAP)
    assert deriver.target_size == 3
    assert deriver.derive([[1.0, 2.0], None, [0.0, 5.0]]) == [[2.0, 1.0, 0.0], None, [5.0, 0.0, 0.0]]


def test_what_a_map_makes_nothing_of_is_told() -> None:
    nowhere = LinearMap(matrix=np.eye(2, dtype=np.float32), offset=np.array([-1, -1], dtype=np.float32), normalizes=True, kind="ridge")
    huge = LinearMap(matrix=np.full((2, 2), 3e38, dtype=np.float32), offset=np.zeros(2, dtype=np.float32), normalizes=False, kind="ridge")
    assert Deriver.linear_map(nowhere).derive([[1.0, 1.0], [2.0, 1.0]]) == [None, [1.0, 0.0]]
    assert Deriver.linear_map(huge).derive([[9.0, 9.0]]) == [None]
    assert Deriver.linear_map(nowhere).reason([1.0, 1.0]) == "the map makes no finite vector other than zero of it"


def test_more_dimensions_than_there_are_are_refused_at_once() -> None:
    with pytest.raises(Refused, match="3 dimensions cannot be cut to 4"):
        Deriver.truncate(3, 4)


def test_stored_vectors_are_compared_as_the_distance_keeps_them() -> None:
    derived = [3.0, 4.0]
    assert same_derived([[0.6, 0.8]], [derived], distance="Cosine", datatype="float32") == [True]
    assert same_derived([[0.6, 0.8]], [derived], distance="Dot", datatype="float32") == [False]
    assert same_derived([[3.0, 4.00001]], [derived], distance="Dot", datatype="float32") == [True]
    assert same_derived([[3.0, 4.001]], [derived], distance="Euclid", datatype="float32") == [False]
    assert same_derived([[3.0, 4.001]], [derived], distance="Euclid", datatype="float16") == [True]
    assert same_derived([[0.61, 0.79]], [derived], distance="Cosine", datatype="float16") == [False]


def test_rounding_to_the_datatype_is_no_difference_and_another_row_is() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    exact, rounded = rows.tolist(), rows.astype(np.float16).tolist()
    for distance in ("Cosine", "Dot", "Euclid", "Manhattan"):
        assert all(same_derived(rounded, exact, distance=distance, datatype="float16"))
        assert not any(same_derived(rounded, exact, distance=distance, datatype="float32"))
        assert not any(same_derived(rounded[1:] + rounded[:1], exact, distance=distance, datatype="float16"))


def test_what_is_missing_on_one_side_differs() -> None:
    stored = [None, [1.0, 0.0], None, [0.0, 0.0], [1.0], [float("nan"), 1.0]]
    derived = [None, None, [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    assert same_derived(stored, derived, distance="Cosine", datatype="float32") == [True, *[False] * 5]


def test_whole_numbers_cannot_keep_derived_vectors() -> None:
    check_datatype("float32")
    check_datatype("float16")
    with pytest.raises(Refused, match="uint8"):
        check_datatype("uint8")
    with pytest.raises(Refused, match="uint8"):
        same_derived([[1.0]], [[1.0]], distance="Dot", datatype="uint8")
