"""Is a point of the target what its recipe says? The judgement on one pair; whether it *searches* as well is comparison.py's question."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from qdrant_model_migration.domain.collection import FieldKind
from qdrant_model_migration.domain.derived import same_derived
from qdrant_model_migration.domain.points import FLOAT_TOLERANCE, Payload, Point, PointId, payload_digest, tag, vector_problem
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.texts import Texts


class Kind(StrEnum):
    MISSING = "missing"
    EXTRA = "extra"
    CHANGED = "changed"
    BAD_VECTOR = "bad_vector"


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the recipes say about every point."""

    texts: Texts
    made: Recipe | None
    copied: Mapping[str, str]
    """Source field -> target field."""
    skips_textless: bool
    accounted: Mapping[str, bool]
    """Tagged id -> whether the target holds its payload."""
    checks_made: bool
    """Whether the made vectors were read and are judged."""
    distance: str = "Cosine"
    """Of the made field."""
    datatype: str = "float32"
    """As the target stores the made field."""
    tolerance: float = 0.0
    """By how much a number of a copied vector may differ: a server and the embedded database normalise differently in the last digit."""

    def is_due(self, source: Point) -> bool:
        """Whether the made field of this point should hold a vector."""
        if self.made is None:
            return False
        if self.made.is_derived:
            return source.vectors.get(self.made.source_field or "") is not None
        return self.texts.of(source) is not None

    @property
    def field(self) -> str:
        """Name of the made field; none is called so where nothing is made."""
        return self.made.field if self.made is not None else "\0"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One point that is not as it should be, with both sides as they were seen."""

    kind: Kind
    id: PointId
    source: Point | None
    target: Point | None
    why: str

    @property
    def is_moved(self) -> bool:
        """It lies under another shard key: an upsert under the right one would leave it there twice."""
        return self.source is not None and self.target is not None and self.source.shard_key != self.target.shard_key

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
    if source.shard_key != target.shard_key:
        why = f"under shard key {target.shard_key!r} instead of {source.shard_key!r}"
        return Difference(kind=Kind.CHANGED, id=source.id, source=source, target=target, why=why)
    if not same_payload(source.payload, target.payload):
        keys = sorted(k for k in source.payload.keys() | target.payload.keys() if _differs(source.payload, target.payload, k))
        return Difference(kind=Kind.CHANGED, id=source.id, source=source, target=target, why=f"payload differs in {', '.join(keys[:5])}")
    for old, new in expected.copied.items():
        if not same_vector(source.vectors.get(old), target.vectors.get(new), expected.tolerance):
            return Difference(kind=Kind.CHANGED, id=source.id, source=source, target=target, why=f"copied vector {new!r} differs")
    if expected.checks_made and expected.made is not None:
        problem = _made_problem(source, target, expected)
        if problem:
            return Difference(kind=Kind.BAD_VECTOR, id=source.id, source=source, target=target, why=problem)
    return None


def _made_problem(source: Point, target: Point, expected: Expectation) -> str | None:
    vector = target.vectors.get(expected.field)
    if not expected.is_due(source):
        # A text that was taken away leaves its vector behind; a vector that was taken away must not leave one made from it.
        return "a vector made from one that the source no longer has" if vector is not None and _is_derived(expected) else None
    if vector is None and tag(source.id) in expected.accounted:
        return None
    problem = made_vector_problem(vector, expected.made)
    if problem or not _is_derived(expected):
        return problem
    if source.derived is None:
        return "a vector where none can be made"
    if not all(same_derived([vector], [source.derived], distance=expected.distance, datatype=expected.datatype)):
        return "not what the recipe makes of the source's vector"
    return None


def _is_derived(expected: Expectation) -> bool:
    return expected.made is not None and expected.made.is_derived


def made_vector_problem(vector: Any, made: Recipe | None) -> str | None:
    """Why a vector read back cannot be one of this recipe's, or None."""
    if made is None:
        return None
    if made.vector_kind is FieldKind.DENSE:
        return vector_problem(vector, made.dimensions)
    if vector is None:
        return "no vector"
    if made.vector_kind is FieldKind.SPARSE:
        # An empty one is right for a text of which the model keeps no term.
        return None if isinstance(vector, dict) and np.isfinite(vector["values"]).all() else "a value that is not finite"
    if not isinstance(vector, list) or not vector:
        return "no rows"
    return next((problem for row in vector if (problem := vector_problem(row, made.dimensions))), None)


def is_accounted(source: Point, target: Point | None, expected: Expectation) -> bool:
    """Whether the point lacks something by a stated policy or a recorded failure."""
    # Whether a text is due is asked last: nearly every point has its vector.
    if target is None:
        return expected.skips_textless and not expected.is_due(source)
    if expected.made is None or target.vectors.get(expected.field) is not None:
        return False
    return not expected.is_due(source) or tag(source.id) in expected.accounted


def same_payload(a: Payload, b: Payload) -> bool:
    """Equal JSON, in which 1 and 1.0 differ; floats may differ by what a server's own parsing of them loses (docs/decisions/0007)."""
    return _same_json(a, b)


def _same_json(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_json(value, b[key]) for key, value in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same_json, a, b))
    return math.isclose(a, b, rel_tol=FLOAT_TOLERANCE) if isinstance(a, float) else bool(a == b)


def same_vector(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Equal dense, sparse (in any order of indices) or multivector values, up to `tolerance` a number; absent equals absent."""
    if a is b or _stored(a) == _stored(b):
        return True
    if not tolerance or not isinstance(a, list | np.ndarray) or not isinstance(b, list | np.ndarray):
        return False
    left, right = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=0.0, atol=tolerance))


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
