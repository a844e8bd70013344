"""Do the estimates follow the configuration?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.domain import estimates
from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, VectorField
from qdrant_model_migration.domain.estimates import (
    backfill_seconds,
    cost_usd,
    foreign_letters,
    human_bytes,
    human_seconds,
    mean_words,
    room_for,
    size_of,
    total_tokens,
)

POINTS = 1_000


def dense(size: int = 100, datatype: str = "float32", **config: object) -> VectorField:
    return VectorField(name="", kind=FieldKind.DENSE, size=size, distance="Cosine", datatype=datatype, config=dict(config))


@pytest.mark.parametrize(("datatype", "width"), [("float32", 4), ("float16", 2), ("uint8", 1)])
def test_raw_vectors_take_their_datatype(datatype: str, width: int) -> None:
    assert estimates.vector_bytes(dense(datatype=datatype), POINTS) == POINTS * 100 * width


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({}, 0),
        ({"scalar": {"type": "int8"}}, 100_000),
        ({"binary": {}}, 12_500),
        ({"binary": {"encoding": "two_bits"}}, 25_000),
        ({"product": {"compression": "x16"}}, 25_000),
    ],
)
def test_quantized_copies_take_their_share(quantization: Json, expected: int) -> None:
    assert estimates.quantized_bytes(dense(), POINTS, quantization) == expected


def test_vectors_on_disk_stay_out_of_memory() -> None:
    in_memory = size_of(POINTS, [dense()], {}, 0)
    on_disk = size_of(POINTS, [dense(on_disk=True)], {}, 0)
    assert in_memory.ram_bytes - on_disk.ram_bytes == POINTS * 400
    assert in_memory.disk_bytes == on_disk.disk_bytes


def test_payload_on_disk_and_replicas_count() -> None:
    plain = size_of(POINTS, [dense()], {"params": {"on_disk_payload": False}}, 1000.0)
    on_disk = size_of(POINTS, [dense()], {"params": {"on_disk_payload": True}}, 1000.0)
    double = size_of(POINTS, [dense()], {"params": {"on_disk_payload": True, "replication_factor": 2}}, 1000.0)
    assert plain.ram_bytes - on_disk.ram_bytes == 1_000_000
    assert double.disk_bytes == 2 * on_disk.disk_bytes
    assert plain.data_bytes == POINTS * 400 + 1_000_000


def test_a_field_without_hnsw_has_no_graph() -> None:
    assert estimates.graph_bytes(dense(hnsw_config={"m": 0}), POINTS, {"hnsw_config": {"m": 16}}) == 0
    assert estimates.graph_bytes(dense(), POINTS, {"hnsw_config": {"m": 32}}) == int(POINTS * 32 * 8 * 1.1)


def test_measured_rows_replace_the_guess_for_sparse_and_multivectors() -> None:
    sparse = VectorField(name="s", kind=FieldKind.SPARSE)
    rows = VectorField(name="m", kind=FieldKind.MULTIVECTOR, size=10)
    assert estimates.vector_bytes(sparse, POINTS, 10) == POINTS * 10 * 8 * 2
    assert estimates.vector_bytes(rows, POINTS, 5) == POINTS * 5 * 40


def test_room_follows_the_placement() -> None:
    collection = Collection(name="c", points=POINTS, fields=(dense(),), config={})
    new = room_for("new_collection", collection, dense(), 200, 500.0)
    both = room_for("side_by_side", collection, dense(), 200, 500.0)
    added = room_for("named_vector", collection, dense(), 200, 500.0)
    smaller = room_for("truncate", collection, dense(), 50, 500.0)
    quantized = room_for("requantize", collection, dense(), None, 500.0)
    assert added.disk_bytes < new.disk_bytes < both.disk_bytes
    assert new.disk_after_bytes == POINTS * 400
    assert smaller.disk_after_bytes == -POINTS * 200
    assert quantized.disk_bytes == POINTS * 100
    in_place = room_for("add_sparse", collection, dense(), None, 500.0, is_in_place=True)
    copied = room_for("add_sparse", collection, dense(), None, 500.0)
    assert in_place.disk_bytes < copied.disk_bytes
    assert room_for("add_multivector", collection, dense(), 128, 0.0, is_in_place=True).ram_bytes == 0


def test_room_of_an_added_field_follows_what_was_measured() -> None:
    collection = Collection(name="c", points=POINTS, fields=(dense(),), config={})
    few = room_for("add_sparse", collection, dense(), None, 0.0, is_in_place=True, added_rows=10)
    many = room_for("add_sparse", collection, dense(), None, 0.0, is_in_place=True, added_rows=100)
    assert few.disk_after_bytes == POINTS * 10 * 8 * 2
    assert many.disk_after_bytes == 10 * few.disk_after_bytes
    tokens = room_for("add_multivector", collection, dense(), 96, 0.0, added_rows=50)
    assert tokens.disk_after_bytes == POINTS * 50 * 96 * 4 == estimates.multivector_bytes(POINTS, 96, 50)
    assert tokens.ram_after_bytes == 0
    assert tokens.ram_bytes > 0  # the dense vectors are there twice meanwhile


def test_what_is_deleted_here_frees_nothing_on_another_server() -> None:
    collection = Collection(name="c", points=POINTS, fields=(dense(),), config={})
    here = room_for("truncate", collection, dense(), 50, 500.0)
    elsewhere = room_for("truncate", collection, dense(), 50, 500.0, is_elsewhere=True)
    assert here.disk_bytes == elsewhere.disk_bytes
    assert here.disk_after_bytes < 0
    assert here.ram_after_bytes < 0
    assert 0 < elsewhere.disk_after_bytes < elsewhere.disk_bytes


@pytest.mark.parametrize(
    ("present", "chosen", "change"),
    [
        ({}, "scalar", 100_000),
        ({}, "binary", 12_500),
        ({}, "off", 0),
        ({"scalar": {}}, "binary", -87_500),
        ({"scalar": {}}, "off", -100_000),
    ],
)
@pytest.mark.parametrize("is_own", [True, False])
def test_room_of_another_quantization(present: Json, chosen: str, change: int, *, is_own: bool) -> None:
    own: dict[str, Any] = {"quantization_config": present} if is_own else {}
    field = dense(**own)
    collection = Collection(name="c", points=POINTS, fields=(field,), config={} if is_own else {"quantization_config": present})
    room = room_for("requantize", collection, field, None, 0.0, quantization=chosen)
    assert room.disk_after_bytes == change
    assert room.disk_bytes == max(0, change)


def test_words_and_letters_of_a_sample() -> None:
    assert mean_words([]) is None
    assert mean_words(["The cat and the other cat", "a dog"]) == 2.5  # the, cat, and, other; dog
    assert foreign_letters(["plain English, 2026!"]) == 0.0
    assert foreign_letters(["12 34"]) == 0.0
    assert 0.02 < foreign_letters(["Größere Flügel für Flugzeuge prüfen"]) < 0.2
    assert foreign_letters(["Крыло самолёта"]) == 1.0


def test_the_slowest_part_decides_the_time() -> None:
    assert backfill_seconds(1000, None) is None
    assert backfill_seconds(1000, 100.0) == 10.0
    assert backfill_seconds(1000, 1e6) == 0.5
    assert backfill_seconds(1000, 100.0, tokens=200_000, tokens_per_minute=100_000) == 120.0
    assert backfill_seconds(1000, 100.0, requests_per_minute=5, texts_per_request=100) == 120.0
    assert backfill_seconds(1600, 1e6, is_embedded=True) == 2.0


def test_tokens_and_cost_are_extrapolated() -> None:
    assert total_tokens([10, 20], 1000) == 15_000
    assert total_tokens([], 1000) is None
    assert cost_usd(2_000_000, 0.13) == 0.26
    assert cost_usd(None, 0.13) is None
    assert cost_usd(5, None) is None


@pytest.mark.parametrize(
    ("count", "expected"), [(12, "12 B"), (999_900, "1.0 MB"), (1_500_000, "1.5 MB"), (410e9, "410 GB"), (2e15, "2000 TB")]
)
def test_bytes_for_people(count: float, expected: str) -> None:
    assert human_bytes(count) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.2, "1 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (259_200, "3.0 days")])
def test_seconds_for_people(seconds: float, expected: str) -> None:
    assert human_seconds(seconds) == expected
