"""How are a target's vectors made from the source's own, without a model? A page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.domain.nearest import Rows
from qdrant_model_migration.domain.points import vector_problem
from qdrant_model_migration.domain.truncation import cut

Vector = list[float]


@dataclass(frozen=True, kw_only=True)
class Deriver:
    """Makes one field's vectors from another's: the first `dimensions` numbers, or by a map. Exactly one of the two is set.

    Work for the processor, of some ten milliseconds a page of 256: call it in a thread.
    """

    source_size: int
    dimensions: int | None = None
    map: LinearMap | None = None

    @classmethod
    def truncate(cls, source_size: int, dimensions: int) -> Deriver:
        """The deriver of a recipe 'truncate'.

        Raises:
            Refused: there are not so many dimensions.
        """
        cut(np.ones((1, source_size), dtype=np.float32), dimensions)
        return cls(source_size=source_size, dimensions=dimensions)

    @classmethod
    def linear_map(cls, found: LinearMap) -> Deriver:
        """The deriver of a recipe 'linear_map'."""
        return cls(source_size=found.dimensions[0], map=found)

    @property
    def target_size(self) -> int:
        """Dimensions of what is made."""
        if self.map is not None:
            return self.map.dimensions[1]
        assert self.dimensions is not None
        return self.dimensions

    def derive(self, vectors: Sequence[Vector | None]) -> list[Vector | None]:
        """A page of stored vectors to a page of new ones, in their order; None where no usable vector can be made (see `reason`)."""
        made: list[Vector | None] = [None] * len(vectors)
        places = [i for i, v in enumerate(vectors) if vector_problem(v, self.source_size) is None]
        if not places:
            return made
        rows = np.array([vectors[i] for i in places], dtype=np.float32)
        derived = self._rows(rows)
        for i, row in zip(places, derived, strict=True):
            if row.any() and np.isfinite(row).all():
                made[i] = row.tolist()
        return made

    def reason(self, vector: Vector | None) -> str:
        """Why nothing can be made of a vector for which `derive` gave None."""
        problem = vector_problem(vector, self.source_size)
        if problem is not None:
            return f"the source's vector cannot be used: {problem}"
        if self.map is None:
            return f"its first {self.dimensions} numbers are all zero"
        return "the map makes no finite vector other than zero of it"

    def _rows(self, rows: Rows) -> Rows:
        if self.map is not None:
            with np.errstate(all="ignore"):
                return self.map.apply(rows)
        assert self.dimensions is not None
        made, _ = cut(rows, self.dimensions)
        return made
