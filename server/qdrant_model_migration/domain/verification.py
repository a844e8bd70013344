"""Is a point of the target what its recipe says? The judgement on one pair; whether it *searches* as well is comparison.py's question."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from qdrant_model_migration.domain.points import FLOAT_TOLERANCE, Payload, Point, PointId, payload_digest, tag, vector_problem
from qdrant_model_migration.domain.texts import TextSource


class Kind(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"
    CHANGED = "changed"
    BAD_VECTOR = "bad_vector"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the recipes say about every point."""

    text: TextSource
    embed_field: str
    embed_size: int
    copied: Mapping[str, str]
    """Source field -> target field."""
    skips_textless: bool
    accounted: Mapping[str, bool]
    """Tagged id -> whether the target holds its payload."""
    checks_embedded: bool
    """Whether the embedded vectors were read and are judged."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One point that is not as it should be, with both sides as they were seen."""

    kind: Kind
    id: PointId
    source: Point | None
    target: Point | None
    why: str

    @property
    def seen(self) -> tuple[bytes | None, bytes | None]:
        """Equal for two looks that saw the same on both sides."""
        return _fingerprint(self.source), _fingerprint(self.target)


@dataclass
class Tally:
    """Counts of one pass."""

    source_points: int = 0
    target_points: int = 0
    accounted: int = 0
    differences: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))


def judge(source: Point | None, target: Point | None, expected: Expectation) -> Difference | None:
    """What is wrong with a pair of points of one id, or None; at least one side exists."""
    if target is None:
        assert source is not None
        if is_accounted(source, None, expected):
            return None
        return Difference(kind=Kind.MISSING, id=source.id, source=source, target=None, why="not in the target")
    if source is None:
        return Difference(kind=Kind.EXTRA, id=target.id, source=None, target=target, why="not in the source")
    if not same_payload(source.payload, target.payload):
        keys = sorted(k for k in source.payload.keys() | target.payload.keys() if _differs(source.payload, target.payload, k))
        return Difference(kind=Kind.CHANGED, id=source.id, source=source, target=target, why=f"payload differs in {', '.join(keys[:5])}")
    for old, new in expected.copied.items():
        if not same_vector(source.vectors.get(old), target.vectors.get(new)):
            return Difference(kind=Kind.CHANGED, id=source.id, source=source, target=target, why=f"copied vector {new!r} differs")
    if expected.checks_embedded and expected.text.extract(source.payload) is not None:
        vector = target.vectors.get(expected.embed_field)
        if vector is None and tag(source.id) in expected.accounted:
            return None
        problem = vector_problem(vector, expected.embed_size)
        if problem:
            return Difference(kind=Kind.BAD_VECTOR, id=source.id, source=source, target=target, why=problem)
    return None


def is_accounted(source: Point, target: Point | None, expected: Expectation) -> bool:
    """Whether the point lacks something by a stated policy or a recorded failure."""
    has_text = expected.text.extract(source.payload) is not None
    if target is None:
        return expected.skips_textless and not has_text
    return target.vectors.get(expected.embed_field) is None and (not has_text or tag(source.id) in expected.accounted)


def same_payload(a: Payload, b: Payload) -> bool:
    """Equal JSON, in which 1 and 1.0 differ; floats may differ by what a server's own parsing of them loses (docs/decisions/0007)."""
    return payload_digest(a) == payload_digest(b) or _same_json(a, b)


def _same_json(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_json(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same_json, a, b))
    return math.isclose(a, b, rel_tol=FLOAT_TOLERANCE) if isinstance(a, float) else bool(a == b)


def same_vector(a: Any, b: Any) -> bool:
    """Equal dense, sparse (in any order of indices) or multivector values; absent equals absent."""
    return bool(a == b) or _stored(a) == _stored(b)


def _stored(vector: Any) -> object:
    """As the server keeps it, in single precision: REST writes 0.1 where gRPC gives the single-precision number nearest to it."""
    if vector is None:
        return None
    if isinstance(vector, dict):
        values = np.asarray(vector["values"], dtype=np.float32).tolist()
        return tuple(sorted(zip(vector["indices"], values, strict=True)))
    array = np.asarray(vector, dtype=np.float32) + np.float32(0)  # -0.0 is 0.0
    return array.shape, array.tobytes()


def _differs(a: Mapping[str, Any], b: Mapping[str, Any], key: str) -> bool:
    return (key in a) != (key in b) or not same_payload({"": a.get(key)}, {"": b.get(key)})


def _fingerprint(point: Point | None) -> bytes | None:
    if point is None:
        return None
    vectors = repr([(name, _stored(vector)) for name, vector in sorted(point.vectors.items())]).encode()
    return payload_digest(point.payload) + hashlib.blake2b(vectors, digest_size=16).digest()


def wrong_share_upper_bound(wrong: int, sampled: int, population: int, confidence: float = 0.95) -> float:
    """Largest share of wrong points that a random sample still allows, one-sided (Clopper-Pearson; none wrong: 1 - 0.05^(1/n)).

    The whole population sampled leaves no doubt. The bound for one or more wrong is found by bisection.
    """
    if sampled == 0:
        return 1.0
    if sampled >= population:
        return wrong / sampled
    if wrong == 0:
        return float(1 - (1 - confidence) ** (1 / sampled))
    low, high = wrong / sampled, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_at_most(wrong, sampled, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_at_most(k: int, n: int, p: float) -> float:
    if p >= 1:
        return 1.0 if k >= n else 0.0
    return sum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p))
        for i in range(k + 1)
    )
