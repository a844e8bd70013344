"""Is what goes into a model, and what comes out of it, fit to be stored? Shared by every provider."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.embedders.base import Dense
from qdrant_model_migration.errors import BadText, ModelNotUsable

PROBE = "The quick brown fox jumps over the lazy dog."
"""A sound text: a model that cannot embed it is itself at fault, not the texts."""

Raw = Callable[[list[str]], Awaitable[Dense]]
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


async def blame(error: BadText, raw: Raw, probe: str, model: str) -> BadText | ModelNotUsable:
    """Who is at fault when a call got no usable vector: these texts, or the model, which then fails a sound text as well?"""
    try:
        await raw([probe])
    except BadText:
        return ModelNotUsable(f"Model {model!r} no longer gives a usable vector for any text, not even for its own probe.")
    return error
