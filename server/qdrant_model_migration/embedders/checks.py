"""Is what goes into a model, and what comes out of it, fit to be stored? Shared by every provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.embedders.base import Dense, Multivector, SparseVector
from qdrant_model_migration.errors import BadText, ModelNotUsable

PROBE = "The quick brown fox jumps over the lazy dog."
"""A sound text: a model that cannot embed it is itself at fault, not the texts."""

LARGEST_INDEX = 2**32 - 1
"""Qdrant keeps the indices of sparse vectors in 32 bits without a sign."""

Raw = Callable[[list[str]], Awaitable[object]]
"""Embeds texts, prefixes already in place; its answer is checked already but for the probe's verdict."""


def check_texts(texts: Sequence[object], model: str) -> None:
    """Refuse what a model would turn into a harmless-looking vector (blanks) or stumble over later (None, numbers).

    Raises:
        BadText: the message gives the position of the first such text and how many there are.
    """
    bad = [i for i, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if not bad:
        return
    first = texts[bad[0]]
    what = "is blank" if isinstance(first, str) else f"is of type {type(first).__name__}, not text"
    more = f" ({len(bad)} of {len(texts)} texts cannot be embedded)" if len(texts) > 1 else ""
    raise BadText(f"Text {bad[0]} {what}{more}; {model!r} was not asked.")


def check_answer(vectors: Any, count: int, dimensions: int | None, model: str) -> Dense:
    """The answer as float32 of shape (count, dimensions); without `dimensions` any size will do.

    Raises:
        ModelNotUsable: another number of vectors, or vectors of another or of varying size.
        BadText: a vector holds NaN or infinity, or has no length, so that it could not be found by cosine.
    """
    try:
        found: NDArray[np.float64] = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError):
        raise ModelNotUsable(f"Model {model!r} answered with vectors of varying size or with something that is not a number.") from None
    if found.ndim and len(found) != count:
        raise ModelNotUsable(f"Model {model!r} answered {count} texts with {len(found)} vectors; nothing of it was used.")
    if found.ndim != 2 or found.shape[1] == 0:
        raise ModelNotUsable(f"Model {model!r} answered with an array of shape {found.shape}, not one vector a text.")
    if dimensions is not None and found.shape[1] != dimensions:
        raise ModelNotUsable(f"Model {model!r} answered with {found.shape[1]} dimensions; it had {dimensions} when it was loaded.")
    with np.errstate(over="ignore"):
        rows = found.astype(np.float32)
    is_good = np.isfinite(rows).all(axis=1) & rows.any(axis=1)
    if not is_good.all():
        raise BadText(
            f"{int((~is_good).sum())} of {count} texts got a vector from {model!r} that is zero or not finite "
            f"(the first is text {int(np.argmin(is_good))})."
        )
    return rows


def check_sparse(pairs: Iterable[tuple[Any, Any]], count: int, model: str) -> list[SparseVector]:
    """The answer, given as (indices, values) of each text, as sparse vectors: indices ascending, values rounded to float32 as stored.

    A vector may be empty: nothing of a text may count.

    Raises:
        ModelNotUsable: another number of vectors, or indices that no sparse vector may have.
        BadText: a value is not finite.
    """
    found: list[SparseVector] = []
    bad: list[int] = []
    for position, (indices, values) in enumerate(pairs):
        at, weights = np.asarray(indices), np.asarray(values, dtype=np.float32)
        if at.ndim != 1 or at.shape != weights.shape:
            raise ModelNotUsable(f"Model {model!r} answered with {at.size} indices and {weights.size} values for one text.")
        if at.size and (at.dtype.kind not in "iu" or at.min() < 0 or at.max() > LARGEST_INDEX or len(np.unique(at)) != at.size):
            raise ModelNotUsable(f"Model {model!r} answered with indices that repeat, or that are no integers from 0 to {LARGEST_INDEX}.")
        if not np.isfinite(weights).all():
            bad.append(position)
        order = np.argsort(at)
        found.append({"indices": at[order].tolist() if at.size else [], "values": weights[order].tolist()})
    if len(found) != count:
        raise ModelNotUsable(f"Model {model!r} answered {count} texts with {len(found)} vectors; nothing of it was used.")
    if bad:
        raise BadText(f"{len(bad)} of {count} texts got a value from {model!r} that is not finite (the first is text {bad[0]}).")
    return found


def check_multivectors(vectors: Sequence[Any], count: int, dimensions: int | None, model: str) -> list[Multivector]:
    """The answer as float32 arrays of shape (tokens, dimensions); without `dimensions` any width will do, but one for all.

    Raises:
        ModelNotUsable: another number of answers, or rows of another or of varying width.
        BadText: a text got no row, or one that is zero or not finite.
    """
    if len(vectors) != count:
        raise ModelNotUsable(f"Model {model!r} answered {count} texts with {len(vectors)} multivectors; nothing of it was used.")
    found: list[Multivector] = []
    for vector in vectors:
        try:
            rows = np.array(vector, dtype=np.float32)
        except (TypeError, ValueError):
            raise ModelNotUsable(f"Model {model!r} answered with rows of varying width or with something that is not a number.") from None
        if rows.ndim != 2 or rows.shape[1] == 0:
            raise ModelNotUsable(f"Model {model!r} answered with an array of shape {rows.shape}, not one vector a token.")
        found.append(rows)
    widths = {rows.shape[1] for rows in found}
    if len(widths) > 1 or (dimensions is not None and widths - {dimensions}):
        had = "" if dimensions is None else f"; it had {dimensions} when it was loaded"
        raise ModelNotUsable(f"Model {model!r} answered with vectors of {' and '.join(map(str, sorted(widths)))} dimensions{had}.")
    bad = [i for i, rows in enumerate(found) if not len(rows) or not (np.isfinite(rows).all() and rows.any(axis=1).all())]
    if bad:
        raise BadText(
            f"{len(bad)} of {count} texts got no row from {model!r}, or one that is zero or not finite (the first is text {bad[0]})."
        )
    return found


async def blame(error: BadText, raw: Raw, probe: str, model: str) -> BadText | ModelNotUsable:
    """Who is at fault when a call got no usable vector: these texts, or the model, which then fails a sound text as well?"""
    try:
        await raw([probe])
    except BadText:
        return ModelNotUsable(f"Model {model!r} no longer gives a usable vector for any text, not even for its own probe.")
    return error
