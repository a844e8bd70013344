"""How is a loaded FastEmbed model of any kind run?

Several calls at once, each in a worker thread that takes one core. Small batches of similar length are fastest and stay small in
memory. Vectors of dynamically quantized models depend on their batch-mates (fact 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from anyio import CapacityLimiter, create_task_group, to_thread

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders.batch_sizes import SIZES, BatchSizes
from qdrant_model_migration.embedders.checks import PROBE, blame, check_texts
from qdrant_model_migration.embedders.cores import Room, calls_at_once
from qdrant_model_migration.embedders.fastembed_loading import first_line, model_errors
from qdrant_model_migration.errors import BadText, BatchTooLarge, ModelNotUsable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

R = TypeVar("R")

_ROUNDING = 1e-4
"""Of a vector's numbers; dynamic quantization differs by a hundred times as much (fact 1)."""

_WINDOW = 256
"""Texts sorted by length together: 512 gains 2 % more."""

BATCH_CHARACTERS = 16_000
"""Padded characters in one batch, about 4,000 tokens: eight texts of 8,192 tokens would need tens of gigabytes."""

_CALLS_CHARACTERS = 2 * BATCH_CHARACTERS
"""In all calls at once, which is what bounds the memory of a machine with many cores."""


class FastEmbedModel(Generic[R]):
    """One loaded model whose vector of a text is an R. Its kinds differ in what they make of the rows, and in `_check`.

    Args:
        model: The object of FastEmbed's facade: TextEmbedding, SparseTextEmbedding or LateInteractionTextEmbedding.
        sizes: Texts in one call of FastEmbed.
        batch_characters: Bound of the padded characters in one call.
    """

    def __init__(self, spec: ModelSpec, model: Any, sizes: BatchSizes, batch_characters: int = BATCH_CHARACTERS) -> None:
        self._spec = spec
        self._model = model
        self._sizes = sizes
        self._batch_characters = batch_characters
        self._calls = calls_at_once()
        self._limiter = CapacityLimiter(self._calls)
        self._room = Room(max(_CALLS_CHARACTERS, batch_characters))
        self._counter: Tokenizer | None = None
        self._is_company_known = False

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return _WINDOW

    async def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text as a document: prefix and special tokens included, nothing cut."""
        if self._model is None:
            return None
        if self._counter is None:
            self._counter = await to_thread.run_sync(_untruncated, self._model.model.tokenizer)
        counter = self._counter
        ready = [self._spec.document_prefix + text for text in texts]
        encodings = await to_thread.run_sync(counter.encode_batch_fast, ready)
        return [len(encoding.ids) for encoding in encodings]

    async def close(self) -> None:
        self._model = None
        self._counter = None

    def _check(self, vectors: list[Any], count: int) -> Sequence[R]:
        """The model's answer, as fit to be stored.

        Raises:
            ModelNotUsable, BadText: as checks.py has it.
        """
        raise NotImplementedError

    async def _rows(self, texts: Sequence[str], side: Side) -> list[R]:
        """One vector a text, in the order of the texts.

        Raises:
            BadText: a text is blank, or the model fails on it.
            BatchTooLarge: there was not enough memory for so many texts at once.
            ModelNotUsable: the model fails on any text, or was closed.
        """
        check_texts(texts, self._spec.name)
        prefix = self._prefix(side)
        ready = [prefix + text for text in texts]
        found: dict[int, R] = {}
        # What is cut off costs nothing; six characters a token is more than any common language has.
        longest = 6 * (self._spec.max_tokens or 10**6)
        lengths = [min(len(text), longest) for text in ready]
        if self._sizes.chosen is None and not self._is_company_known and len(ready) >= sum(SIZES):
            await self._learn_of_company(ready, lengths, side)
        trial = self._sizes.window(lengths, self._batch_characters, self._calls)
        groups = batches(lengths, trial.size, self._batch_characters)
        failures: list[BadText | BatchTooLarge | ModelNotUsable] = []

        async def embed() -> None:
            # One visit to the thread a batch: a cancelled call ends with its batch, not with its last text.
            for batch in groups:
                took = partial(trial.took, trial.turn, len(batch), sum(lengths[i] for i in batch))
                try:
                    async with self._room.taken(len(batch) * lengths[batch[0]]):
                        found.update(zip(batch, await self._run([ready[i] for i in batch], side, took), strict=True))
                except (BadText, BatchTooLarge, ModelNotUsable) as error:
                    failures.append(error)
                    group.cancel_scope.cancel()

        async with create_task_group() as group:
            for _ in range(self._calls):
                group.start_soon(embed)
        if failures and isinstance(failures[0], BadText):
            raise await blame(failures[0], partial(self._run, side=side), prefix + PROBE, self._spec.name) from None
        if failures:
            raise failures[0]
        return [found[i] for i in range(len(ready))]

    async def _learn_of_company(self, ready: list[str], lengths: list[int], side: Side) -> None:
        """Keep the usual size where a text's vector depends on its batch-mates: the larger the spread of batches, the less provenance proves."""
        short, long = min(range(len(ready)), key=lengths.__getitem__), max(range(len(ready)), key=lengths.__getitem__)
        try:
            alone, *_ = await self._run([ready[short]], side)
            beside, *_ = await self._run([ready[short], ready[long]], side)
        except (BadText, BatchTooLarge):
            # Told when their turn comes.
            return
        self._is_company_known = True
        if not _are_same(alone, beside):
            self._sizes.chosen = self._sizes.best

    async def _run(self, texts: list[str], side: Side, took: Callable[[float], None] = lambda _: None) -> Sequence[R]:
        """The model's vectors of so few texts; `took` hears the seconds that they cost, waiting for others left out."""
        model = self._model
        if model is None:
            raise ModelNotUsable(f"Model {self._spec.name!r} was closed.")
        call = model.query_embed if side is Side.QUERY else model.passage_embed
        try:
            vectors, seconds = await to_thread.run_sync(_consume, call, texts, limiter=self._limiter)
        except model_errors() as error:
            # onnxruntime tells memory from arguments only in words.
            if len(texts) > 1 and (isinstance(error, MemoryError) or "allocate" in str(error).lower()):
                raise BatchTooLarge(f"There is not enough memory to embed {len(texts)} texts at once with {self._spec.name!r}.") from None
            raise BadText(f"Model {self._spec.name!r} failed on {_texts(len(texts))} ({first_line(error)}).") from None
        took(seconds)
        return self._check(vectors, len(texts))

    async def _probe(self) -> R:
        """The vector of a sound text, of which a broken model fails; the model is closed then.

        Raises:
            ModelNotUsable: there is none.
        """
        try:
            (found,) = await self._run([self._spec.document_prefix + PROBE], Side.DOCUMENT)
        except BadText as error:
            await self.close()
            raise ModelNotUsable(f"Model {self._spec.name!r} was loaded, but cannot embed even a sound text: {error}") from None
        return found

    def _prefix(self, side: Side) -> str:
        return self._spec.query_prefix if side is Side.QUERY else self._spec.document_prefix


