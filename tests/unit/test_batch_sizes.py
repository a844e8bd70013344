"""Is the fastest size found, by what neighbours of equal length cost, and is nothing tried where it would not help?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qdrant_model_migration.embedders.batch_sizes import ROUNDS, SIZES, USUAL, WORTH, BatchSizes
from qdrant_model_migration.embedders.fastembed_model import batches

WINDOW = 256
MOST = 16_000


def embedded(sizes: BatchSizes, lengths: list[int], seconds: Callable[[int, int], float], windows: int = 12) -> list[int]:
    """The sizes of the batches of so many windows, each of which took `seconds(texts, longest)`."""
    used = []
    for _ in range(windows):
        trial = sizes.window(lengths, MOST)
        for batch in batches(lengths, trial.size, MOST):
            used.append(len(batch))
            trial.took(trial.turn, len(batch), sum(lengths[i] for i in batch), seconds(len(batch), max(lengths[i] for i in batch)))
    return used


@pytest.mark.parametrize("fastest", SIZES)
def test_the_fastest_size_is_found_among_texts_of_mixed_length(fastest: int) -> None:
    sizes = BatchSizes()
    lengths = [20 + i for i in range(WINDOW)]
    # Longer texts cost more a character, which must not count against whoever has them.
    used = embedded(sizes, lengths, lambda texts, longest: texts * longest**1.5 * (1.0 if texts == fastest else 1.2))
    assert sizes.chosen == fastest
    assert set(used[: len(SIZES)]) == set(SIZES)
    assert set(used[-3:]) == {fastest}


def test_a_moment_in_which_the_machine_was_busy_decides_nothing() -> None:
    sizes, calls = BatchSizes(), iter(range(10_000))

    def seconds(texts: int, longest: int) -> float:
        return texts * longest * (0.8 if texts == 16 else 1.0) * (40.0 if next(calls) % 11 == 0 else 1.0)

    embedded(sizes, [100] * WINDOW, seconds)
    assert sizes.chosen == 16


def test_a_gain_that_is_noise_changes_nothing() -> None:
    sizes = BatchSizes()
    embedded(sizes, [100] * WINDOW, lambda texts, longest: texts * longest * (WORTH + 0.01 if texts == 32 else 1.0))
    assert sizes.chosen == USUAL


def test_a_size_that_the_memory_does_not_allow_is_not_tried() -> None:
    sizes = BatchSizes()
    used = embedded(sizes, [MOST // 10] * WINDOW, lambda texts, longest: longest)
    assert max(used) == USUAL
    assert sizes.chosen == USUAL


def test_longer_texts_than_the_usual_size_allows_are_embedded_as_before() -> None:
    sizes = BatchSizes()
    assert set(embedded(sizes, [MOST // 2] * WINDOW, lambda texts, longest: 1.0)) == {2}
    assert sizes.chosen is None


def test_what_a_person_states_is_not_tried_against_others() -> None:
    assert set(embedded(BatchSizes(64), [100] * WINDOW, lambda texts, longest: 1.0)) == {64}


def test_few_texts_are_no_trial() -> None:
    sizes = BatchSizes()
    assert set(embedded(sizes, [100] * 40, lambda texts, longest: 1.0, windows=ROUNDS * 3)) == {USUAL}
    assert sizes.chosen is None


def test_few_texts_are_shared_among_the_calls() -> None:
    lengths = [100] * 12
    trial = BatchSizes(64).window(lengths, MOST, calls=4)
    assert [len(batch) for batch in batches(lengths, trial.size, MOST)] == [3, 3, 3, 3]
