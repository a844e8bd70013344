"""What becomes of the others when one of several workers ends?"""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qdrant_model_migration.errors import Interrupted, MigrationError, Refused
from qdrant_model_migration.operations.in_parallel import handed_out


async def draw(send: MemoryObjectSendStream[int], *, items: int) -> None:
    async with send:
        for item in range(items):
            await send.send(item)


async def run(endings: list[MigrationError | None], *, items: int = 10, ends_by_itself: bool = True) -> list[int]:
    """Workers that take one item each, end with what is stated for it, the first at once and each a moment after the one before; those that came to their end."""
    ended: list[int] = []

    async def work(receive: MemoryObjectReceiveStream[int]) -> None:
        async with receive:
            item = await receive.receive()
            await anyio.sleep(0.02 * item)
            ended.append(item)
            if (error := endings[item]) is not None:
                raise error

    try:
        with anyio.fail_after(5):
            await handed_out(partial(draw, items=items), work, ahead=1, workers=len(endings), ends_by_itself=ends_by_itself)
    except MigrationError as error:
        error.add_note(str(ended))
        raise
    return ended


async def test_who_is_asked_to_stop_cuts_off_nobody() -> None:
    with pytest.raises(Interrupted) as stopped:
        await run([Interrupted("asked"), None, Interrupted("asked")])
    assert stopped.value.__notes__ == ["[0, 1, 2]"]


async def test_others_that_cannot_end_by_themselves_are_cut_off() -> None:
    with pytest.raises(Interrupted) as stopped:
        await run([Interrupted("asked"), None, None], ends_by_itself=False)
    assert stopped.value.__notes__ == ["[0]"]


async def test_a_failure_is_not_hidden_by_a_stop_and_ends_all() -> None:
    with pytest.raises(Refused, match="too many") as failed:
        await run([Interrupted("asked"), Refused("too many"), None])
    assert failed.value.__notes__ == ["[0, 1]"]
