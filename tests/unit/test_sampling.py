"""Does timing a model end in time, whatever the model does; and do two calls get one outcome?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import BatchTooLarge
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.new_model import timed
from qdrant_model_migration.operations.requests import LocalOperations, Report
from qdrant_model_migration.operations.sampling import time_model


class Provider:
    """An endpoint that takes so many texts at a time, or never answers."""

    def __init__(self, most: int, *, hangs: bool = False) -> None:
        self.spec = ModelSpec(name="custom:e", dimensions=2)
        self.batch_size = 64
        self.asked: list[int] = []
        self._most = most
        self._hangs = hangs

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        if self._hangs:
            await anyio.sleep_forever()
        self.asked.append(len(texts))
        if len(texts) > self._most:
            raise BatchTooLarge("too many tokens in one request")
        return np.ones((len(texts), 2), dtype=np.float32)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        return None

    async def close(self) -> None: ...


async def test_requests_that_are_too_large_are_halved_while_a_model_is_timed() -> None:
    """A backfill halves them too: they are no reason to refuse the advice."""
    provider = Provider(most=5)
    found = await time_model(provider, ["text"] * 40)
    assert found.texts == 38  # the first two warm it up
    assert found.texts_per_second is not None
    assert [n for n in provider.asked if n > 5] == [8]


async def test_a_provider_that_does_not_answer_is_given_up() -> None:
    warnings: list[str] = []
    with anyio.fail_after(5):
        assert await timed(Provider(1, hangs=True), ["text"], warnings, within_s=0) is None
    assert len(warnings) == 1
    assert "'custom:e' did not embed the first texts within the time of this call" in warnings[0]


async def test_two_calls_that_wait_for_one_operation_both_get_its_outcome() -> None:
    begun = anyio.Event()
    outcomes: list[Any] = []

    async def act(report: Report) -> str:
        await begun.wait()
        return "found"

    async with OperationContext(read_settings()) as context:
        local = LocalOperations()

        async def call() -> None:
            outcomes.append(await local.carry_out(context, "compare-1", act))

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                begun.set()
    assert outcomes == ["found", "found"]
