"""Is the target what the recipes make of the source? Ids, payloads and every vector, compared with what the oracle says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.strategies.oracle import Oracle, cosines
from tests.strategies.places import Json, Place

Dump = Mapping[str, Json]
Values = dict[str, Any]
"""Id -> the vector that the made field should hold; points that should not hold it are left out."""
Agree = Callable[[Values, Values], None]

INT8_COSINE = 0.97
"""Dynamic int8 models answer a little differently in every batch; other texts are far below."""


def text_of(point: Json) -> str | None:
    """As the app would say it: a text is a string that is not blank."""
    text = point["payload"].get("text")
    return text if isinstance(text, str) and text.strip() else None


def texts(source: Dump) -> dict[str, str]:
    return {i: text for i, p in source.items() if (text := text_of(p)) is not None}


def check_target(
    target: Dump, source: Dump, *, made: str | None, replaced: str | None, expected: Values, agree: Agree, is_exact: bool = True
) -> None:
    """Target == recipes(source).

    Args:
        target: As it was found in the end.
        source: As it was before the migration.
        made: The field that the strategy makes; None where it makes none.
        replaced: The field of the source that is not carried over.
        expected: What the made field should hold.
        agree: Compares the made vectors with those expected, whose ids are equal already.
        is_exact: Copies are compared bit for bit; the embedded database scales cosine vectors anew with every write.
    """
    assert list(target) == list(source), "ids"
    for i, point in source.items():
        # As JSON: 1 and 1.0 differ, and 64-bit integers are exact.
        assert _json(target[i]["payload"]) == _json(point["payload"]), i
    for i, point in source.items():
        kept = {name: value for name, value in point["vector"].items() if name != replaced}
        there = {name: value for name, value in target[i]["vector"].items() if name != made}
        assert there.keys() == kept.keys(), i
        for name, value in kept.items():
            assert _is_same(there[name], value, is_exact=is_exact), (i, name, there[name], value)
    found = {i: p["vector"][made] for i, p in target.items() if made is not None and made in p["vector"]}
    assert found.keys() == expected.keys(), (sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys()))
    if made is not None:
        agree(found, expected)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _is_same(found: Any, wanted: Any, *, is_exact: bool) -> bool:
    if is_exact or isinstance(wanted, dict):
        return bool(found == wanted)
    return bool(np.allclose(np.asarray(found, dtype=np.float32), np.asarray(wanted, dtype=np.float32), rtol=0, atol=2e-7))


def embedded(oracle: Oracle, source: Dump, model: str) -> Values:
    known = texts(source)
    return dict(zip(known, oracle.dense(model, list(known.values())), strict=True))


def cut(source: Dump, field: str, dimensions: int) -> Values:
    """The first numbers of every stored vector, scaled to length one."""
    found: Values = {}
    for i, point in source.items():
        if field in point["vector"]:
            row = np.asarray(point["vector"][field], dtype=np.float64)[:dimensions]
            found[i] = (row / np.linalg.norm(row)).astype(np.float32)
    return found


def mapped(source: Dump, field: str, matrix: Any, offset: Any) -> Values:
    """Every stored vector through the map, scaled to length one."""
    found: Values = {}
    for i, point in source.items():
        if field in point["vector"]:
            row = np.asarray(point["vector"][field], dtype=np.float64) @ np.asarray(matrix, dtype=np.float64) + np.asarray(offset)
            found[i] = (row / np.linalg.norm(row)).astype(np.float32)
    return found


def late_interaction(oracle: Oracle, source: Dump) -> Values:
    known = texts(source)
    return dict(zip(known, oracle.tokens(list(known.values())), strict=True))


def bm25(oracle: Oracle, source: Dump) -> Values:
    """By FastEmbed, for the embedded database."""
    known = texts(source)
    return dict(zip(known, oracle.sparse(list(known.values())), strict=True))


def bm25_of_server(place: Place, scratch: str, source: Dump) -> Values:
    """By the server, in a collection of the test's own."""
    known = texts(source)
    place.create(scratch, {"vectors": {}, "sparse_vectors": {"sparse": {"modifier": "idf"}}})
    points = [
        {"id": number, "payload": {}, "vector": {"sparse": {"text": text, "model": "qdrant/bm25"}}}
        for number, text in enumerate(known.values())
    ]
    place.write(scratch, points)
    held = place.dump(scratch)
    return {i: held[str(number)]["vector"]["sparse"] for number, i in enumerate(known)}


def agree_closely(found: Values, expected: Values) -> None:
    """Equal but for rounding."""
    np.testing.assert_allclose(_stacked(found, expected), _stacked(expected, expected), rtol=0, atol=2e-6)


def agree_as_int8(found: Values, expected: Values) -> None:
    """Every vector is that of its own text by that model, as far as the arithmetic of the model allows; and has length one."""
    rows, wanted = _stacked(found, expected), _stacked(expected, expected)
    assert cosines(rows, wanted).min() > INT8_COSINE
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


def agree_by_token(found: Values, expected: Values) -> None:
    """One row a token, each that of its own."""
    for i, wanted in expected.items():
        rows = np.asarray(found[i], dtype=np.float32)
        assert rows.shape == wanted.shape, i
        assert cosines(rows, wanted).mean() > INT8_COSINE, i


def agree_as_sparse(found: Values, expected: Values) -> None:
    """The same words with the same weights."""
    for i, wanted in expected.items():
        held = dict(zip(found[i]["indices"], found[i]["values"], strict=True))
        values = dict(zip(wanted["indices"], wanted["values"], strict=True))
        assert held.keys() == values.keys(), i
        assert all(abs(held[word] - values[word]) < 1e-5 for word in values), i


def _stacked(values: Values, order: Values) -> Any:
    return np.stack([np.asarray(values[i], dtype=np.float32) for i in order])
