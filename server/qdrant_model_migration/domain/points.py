"""How are points named, ordered and compared? Qdrant's own order: integers ascending, then UUIDs ascending."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qdrant_model_migration.errors import Refused

PointId = int | str
"""Unsigned 64-bit integer, or a UUID in its hyphenated lower-case form."""

Payload = dict[str, Any]

ShardKey = str | int
"""Of a collection with custom sharding; 7 and "7" are two keys."""

FLOAT_TOLERANCE = 2e-15
"""Relative. Qdrant keeps payloads as JSON, and its parser is off by up to two units in the last place for some numbers of 17 digits."""


def tag(point_id: PointId) -> str:
    """`i:42` or `u:…`: hosts round integers above 2^53, so ids travel as strings."""
    return f"i:{point_id}" if isinstance(point_id, int) else f"u:{point_id}"


def untag(text: str) -> PointId:
    """The reverse of `tag`.

    Raises:
        Refused: the text is no tagged id.
    """
    kind, _, value = text.partition(":")
    if kind == "i" and value.isdigit():
        return int(value)
    if kind == "u":
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise Refused(f"{text!r} is not a point id of this tool: they read 'i:42' or 'u:<uuid>'.")


def order_key(point_id: PointId) -> tuple[int, int]:
    """Sorts like Qdrant's scroll."""
    return (0, point_id) if isinstance(point_id, int) else (1, uuid.UUID(point_id).int)


def payload_digest(payload: Payload | None) -> bytes:
    """16 bytes that are equal for equal JSON values. Key order does not matter; 1 and 1.0 differ."""
    canonical = json.dumps(payload or {}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def vector_problem(vector: object, size: int | None) -> str | None:
    """Why a dense vector read back cannot be right, or None."""
    if not isinstance(vector, list | tuple | np.ndarray) or not len(vector):
        return "no vector"
    if size is not None and len(vector) != size:
        return f"{len(vector)} dimensions instead of {size}"
    try:
        numbers = np.asarray(vector, dtype=np.float64)
        # Of single-precision numbers no sum of squares overflows in double precision: it is finite where all of them are.
        squares = float(np.vdot(numbers, numbers)) if numbers.ndim == 1 else math.nan
    except (TypeError, ValueError):
        return "a value that is not finite"
    if not math.isfinite(squares):
        return "a value that is not finite"
    if squares == 0:
        return "a zero vector"
    return None


@dataclass(frozen=True, kw_only=True)
class ServerText:
    """In place of a vector: the text that the Qdrant server shall embed itself. Only ever written or searched with, never read."""

    text: str
    model: str
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point as read: id, payload and the vectors that were asked for, by field name ("" is the unnamed one).

    A dense vector is a list of numbers or an array of single precision, a multivector a list of lists, a sparse one a mapping.
    """

    id: PointId
    payload: Payload
    vectors: Mapping[str, Any] = field(default_factory=dict)
    shard_key: ShardKey | None = None
    derived: list[float] | None = None
    """What a recipe makes of the point's own vectors, where that was computed; never stored under this name."""
