"""Which collection do all strategies migrate? One that has everything that an app may have left in it, the same on every Qdrant."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.conftest import Cranfield
from tests.strategies.oracle import Oracle
from tests.strategies.places import Json, Place

OLD_MODEL = "minilm-int8"
OLD_SIZE = 384
TEXTS = 460
QUERIES = 6


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the app named its vectors."""

    name: str
    old: str
    """Name of the dense field in question; "" is the unnamed one."""

    @property
    def is_rich(self) -> bool:
        return self.old != ""


NAMED = Variant(name="named", old="dense")
UNNAMED = Variant(name="unnamed", old="")


def create_body(variant: Variant) -> Json:
    """The creation request: with a name also a second dense field and a multivector; sparse vectors in any case."""
    dense = {"size": OLD_SIZE, "distance": "Cosine"}
    others = {
        "aside": {"size": 8, "distance": "Dot"},
        "tokens": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}},
    }
    return {
        "vectors": {variant.old: dense, **others} if variant.is_rich else dense,
        "sparse_vectors": {"words": {}},
        "metadata": {"model_migration": {"model": OLD_MODEL, "dimensions": OLD_SIZE}, "owner": "search team"},
    }


def texts_of(cranfield: Cranfield) -> list[str]:
    """Short texts, no two alike."""
    found = list(dict.fromkeys(d.title for d in cranfield.documents if d.title.strip()))
    return found[: TEXTS + QUERIES]


def payloads(texts: list[str]) -> list[Json]:
    """Of every point, in order: plain ones, duplicates, and those without a text that could be embedded."""
    rows: list[Json] = [{"text": text} for text in texts[:TEXTS]]
    rows += [{"text": text} for text in texts[:6]]
    rows += [{"title": "nothing to embed"} for _ in range(6)]
    rows += [{"text": " \n\t"} for _ in range(4)]
    rows += [{"text": 17}, {"text": None}, {"text": ["a", "list"]}, {}]
    for i, row in enumerate(rows):
        row |= {
            "n": (2**63 + i, -(2**62) - i, i)[i % 3],
            "kind": ("report", "note")[i % 2],
            "nested": {"values": [1, 1.5, None, {"deep": True}], "whole": 1.0},
        }
    del rows[-1]["nested"], rows[-1]["kind"], rows[-1]["n"]
    return rows


def identifier(i: int) -> int | str:
    """Integers, also beyond what a float holds, and UUIDs."""
    if i % 3 == 0:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, str(i)))
    return 2**60 + i if i % 7 == 0 else i


def lacks_old(i: int) -> bool:
    """Points that an app wrote without the dense vector; among them some with a text."""
    return i % 60 == 59 or i >= TEXTS + 14


async def seed(place: Place, name: str, variant: Variant, oracle: Oracle, cranfield: Cranfield) -> list[Json]:
    """Create the collection with its points, payload indexes and the alias `<name>-live`; returns the points as they were written."""
    rows = payloads(texts_of(cranfield))
    known = [row["text"] if isinstance(row.get("text"), str) and row["text"].strip() else None for row in rows]
    vectors = oracle.dense(OLD_MODEL, [text or f"no text {i}" for i, text in enumerate(known)])
    draw = np.random.default_rng(11)
    points: list[Json] = []
    for i, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
        held: dict[str, Any] = {}
        if not lacks_old(i):
            held[variant.old] = vector.tolist()
        if i % 40 != 7:
            indices = sorted(int(n) for n in draw.choice(30_000, size=1 + i % 9, replace=False))
            held["words"] = {"indices": indices, "values": _floats(draw.uniform(0.1, 3, len(indices)))}
            if variant.is_rich:
                held["aside"] = _floats(draw.normal(size=8))
                held["tokens"] = [_floats(r) for r in draw.normal(size=(1 + i % 3, 4))]
        points.append({"id": identifier(i), "payload": row, "vector": held})
    place.create(name, create_body(variant))
    place.index(name, "n", "integer")
    place.index(name, "kind", "keyword")
    place.write(name, points)
    place.point_alias(f"{name}-live", name)
    return points


def queries_of(cranfield: Cranfield) -> list[str]:
    return texts_of(cranfield)[TEXTS:]


def _floats(row: Any) -> list[float]:
    return [float(np.float32(v)) for v in row]
