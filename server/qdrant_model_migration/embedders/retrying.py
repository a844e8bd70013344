"""How are texts embedded when providers are busy, requests too large and single texts poison?

Transient failures are waited out, requests that are too large are halved, and a refused request is bisected down to the
texts at fault, which are reported while all others succeed. The bookkeeping is pure; `embed_resilient` asks and waits.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import anyio

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.base import AnyEmbedder, Embedder, Multivector, MultivectorEmbedder, Row, SparseEmbedder, SparseVector
from qdrant_model_migration.errors import BadText, BatchTooLarge, Interrupted, MigrationError, TransientEmbedding

R = TypeVar("R")

ATTEMPTS = 6
"""Tries of one request. The waits between them add up to about a minute, which outlives a provider's hiccup."""

LONGEST_WAIT_S = 120.0
"""A provider that asks for more than this is not having a hiccup: the driver stops, nothing is lost, and it resumes later."""

_FIRST_WAIT_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_LOOK_S = 0.2
"""How often `should_stop` is asked while a request or a wait goes on."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A text that cannot be embedded. `reason` is fit for a person and holds no payload text."""

    index: int
    reason: str


def retry_wait_s(attempt: int, retry_after_s: float | None, jitter: float) -> float | None:
    """Seconds to wait after the given failed attempt (from 1); None when it is time to give up.

    Args:
        attempt: How many tries have failed so far.
        retry_after_s: What the provider asked for. It is a lower bound; the jitter comes on top, so that
            workers which were turned away together do not return together.
        jitter: In [0, 1).
    """
    if attempt >= ATTEMPTS:
        return None
    if retry_after_s is not None:
        return retry_after_s + jitter if retry_after_s <= LONGEST_WAIT_S else None
    backoff: float = min(_LONGEST_BACKOFF_S, _FIRST_WAIT_S * 2 ** (attempt - 1))
    # "Equal jitter": half is certain, so that a wait is never nothing.
    return backoff * (0.5 + 0.5 * jitter)


