"""Can the reader that follows the aliases hinder a swap? Whatever becomes of its queries, the swap ends as it would without it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from qdrant_model_migration.errors import ConnectionFailed, Interrupted, LeaseLost, RateLimited, Refused
from qdrant_model_migration.operations import reader
from qdrant_model_migration.operations.reader import Reader, read_beside

pytestmark = pytest.mark.anyio


SEVERAL = 6


class Searches:
    """Queries that fail, from the first or from a later one on."""

    def __init__(self, failure: Exception, *, well: int = 0) -> None:
        self.failure = failure
        self.well = well
        self.asked = 0
        self.several = anyio.Event()

    async def through_alias(self, alias: str, queries: object) -> None:
        self.asked += 1
        if self.asked == SEVERAL:
            self.several.set()
        if self.asked > self.well:
            raise self.failure


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Any:
    def with_searches(searches: Searches) -> Any:
        work = cast("Any", SimpleNamespace(target=SimpleNamespace(searches=searches)))

        async def one(_: Any) -> Reader:
            return Reader(work=work, aliases=["live"], queries={"docs": ("", [[1.0]])})

        monkeypatch.setattr(reader, "_reader", one)
        monkeypatch.setattr(reader, "PAUSE_S", 0.001)
        return work

    return with_searches


async def swapped() -> str:
    await anyio.sleep(0.05)
    return "swapped"


@pytest.mark.parametrize(("failure", "told"), [(ConnectionFailed("away"), "away"), (RuntimeError("a text"), "RuntimeError")])
async def test_queries_that_fail_are_counted_and_the_first_ones_told(follow: Any, failure: Exception, told: str) -> None:
    searches = Searches(failure, well=2)

    async def swapped_after_several() -> str:
        await searches.several.wait()
        return "swapped"

    with anyio.fail_after(30):
        done, seen = await read_beside(follow(searches), swapped_after_several)
    assert done == "swapped"
    assert seen is not None
    assert seen.asked == searches.asked > SEVERAL
    assert seen.failed == searches.asked - 2
    assert seen.failures == [f"live: {told}"] * 3


async def test_a_rate_limit_of_the_collection_is_no_failure(follow: Any) -> None:
    _, seen = await read_beside(follow(Searches(RateLimited("slow down", 1.0))), swapped)
    assert seen is not None
    assert (seen.asked, seen.failed) == (0, 0)


@pytest.mark.parametrize("stop", [LeaseLost("lost"), Interrupted("stop")], ids=lambda e: type(e).__name__)
async def test_a_driver_that_is_to_stop_still_records_that_the_readers_have_moved(follow: Any, stop: Exception) -> None:
    done, seen = await read_beside(follow(Searches(stop, well=1)), swapped)
    assert done == "swapped"
    assert seen is not None
    assert (seen.asked, seen.failed) == (1, 0)


async def test_a_refusal_of_the_swap_comes_through_as_it_is(follow: Any) -> None:
    async def refused() -> None:
        await anyio.sleep(0.01)
        raise Refused("the lag does not shrink")

    with pytest.raises(Refused, match="the lag does not shrink"):
        await read_beside(follow(Searches(RuntimeError("x"))), refused)
