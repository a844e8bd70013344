"""Are our own operations told from others', whatever their order, and is what was forgotten never believed?"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qdrant_model_migration.domain import own_operations
from qdrant_model_migration.domain.own_operations import OwnOperations, OwnRecord

numbers = st.integers(min_value=1, max_value=60)


@given(added=st.lists(numbers, max_size=60), mark=st.none() | numbers, later=st.lists(numbers, max_size=20))
def test_the_spans_are_a_set_also_through_the_ledger(added: list[int], mark: int | None, later: list[int]) -> None:
    own, expected = OwnOperations(), set(added)
    for number in added:
        own.add(number)
    assert {n for n in range(62) if n in own} == expected
    if mark is not None:
        own.looked(mark)
        expected = {n for n in expected if n > mark}
    own = OwnOperations(OwnRecord.model_validate_json(own.record.model_dump_json()))
    for number in later:
        own.add(number)
    assert {n for n in range(62) if own.vouches_for(n)} == expected | set(later) | set(range((mark or 0) + 1))
    spans = own.record.spans
    assert all(b[0] > a[1] + 1 for a, b in pairwise(spans)), "as few spans as there can be"


def test_the_oldest_numbers_are_forgotten_first() -> None:
    own = OwnOperations()
    for number in range(0, 2 * own_operations.MOST_SPANS + 20, 2):
        own.add(number)
    kept = OwnOperations(own.record)
    assert len(kept.record.spans) == own_operations.MOST_SPANS
    assert (0 in kept, 18 in kept, 20 in kept) == (False, False, True)


def test_numbers_of_another_collection_are_not_believed() -> None:
    own = OwnOperations(OwnRecord(spans=((5, 9),), looked_at=4))
    own.distrust()
    assert not any(own.vouches_for(n) for n in range(1, 10))