def batches(lengths: Sequence[int], size: Callable[[], int], total: int) -> Iterator[list[int]]:
    """Positions, longest texts first, in groups of at most `size()` texts and `total` padded length, at least one text each."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        # Sorted: the first text is the longest, to whose length the others are padded.
        fitting = max(1, min(size(), total // max(1, lengths[order[start]])))
        yield order[start : start + fitting]
        start += fitting


def limit_tokens(tokenizer: Tokenizer, wanted: int | None) -> int | None:
    """Where texts are cut; a smaller configured limit is put into force, a larger one could exceed the model's positions."""
    truncation = tokenizer.truncation
    limit = int(truncation["max_length"]) if truncation else None
    if wanted is None or (limit is not None and wanted >= limit):
        return limit
    tokenizer.enable_truncation(max_length=wanted, direction=(truncation or {}).get("direction", "right"))
    return wanted


def _consume(call: Callable[..., Iterable[Any]], texts: list[str]) -> tuple[list[Any], float]:
    began = time.perf_counter()
    # FastEmbed's answers are lazy: the work, and its errors, come with consumption.
    return list(call(texts, batch_size=len(texts))), time.perf_counter() - began


def _untruncated(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that counts everything; switching truncation off on the model's own tokenizer would change its vectors."""
    from tokenizers import Tokenizer as Fresh

    copy = Fresh.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _are_same(a: Any, b: Any) -> bool:
    """Whether two vectors of any kind differ by rounding at most."""
    if isinstance(a, dict):
        return bool(a["indices"] == b["indices"] and np.allclose(a["values"], b["values"], atol=_ROUNDING))
    return np.shape(a) == np.shape(b) and np.allclose(a, b, atol=_ROUNDING)


def _texts(count: int) -> str:
    return "a text" if count == 1 else f"{count} texts"
