"""What can be embedded without any download? Word forms: a lexical model for demos, dry runs and tests, and it says so.

`builtin:hashing-N` hashes lower-cased words and the character trigrams inside them into N signed buckets (16 to 4096).
`builtin:hashing-N-words` hashes the words alone: as large, another space, and worse at word forms, so that a demo can
compare two models of equal size. Every name has its own salt: no two of these spaces agree, whatever their sizes.

Feature hashing with signs: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning" (ICML 2009).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log, sqrt

import anyio
import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.model import ModelSpec, Side
from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.embedders.checks import check_answer, check_texts
from qdrant_model_migration.errors import NotFound

SMALLEST, LARGEST = 16, 4096
EXAMPLES = ("hashing-256", "hashing-256-words", "hashing-512")
NOTE = "lexical only: it compares word forms, not meaning; for demos and dry runs, never for production"

_NAME = re.compile(r"^hashing-(\d{1,5})(-words)?$")
_WORD = re.compile(r"\w+")
_TRIGRAM_SHARE = 0.7
"""Length of a word's trigram part beside its own bucket of length 1: other forms of a word stay near, other words far."""

_SLICE = 256
"""Texts hashed in one visit to a thread, so that a cancelled call ends soon."""


def is_builtin(model: str) -> bool:
    """Whether the name has the form of a built-in model; its size may still be out of range."""
    return _NAME.match(model.lower()) is not None


class HashingEmbedder:
    """Deterministic across processes and machines; needs no files, no memory to speak of, and no network.

    `name` is recorded in the spec where the model was configured under a name of its own.

    Raises:
        NotFound: no built-in model has this name.
    """

    def __init__(self, model: str, name: str | None = None) -> None:
        match = _NAME.match(model.lower())
        if match is None or not SMALLEST <= int(match[1]) <= LARGEST:
            raise NotFound(
                f"Nothing was loaded: there is no built-in model {model!r}. There are 'hashing-N' and 'hashing-N-words' "
                f"with N from {SMALLEST} to {LARGEST}, for example 'builtin:hashing-256'."
            )
        self._dimensions = int(match[1])
        self._has_trigrams = match[2] is None
        canonical = f"hashing-{self._dimensions}{match[2] or ''}"
        self._salt = blake2b(canonical.encode(), digest_size=16).digest()
        # Texts repeat their words: most of the hashing of a corpus is done once.
        self._word = lru_cache(maxsize=200_000)(self._hash_word)
        self._spec = ModelSpec(name=name or f"builtin:{canonical}", dimensions=self._dimensions, note=NOTE)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def batch_size(self) -> int:
        return 512

    async def embed(self, texts: Sequence[str], side: Side) -> Dense:
        """Unit vectors of shape (len(texts), dimensions), the same for both sides.

        Raises:
            BadText: a text is blank.
        """
        check_texts(texts, self._spec.name)
        found = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for start in range(0, len(texts), _SLICE):
            part = texts[start : start + _SLICE]
            found[start : start + len(part)] = await anyio.to_thread.run_sync(self._embed_all, part)
        return check_answer(found, len(texts), self._dimensions, self._spec.name)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words of each text; nothing is ever cut."""
        return await anyio.to_thread.run_sync(lambda: [len(_WORD.findall(text)) for text in texts])

    async def close(self) -> None:
        self._word.cache_clear()

    def _embed_all(self, texts: Sequence[str]) -> Dense:
        """All at once: what numpy costs a call is paid for many texts. Numbers are added in the order of the words, so a text's vector is always the same."""
        found: list[tuple[NDArray[np.intp], NDArray[np.float64]]] = []
        scales: list[float] = []
        words_of: list[int] = []
        for text in texts:
            counted = Counter(_WORD.findall(text.lower()))
            found += map(self._word, counted)
            # Sublinear term frequency: a word said ten times says little more than one said twice.
            scales += [1.0 if times == 1 else 1.0 + log(times) for times in counted.values()]
            words_of.append(len(counted))
        rows: NDArray[np.float64] = np.zeros((len(texts), self._dimensions))
        if found:
            sizes = np.array([len(buckets) for buckets, _ in found])
            text_of = np.repeat(np.repeat(np.arange(len(texts)), words_of), sizes)
            places = text_of * self._dimensions + np.concatenate([buckets for buckets, _ in found])
            weights = np.repeat(scales, sizes) * np.concatenate([weights for _, weights in found])
            rows = np.bincount(places, weights=weights, minlength=rows.size).astype(np.float64).reshape(rows.shape)
        return np.stack([self._unit(row, text) for row, text in zip(rows, texts, strict=True)])

    def _embed_one(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._embed_all([text])[0]
        return vector

    def _unit(self, vector: NDArray[np.float64], text: str) -> NDArray[np.float32]:
        if not vector.any():
            # Only punctuation or emoji, or features that cancelled each other: the raw characters are what is left.
            for character in text.strip():
                bucket, sign = self._bucket("raw", character)
                vector[bucket] += sign
        if not vector.any():
            vector[self._bucket("whole", text)[0]] = 1.0
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    def _hash_word(self, word: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Buckets and weights of a word and, unless this is the words-only model, of the trigrams of `<word>`."""
        found = [self._bucket("word", word)]
        if self._has_trigrams:
            padded = f"<{word}>"
            trigrams = [self._bucket("tri", padded[i : i + 3]) for i in range(len(padded) - 2)]
            weight = _TRIGRAM_SHARE / sqrt(len(trigrams))
            found += [(bucket, sign * weight) for bucket, sign in trigrams]
        return np.array([bucket for bucket, _ in found], dtype=np.intp), np.array([weight for _, weight in found])

    def _bucket(self, kind: str, feature: str) -> tuple[int, float]:
        # Lone surrogates are legal in JSON payloads and illegal in UTF-8.
        digest = blake2b(f"{kind}:{feature}".encode("utf-8", "surrogatepass"), digest_size=8, key=self._salt).digest()
        number = int.from_bytes(digest, "big")
        return (number >> 1) % self._dimensions, 1.0 if number & 1 else -1.0