class Work(Generic[R]):
    """What is still to be embedded, as spans of positions; what was, as rows (vectors of any kind); what cannot be, as failures."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.rows: list[R | None] = [None] * count
        self.failures: list[Failure] = []
        self._spans = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)][::-1]
        self._largest: int | None = None

    def next_span(self) -> range | None:
        """The next request; every position is in exactly one span, row or failure at any time. None: all is done."""
        if not self._spans:
            return None
        span = self._spans.pop()
        if self._largest is not None and len(span) > self._largest:
            self._push(span, self._largest)
            span = self._spans.pop()
        return span

    def succeeded(self, span: range, vectors: Iterable[R]) -> None:
        for position, row in zip(span, vectors, strict=True):
            self.rows[position] = row

    def too_large(self, span: range, reason: str) -> None:
        """Halve it, and learn: no later span is sent that is as long as this one."""
        if len(span) == 1:
            self._fail(span[0], reason)
            return
        half = (len(span) + 1) // 2
        self._largest = half if self._largest is None else min(half, self._largest)
        self._push(span, half)

    def refused(self, span: range, reason: str) -> None:
        """Halve it; a span of one is the poison itself."""
        if len(span) == 1:
            self._fail(span[0], reason)
        else:
            self._push(span, (len(span) + 1) // 2)

    def _fail(self, position: int, reason: str) -> None:
        self.failures.append(Failure(index=position, reason=reason))

    def _push(self, span: range, size: int) -> None:
        """Put it back in pieces, so that the first piece comes next."""
        self._spans += [span[start : start + size] for start in range(0, len(span), size)][::-1]


@overload
async def embed_resilient(
    embedder: Embedder,
    texts: Sequence[str],
    side: Side,
    *,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = ...,
    jitter: Callable[[], float] = ...,
) -> tuple[list[Row | None], list[Failure]]: ...


@overload
async def embed_resilient(
    embedder: SparseEmbedder,
    texts: Sequence[str],
    side: Side,
    *,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = ...,
    jitter: Callable[[], float] = ...,
) -> tuple[list[SparseVector | None], list[Failure]]: ...


@overload
async def embed_resilient(
    embedder: MultivectorEmbedder,
    texts: Sequence[str],
    side: Side,
    *,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = ...,
    jitter: Callable[[], float] = ...,
) -> tuple[list[Multivector | None], list[Failure]]: ...


@overload
async def embed_resilient(
    embedder: AnyEmbedder,
    texts: Sequence[str],
    side: Side,
    *,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = ...,
    jitter: Callable[[], float] = ...,
) -> tuple[list[Any | None], list[Failure]]: ...


async def embed_resilient(
    embedder: AnyEmbedder,
    texts: Sequence[str],
    side: Side,
    *,
    should_stop: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    jitter: Callable[[], float] = random.random,
) -> tuple[list[Any], list[Failure]]:
    """Embed every text that can be embedded; each distinct text once.

    Returns:
        One vector a text, None where it failed: an array of shape (dimensions,), a SparseVector, or an array of shape
        (tokens, dimensions); and the failures, ordered by index. Equal texts share one vector: do not write into it.

    Raises:
        TransientEmbedding: the provider went on failing after the bounded tries, or asks for a wait of minutes.
        ModelNotUsable: the model itself is at fault.
        Interrupted: `should_stop` became true; what was embedded in this call is lost, nothing was written.
    """
    distinct = list(dict.fromkeys(texts))
    work: Work[Any] = Work(len(distinct), embedder.batch_size)
    failed: list[MigrationError] = []
    stopped = False

    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal stopped
            while not should_stop():  # noqa: ASYNC110 - asks the caller's own question; there is no event to wait for
                await anyio.sleep(_LOOK_S)
            stopped = True
            group.cancel_scope.cancel()

        if should_stop():
            stopped = True
        else:
            group.start_soon(watch)
            try:
                await _work_off(work, embedder, distinct, side, sleep, jitter)
            except MigrationError as error:
                # Raised outside: a task group would wrap it.
                failed.append(error)
            group.cancel_scope.cancel()

    if failed:
        raise failed[0]
    if stopped:
        raise Interrupted(
            "Embedding was interrupted: the driver was asked to stop. What is written stays; the rest is continued on resume."
        )
    return _spread(work, distinct, texts)


async def _work_off(
    work: Work[Any],
    embedder: AnyEmbedder,
    texts: Sequence[str],
    side: Side,
    sleep: Callable[[float], Awaitable[None]],
    jitter: Callable[[], float],
) -> None:
    attempt = 0
    span = work.next_span()
    while span is not None:
        try:
            vectors = await embedder.embed([texts[i] for i in span], side)
        except TransientEmbedding as error:
            attempt += 1
            wait_s = retry_wait_s(attempt, error.retry_after_s, jitter())
            if wait_s is None:
                asked = f" It asks to wait {error.retry_after_s:.0f} s." if error.retry_after_s else ""
                raise TransientEmbedding(f"{error}{asked} Given up after {attempt} {_tries(attempt)}.", error.retry_after_s) from None
            await sleep(wait_s)
            continue
        except BatchTooLarge as error:
            work.too_large(span, str(error))
        except BadText as error:
            work.refused(span, str(error))
        else:
            work.succeeded(span, vectors)
        attempt = 0
        span = work.next_span()


def _spread(work: Work[R], distinct: Sequence[str], texts: Sequence[str]) -> tuple[list[R | None], list[Failure]]:
    """From distinct texts back to all texts: every copy of a poison text is a failure of its own."""
    position = {text: i for i, text in enumerate(distinct)}
    reasons = {failure.index: failure.reason for failure in work.failures}
    rows: list[R | None] = []
    failures: list[Failure] = []
    for index, text in enumerate(texts):
        at = position[text]
        rows.append(work.rows[at])
        if at in reasons:
            failures.append(Failure(index=index, reason=reasons[at]))
    return rows, failures


def _tries(count: int) -> str:
    return "try" if count == 1 else "tries"
