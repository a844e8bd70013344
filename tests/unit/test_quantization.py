"""How are the vectors of a field quantized, and what does the app have to ask for then?"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from qdrant_model_migration.domain.collection import Collection, Json, fields_of
from qdrant_model_migration.domain.quantization import (
    Kind,
    QuantizationSettings,
    advice,
    changed,
    differences,
    is_same,
    problem,
    request,
    requested,
    restored,
    settings_of,
    warnings,
)
from qdrant_model_migration.results import IndexRecall, RecallVariant

INT8: Json = {"scalar": {"type": "int8"}}
BINARY: Json = {"binary": {}}
PQ: Json = {"product": {"compression": "x16"}}
EVERY = [
    QuantizationSettings(collection=level, fields={"": one, "b": two, "c": three})
    for level, one, two, three in product((None, INT8, BINARY), repeat=4)
]


def collection(vectors: Json, sparse: Json | None = None, **config: Any) -> Collection:
    params: Json = {"vectors": vectors, "sparse_vectors": sparse or {}}
    return Collection(name="docs", points=5_000, indexed_vectors=5_000, fields=fields_of(params), config={"params": params, **config})


def dense(size: int = 1536, **more: Any) -> Json:
    return {"size": size, "distance": "Cosine", **more}


def applied(current: QuantizationSettings, body: Json) -> QuantizationSettings:
    """What the servers were seen to make of a request: "Disabled" removes, anything else replaces."""

    def value(config: Any) -> Json | None:
        return None if config == "Disabled" else config

    fields = {**current.fields, **{name: value(entry["quantization_config"]) for name, entry in body.get("vectors", {}).items()}}
    level = value(body["quantization_config"]) if "quantization_config" in body else current.collection
    return QuantizationSettings(collection=level, fields=fields)


@pytest.mark.parametrize("wanted", [None, INT8, BINARY, PQ])
def test_one_field_changes_the_others_do_not_and_all_is_restored(wanted: Json | None) -> None:
    """Every combination of settings at both levels."""
    for current in EVERY:
        after = applied(current, request(current, changed(current, "b", wanted)))
        assert after.effective("b") == wanted
        assert all(after.effective(name) == current.effective(name) for name in ("", "c"))
        undone = applied(after, request(after, restored(after, current, "b")))
        assert undone == current


def test_nothing_is_asked_for_where_it_is_so_already() -> None:
    for current in EVERY:
        assert request(current, changed(current, "b", current.effective("b"))) == {}


def test_a_collections_setting_stays_at_the_collection_where_no_other_field_inherits_it() -> None:
    alone = QuantizationSettings(collection=INT8, fields={"": None, "b": BINARY})
    assert request(alone, changed(alone, "", PQ)) == {"quantization_config": PQ}
    assert request(alone, changed(alone, "", None)) == {"quantization_config": "Disabled"}


def test_switching_one_field_off_gives_the_others_the_collections_setting_as_their_own() -> None:
    current = QuantizationSettings(collection=INT8, fields={"": None, "b": None, "c": BINARY})
    body = request(current, changed(current, "", None))
    assert body == {"vectors": {"b": {"quantization_config": INT8}}, "quantization_config": "Disabled"}
    found = differences(current, applied(current, body))
    assert {d.path: (d.source, d.target) for d in found} == {
        "params.vectors.b.quantization_config": (None, INT8),
        "quantization_config": (INT8, None),
    }


def test_what_somebody_else_set_meanwhile_for_another_field_is_not_undone() -> None:
    previous = QuantizationSettings(collection=INT8, fields={"": None, "b": None, "c": None})
    after = changed(previous, "", None)
    meddled = after.model_copy(update={"fields": {**after.fields, "c": BINARY}})
    undone = restored(meddled, previous, "")
    assert undone == QuantizationSettings(collection=INT8, fields={"": None, "b": None, "c": BINARY})


def test_settings_are_read_at_both_levels_and_sparse_vectors_have_none() -> None:
    found = settings_of(collection({"a": dense(quantization_config=BINARY), "b": dense()}, {"s": {}}, quantization_config=INT8))
    assert found == QuantizationSettings(collection=INT8, fields={"a": BINARY, "b": None})
    assert settings_of(collection(dense(quantization_config=PQ))).fields == {"": PQ}


def test_a_quantile_of_grpc_is_the_same() -> None:
    assert is_same({"scalar": {"type": "int8", "quantile": 0.99}}, {"scalar": {"type": "int8", "quantile": 0.99000001}})
    for other in (
        {"scalar": {"type": "int8"}},
        {"scalar": {"type": "int8", "quantile": 0.98}},
        {"scalar": {"type": "int8", "quantile": None}},
        PQ,
    ):
        assert not is_same({"scalar": {"type": "int8", "quantile": 0.99}}, other)


@pytest.mark.parametrize(
    ("kind", "vectors", "name", "level", "is_embedded", "expected"),
    [
        ("scalar", dense(), "", None, True, "embedded database does not quantize"),
        ("scalar", dense(), "s", None, False, "is sparse"),
        ("binary", {"m": dense(multivector_config={"comparator": "max_sim"})}, "m", None, False, "is a multivector"),
        ("scalar", dense(datatype="uint8"), "", None, False, "bytes (uint8) already"),
        ("off", dense(), "", None, False, "the unnamed vector is not quantized as it is"),
        ("scalar", {"a": dense()}, "a", requested("scalar"), False, "'a' is quantized exactly so already"),
    ],
)
def test_what_cannot_or_need_not_be_is_refused(
    kind: Kind, vectors: Json, name: str, level: Json | None, is_embedded: bool, expected: str
) -> None:
    found = collection(vectors, {"s": {}}, quantization_config=level)
    field = found.field(name)
    assert field is not None
    assert expected in (problem(kind, found, field, is_embedded=is_embedded) or "")


@pytest.mark.parametrize(
    ("kind", "vectors", "level"),
    [
        ("scalar", dense(), None),
        ("binary", dense(384), None),
        ("product", dense(), INT8),
        ("scalar", dense(), INT8),
        ("off", dense(datatype="uint8"), INT8),
        ("scalar", dense(datatype="float16"), None),
    ],
)
def test_what_makes_sense_is_not(kind: Kind, vectors: Json, level: Json | None) -> None:
    found = collection(vectors, quantization_config=level)
    assert problem(kind, found, found.fields[0], is_embedded=False) is None


def test_warnings_name_what_speaks_against_it() -> None:
    def of(kind: Kind, vectors: Json, **more: Any) -> str:
        found = collection(vectors, **{k: v for k, v in more.items() if k != "indexed"})
        found = found.model_copy(update={"indexed_vectors": more.get("indexed", 5_000)})
        return " ".join(warnings(kind, found, found.fields[0]))

    assert of("scalar", dense()) == of("binary", dense(1024)) == of("off", dense(quantization_config=INT8)) == ""
    assert "1,024 dimensions and more; at 1023" in of("binary", dense(1023))
    assert "searches slower" in of("product", dense())
    assert "scalar quantization already, with other parameters" in of("scalar", dense(quantization_config=INT8))
    assert "No vector of 5,000 points is indexed yet" in of("scalar", dense(), indexed=0)
    assert "above 777 KB" in of("scalar", dense(), indexed=0, optimizer_config={"indexing_threshold": 777})
    assert "inline_storage" in of("off", dense(quantization_config=INT8), hnsw_config={"inline_storage": True})


def recall(value: float, *variants: tuple[bool | None, float | None, bool, float]) -> IndexRecall:
    made = [
        RecallVariant(rescore=rescore, oversampling=oversampling, ignore=ignore, recall=share, ci_low=share, ci_high=share)
        for rescore, oversampling, ignore, share in variants
    ]
    return IndexRecall(k=10, queries=100, recall=value, ci_low=value - 0.02, ci_high=value, variants=made)


FIELD = collection(dense(384)).fields[0]
LOSSY = recall(
    0.60,
    (False, None, False, 0.60),
    (True, None, False, 0.61),
    (True, 2.0, False, 0.985),
    (True, 4.0, False, 0.99),
    (None, None, True, 0.99),
)


def test_the_cheapest_parameters_that_bring_the_recall_back_are_advised() -> None:
    said = advice("binary", FIELD, recall(0.99), LOSSY)
    assert said[0].startswith("Recall@10 against exact search: 0.990 before, 0.600 now (95 % interval 0.580 to 0.600")
    assert said[1] == "With rescoring and oversampling 2 it is 0.985. In the app's queries:"
    assert said[2] == "search_params=models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2))"
    assert len(said) == 3


def test_without_a_measurement_before_the_originals_set_the_goal() -> None:
    assert advice("binary", FIELD, None, LOSSY)[1:] == advice("binary", FIELD, recall(0.99), LOSSY)[1:]


def test_a_loss_that_nothing_brings_back_is_said_with_the_way_out() -> None:
    said = advice("product", FIELD, recall(1.0), LOSSY.model_copy(update={"variants": LOSSY.variants[:2]}), max_oversampling=1.5)
    assert "With rescoring it is 0.610" in said[1]
    assert (
        said[-1] == "Nothing that was tried (strict mode allows oversampling up to 1.5) brings back 0.990: scalar quantization loses less."
    )


def test_no_parameters_are_advised_where_nothing_is_lost() -> None:
    assert advice("scalar", FIELD, recall(0.99), recall(0.985, (True, 2.0, False, 1.0)))[1:] == [
        "The app needs no change: it loses at most 0.01."
    ]
    assert "has no effect any more" in advice("off", FIELD, recall(0.9), recall(1.0))[1]


def test_the_code_of_the_advice_runs() -> None:
    from qdrant_client import models

    line = advice("binary", FIELD, recall(0.99), LOSSY)[2]
    made = eval(line.removeprefix("search_params="), {"models": models})  # noqa: S307 - our own line
    assert made == models.SearchParams(quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))
