"""How does a linear map travel in records of bounded size? Rows as base64 of little-endian float32, and an index that tells when it is whole."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.domain.nearest import Rows
from qdrant_model_migration.errors import MigrationError

PART_BYTES = 1_500_000
"""Raw bytes a part: base64 makes 2 MB of them, far below every request limit met so far."""


class MapPart(BaseModel):
    """Some consecutive rows; the offset is the last row of the last part."""

    model_config = ConfigDict(frozen=True)

    rows: int
    data: str
    """Base64 of (rows, d_new) float32, little-endian."""


class MapIndex(BaseModel):
    """Written after all parts: a map without an index is not there."""

    model_config = ConfigDict(frozen=True)

    digest: str
    kind: Literal["procrustes", "ridge"]
    normalizes: bool
    dimensions: tuple[int, int]
    parts: int


def disassembled(found: LinearMap, *, part_bytes: int = PART_BYTES) -> tuple[MapIndex, list[MapPart]]:
    """The records of a map."""
    rows = np.concatenate([found.matrix, found.offset[None, :]]).astype("<f4")
    step = max(1, part_bytes // (4 * rows.shape[1]))
    blocks = [rows[start : start + step] for start in range(0, len(rows), step)]
    parts = [MapPart(rows=len(block), data=base64.b64encode(block.tobytes()).decode()) for block in blocks]
    index = MapIndex(digest=found.digest, kind=found.kind, normalizes=found.normalizes, dimensions=found.dimensions, parts=len(parts))
    return index, parts


def assembled(index: MapIndex, parts: Sequence[MapPart | None]) -> LinearMap:
    """The map of these records.

    Raises:
        MigrationError: parts are missing or not those that were written.
    """
    size, width = index.dimensions
    missing = sum(part is None for part in parts)
    there = [_rows(part, width) for part in parts if part is not None]
    whole = np.concatenate(there) if there else np.zeros((0, width), dtype=np.float32)
    if not missing and whole.shape == (size + 1, width):
        found = LinearMap(matrix=whole[:-1], offset=whole[-1], normalizes=index.normalizes, kind=index.kind)
        if found.digest == index.digest:
            return found
    why = f"{missing} of {index.parts} parts are missing" if missing else f"its {index.parts} parts do not give the digest {index.digest}"
    raise MigrationError(
        f"The linear map kept in the ledger is damaged: {why}. Nothing was written: without the very same map the vectors written so far cannot "
        "be told from wrong ones. Discard this migration (finish_migration with action='discard_new') and create it again."
    )


def _rows(part: MapPart, width: int) -> Rows:
    data = base64.b64decode(part.data)
    if len(data) != 4 * part.rows * width:
        return np.zeros((0, width), dtype=np.float32)
    return np.frombuffer(data, dtype="<f4").reshape(part.rows, width).astype(np.float32)
