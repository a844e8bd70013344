"""Embedding that survives busy providers, requests that are too large, and poison texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import anyio
import numpy as np
import pytest

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.embedders.builtin import HashingEmbedder
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.errors import BadText, BatchTooLarge, Interrupted, ModelNotUsable, TransientEmbedding


class Moody:
    """The built-in model behind a gate that may refuse: no network, the protocol's own errors."""

    def __init__(self, gate: Callable[[Sequence[str]], None] = lambda texts: None, batch_size: int = 64) -> None:
        self._model = HashingEmbedder("hashing-32")
        self._gate = gate
        self._batch_size = batch_size
        self.asked: list[list[str]] = []

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    @property
    def batch_size(self) -> int:
        return self._batch_size

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        self.asked.append(list(texts))
        self._gate(texts)
        return await self._model.embed(texts, side)

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        return await self._model.count_tokens(texts)

    async def close(self) -> None:
        await self._model.close()


def never() -> bool:
    return False


class Sleeps:
    """Takes the place of sleeping, and remembers how long it would have been."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_every_text_gets_its_row_and_equal_texts_are_embedded_once() -> None:
    texts = ["a", "b", "a", "c", "b"]
    model = Moody()
    rows, failures = await embed_resilient(model, texts, Side.DOCUMENT, should_stop=never)
    expected = await HashingEmbedder("hashing-32").embed(texts, Side.DOCUMENT)
    assert not failures
    assert all(row is not None and np.array_equal(row, one) for row, one in zip(rows, expected, strict=True))
    assert model.asked == [["a", "b", "c"]]


@pytest.mark.anyio
async def test_nothing_to_do_asks_nothing() -> None:
    model = Moody()
    assert await embed_resilient(model, [], Side.QUERY, should_stop=never) == ([], [])
    assert model.asked == []


@pytest.mark.anyio
async def test_poison_texts_are_reported_at_every_place_and_the_others_succeed() -> None:
    def refuse(texts: Sequence[str]) -> None:
        if any("poison" in text for text in texts):
            raise BadText("refused")

    texts = [f"text {i}" for i in range(20)] + ["poison 1", "poison 2", "poison 1"]
    rows, failures = await embed_resilient(Moody(refuse), texts, Side.DOCUMENT, should_stop=never)
    assert [failure.index for failure in failures] == [20, 21, 22]
    assert [row is None for row in rows] == [False] * 20 + [True] * 3


@pytest.mark.anyio
async def test_a_blank_text_is_a_failure_and_not_an_end() -> None:
    rows, failures = await embed_resilient(Moody(), ["a", " ", "b"], Side.DOCUMENT, should_stop=never)
    assert [failure.index for failure in failures] == [1]
    assert "is blank" in failures[0].reason
    assert rows[0] is not None
    assert rows[2] is not None


@pytest.mark.anyio
async def test_requests_that_are_too_large_are_halved_once_and_for_all() -> None:
    def refuse(texts: Sequence[str]) -> None:
        if len(texts) > 5:
            raise BatchTooLarge("too large")

    model = Moody(refuse, batch_size=16)
    rows, failures = await embed_resilient(model, [str(i) for i in range(48)], Side.DOCUMENT, should_stop=never)
    assert not failures
    assert all(row is not None for row in rows)
    assert [len(asked) for asked in model.asked if len(asked) > 5] == [16, 8]


def _fails(times: Iterator[TransientEmbedding | None]) -> Callable[[Sequence[str]], None]:
    def gate(_: Sequence[str]) -> None:
        error = next(times, None)
        if error is not None:
            raise error

    return gate


@pytest.mark.anyio
async def test_transient_failures_are_waited_out_as_the_provider_asks() -> None:
    sleeps = Sleeps()
    model = Moody(_fails(iter([TransientEmbedding("busy", 9.0), TransientEmbedding("busy"), None])))
    rows, failures = await embed_resilient(model, ["a"], Side.DOCUMENT, should_stop=never, sleep=sleeps, jitter=lambda: 0.5)
    assert rows[0] is not None
    assert not failures
    assert sleeps.waits == [9.5, 1.5]


@pytest.mark.anyio
async def test_a_success_starts_the_count_of_tries_anew() -> None:
    moods = [TransientEmbedding("busy"), TransientEmbedding("busy"), TransientEmbedding("busy"), None] * 4
    sleeps = Sleeps()
    rows, _ = await embed_resilient(
        Moody(_fails(iter(moods)), batch_size=1), list("abcd"), Side.DOCUMENT, should_stop=never, sleep=sleeps, jitter=lambda: 0.0
    )
    assert all(row is not None for row in rows)
    assert sleeps.waits == [0.5, 1.0, 2.0] * 4


@pytest.mark.anyio
async def test_endless_failure_is_given_up_after_bounded_tries() -> None:
    def busy(_: Sequence[str]) -> None:
        raise TransientEmbedding("The provider is busy.")

    model = Moody(busy)
    with pytest.raises(TransientEmbedding, match="Given up after 6 tries"):
        await embed_resilient(model, ["a"], Side.DOCUMENT, should_stop=never, sleep=Sleeps())
    assert len(model.asked) == 6


@pytest.mark.anyio
async def test_a_wait_of_an_hour_is_not_waited() -> None:
    sleeps = Sleeps()
    with pytest.raises(TransientEmbedding, match="asks to wait 3600 s") as caught:
        await embed_resilient(
            Moody(_fails(iter([TransientEmbedding("busy.", 3600)]))), ["a"], Side.DOCUMENT, should_stop=never, sleep=sleeps
        )
    assert caught.value.retry_after_s == 3600
    assert sleeps.waits == []


@pytest.mark.anyio
async def test_an_unusable_model_ends_it_at_once() -> None:
    def gone(_: Sequence[str]) -> None:
        raise ModelNotUsable("gone")

    model = Moody(gone)
    with pytest.raises(ModelNotUsable):
        await embed_resilient(model, ["a", "b"], Side.DOCUMENT, should_stop=never)
    assert len(model.asked) == 1


@pytest.mark.anyio
async def test_a_stop_ends_a_long_wait() -> None:
    asked = anyio.Event()

    def busy(_: Sequence[str]) -> None:
        asked.set()
        raise TransientEmbedding("busy", 100)

    with anyio.fail_after(5), pytest.raises(Interrupted):
        await embed_resilient(Moody(busy), ["a"], Side.DOCUMENT, should_stop=asked.is_set)


@pytest.mark.anyio
async def test_a_stop_that_was_asked_before_asks_nothing() -> None:
    model = Moody()
    with pytest.raises(Interrupted):
        await embed_resilient(model, ["a"], Side.DOCUMENT, should_stop=lambda: True)
    assert model.asked == []
