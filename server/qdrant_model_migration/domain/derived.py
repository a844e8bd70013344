"""Is a stored vector the one that would be made of another? As far as the storage type keeps it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qdrant_model_migration.domain.nearest import lengths, unit
from qdrant_model_migration.domain.points import vector_problem
from qdrant_model_migration.errors import Refused

Vector = list[float]

TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
"""By how much a number of a unit vector may differ: rounding to the stored datatype, and sums taken in another order."""


def check_datatype(datatype: str) -> None:
    """Refuse a storage type that derived vectors do not survive.

    Raises:
        Refused: for uint8, which keeps whole numbers from 0 to 255 only.
    """
    if datatype not in TOLERANCE:
        raise Refused(
            f"Nothing was changed: vectors stored as {datatype} cannot be derived from others: rescaled or mapped numbers are fractions, and "
            f"{datatype} keeps whole numbers from 0 to 255. Store the new field as float32 or float16, or embed anew with strategy 'new_collection'."
        )


def same_derived(stored: Sequence[Vector | None], derived: Sequence[Vector | None], *, distance: str, datatype: str) -> list[bool]:
    """Whether each stored vector is the derived one, as far as the storage type keeps it. Neither there counts as the same.

    Under Cosine Qdrant keeps unit vectors, so directions are compared; else the vectors themselves, relative to the derived one's length.

    Raises:
        Refused: the storage type does not keep derived vectors.
    """
    check_datatype(datatype)
    found = [a is None and b is None for a, b in zip(stored, derived, strict=True)]
    places = [
        i for i, (a, b) in enumerate(zip(stored, derived, strict=True)) if b is not None and vector_problem(a, len(b)) is None and any(b)
    ]
    if not places:
        return found
    a = np.array([stored[i] for i in places], dtype=np.float32)
    b = np.array([derived[i] for i in places], dtype=np.float32)
    if distance == "Cosine":
        a, b = unit(a), unit(b)
    differences = np.abs(a - b).max(axis=1) / lengths(b)
    for i, difference in zip(places, differences, strict=True):
        found[i] = bool(difference <= TOLERANCE[datatype])
    return found
