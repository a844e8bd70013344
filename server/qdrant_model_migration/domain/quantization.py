"""How are the vectors of a field quantized, how shall they be, and what does the app have to ask for then? Pure.

Seen on 1.16.3 and 1.17.0: a field's own setting goes before the collection's; a field without one inherits it; "Disabled" removes the own
setting, after which the field inherits again. So one field alone cannot be left out of the collection's setting: the collection's has to
go, and the other fields that inherited it are given it as their own, which quantizes none of them anew.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.collection import Collection, FieldKind, Json, VectorField, is_same_setting
from qdrant_model_migration.results import ConfigDifference, IndexRecall, RecallVariant

Kind = Literal["scalar", "product", "binary", "off"]
BINARY_DIMENSIONS = 1024
"""Qdrant's guide names models of 1,024 and more dimensions for binary quantization."""
TOLERATED_LOSS = 0.01
"""Of recall: what is lost less than this needs no search parameters."""
REQUESTED: dict[Kind, Json] = {
    # The quantile cuts off outliers, which would widen the steps of all; always_ram is what makes searches fast.
    "scalar": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
    "product": {"product": {"compression": "x16", "always_ram": True}},
    "binary": {"binary": {"always_ram": True}},
}


class QuantizationSettings(BaseModel):
    """The settings of one collection at both levels; what is None is not set there."""

    model_config = ConfigDict(frozen=True)

    collection: Json | None = None
    fields: dict[str, Json | None] = {}
    """Own setting of each dense field and multivector; sparse vectors are never quantized."""

    def effective(self, field: str) -> Json | None:
        """By what the field is quantized; None: not at all."""
        own = self.fields.get(field)
        return self.collection if own is None else own

    def inheriting(self, but: str) -> list[str]:
        """The other fields that follow the collection's setting."""
        return [name for name, own in self.fields.items() if own is None and name != but]


def settings_of(collection: Collection) -> QuantizationSettings:
    """What is set now. Keep it before anything is changed: it is what an undo restores."""
    return QuantizationSettings(
        collection=collection.config.get("quantization_config"),
        fields={f.name: f.config.get("quantization_config") for f in collection.fields if f.kind is not FieldKind.SPARSE},
    )


def requested(kind: Kind) -> Json | None:
    """The configuration that a kind stands for; None for off."""
    return None if kind == "off" else REQUESTED[kind]


def is_same(one: Json | None, other: Json | None) -> bool:
    """Equal, with the tolerance that numbers of a configuration need."""
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(
        is_same(a, b) if isinstance(a := one[key], dict) and isinstance(b := other[key], dict) else is_same_setting(a, other[key])
        for key in one
    )


def changed(current: QuantizationSettings, field: str, wanted: Json | None) -> QuantizationSettings:
    """The settings under which `field` is quantized as wanted and every other field as before."""
    if is_same(current.effective(field), wanted):
        return current
    others = current.inheriting(field)
    if current.fields.get(field) is None and current.collection is not None and not others:
        # It is the collection's setting, for this field alone: it stays there.
        return current.model_copy(update={"collection": wanted})
    if wanted is None and current.collection is not None:
        pinned = dict.fromkeys(others, current.collection)
        return QuantizationSettings(collection=None, fields={**current.fields, **pinned, field: None})
    return current.model_copy(update={"fields": {**current.fields, field: wanted}})


def restored(current: QuantizationSettings, previous: QuantizationSettings, field: str) -> QuantizationSettings:
    """The settings that undo `changed(previous, field, ...)`; what somebody else set for other fields meanwhile stays."""
    fields = dict(current.fields)
    if field in fields:
        fields[field] = previous.fields.get(field)
    for name, own in current.fields.items():
        was_pinned = current.collection is None and previous.collection is not None and is_same(own, previous.collection)
        if name != field and was_pinned and previous.fields.get(name, own) is None:
            fields[name] = None
    return QuantizationSettings(collection=previous.collection, fields=fields)


def request(current: QuantizationSettings, wanted: QuantizationSettings) -> Json:
    """The body of the update that leads from one to the other; empty when nothing differs. A setting is replaced, never merged."""
    body: Json = {}
    vectors = {
        name: {"quantization_config": "Disabled" if config is None else config}
        for name, config in wanted.fields.items()
        if not is_same(current.fields.get(name), config)
    }
    if vectors:
        body["vectors"] = vectors
    if not is_same(current.collection, wanted.collection):
        body["quantization_config"] = "Disabled" if wanted.collection is None else wanted.collection
    return body


def problem(kind: Kind, collection: Collection, field: VectorField, *, is_embedded: bool) -> str | None:
    """Why quantizing the field so cannot or need not be planned, or None."""
    why = obstacle(kind, field, is_embedded=is_embedded)
    now = settings_of(collection).effective(field.name)
    if why is None and is_same(now, requested(kind)):
        return f"{_label(field)} is not quantized as it is" if now is None else f"{_label(field)} is quantized exactly so already"
    return why


def obstacle(kind: Kind, field: VectorField, *, is_embedded: bool) -> str | None:
    """Why the field cannot be quantized so, whatever is set now; or None."""
    label = _label(field)
    if is_embedded:
        return "the embedded database does not quantize; it searches the originals exactly. Run a Qdrant server and set QDRANT_URL"
    if field.kind is FieldKind.SPARSE:
        return f"{label} is sparse, and Qdrant quantizes dense vectors only; its index takes datatype='float16' or 'uint8' at creation"
    if field.kind is FieldKind.MULTIVECTOR:
        return f"{label} is a multivector: it reranks few points, where quantization saves no time, and is not measured here"
    if field.datatype == "uint8" and kind != "off":
        return f"{label} stores bytes (uint8) already: quantization has nothing to gain"
    return None


def _label(field: VectorField) -> str:
    return f"{field.name!r}" if field.name else "the unnamed vector"


def warnings(kind: Kind, collection: Collection, field: VectorField) -> list[str]:
    """What to know before."""
    found: list[str] = []
    size = field.size or 0
    now = settings_of(collection).effective(field.name)
    if kind == "binary" and size < BINARY_DIMENSIONS:
        found.append(
            f"Binary quantization suits {BINARY_DIMENSIONS:,} dimensions and more; at {size} it may lose much recall. Scalar loses little."
        )
    if kind == "product":
        found.append("Product quantization saves most memory, but builds slowly and searches slower and less exactly than scalar.")
    if now is not None and kind in now and not is_same(now, REQUESTED[kind]):
        found.append(
            f"It is {kind} quantization already, with other parameters ({now[kind]}); they are replaced by {REQUESTED[kind][kind]}."
        )
    if kind == "off" and (field.config.get("hnsw_config") or collection.config.get("hnsw_config") or {}).get("inline_storage"):
        found.append("hnsw_config.inline_storage works with quantized vectors only: it will be without effect.")
    if kind != "off" and not collection.indexed_vectors:
        found.append(
            f"No vector of {collection.points:,} points is indexed yet. A segment is quantized when it is indexed, "
            f"above {(collection.config.get('optimizer_config') or {}).get('indexing_threshold') or 0:,} KB; until then it is searched exactly."
        )
    return found


def advice(
    kind: Kind, field: VectorField, before: IndexRecall | None, after: IndexRecall, *, max_oversampling: float | None = None
) -> list[str]:
    """What the app has to ask for so that it finds what it found before: one sentence each, then the line of code if there is one."""
    was = "" if before is None else f"{before.recall:.3f} before, "
    found = [
        f"Recall@{after.k} against exact search: {was}{after.recall:.3f} now (95 % interval {after.ci_low:.3f} to {after.ci_high:.3f}, "
        f"{after.queries} stored vectors as queries), with the app as it is."
    ]
    if kind == "off":
        return [*found, "Searches read the original vectors: 'quantization' in the app's search parameters has no effect any more."]
    goal = _goal(before, after)
    if after.recall >= goal:
        found.append(f"The app needs no change: it loses at most {TOLERATED_LOSS:.2f}.")
        return found
    enough = next((v for v in after.variants if v.recall >= goal and not v.ignore), None)
    best = max((v for v in after.variants if not v.ignore), key=lambda v: v.recall, default=None)
    chosen = enough or best
    if chosen is not None and chosen.recall > after.recall:
        found.append(f"With {_spoken(chosen)} it is {chosen.recall:.3f}. In the app's queries:")
        found.append(search_params(chosen))
    if enough is None:
        capped = "" if max_oversampling is None else f" (strict mode allows oversampling up to {max_oversampling:g})"
        instead = {
            "scalar": "raise hnsw_ef, or switch quantization off",
            "product": "scalar quantization loses less",
            "binary": f"scalar quantization loses less at {field.size} dimensions",
        }
        found.append(f"Nothing that was tried{capped} brings back {goal:.3f}: {instead[kind]}.")
    return found


def search_params(variant: RecallVariant) -> str:
    """The code with which the app asks for it."""
    options = [f"rescore={variant.rescore}"] if variant.rescore is not None else []
    options += [f"oversampling={variant.oversampling:g}"] if variant.oversampling is not None else []
    return f"search_params=models.SearchParams(quantization=models.QuantizationSearchParams({', '.join(options)}))"


def differences(before: QuantizationSettings, after: QuantizationSettings) -> list[ConfigDifference]:
    """What was set otherwise, at both levels."""
    fields = sorted(before.fields.keys() | after.fields.keys())
    rows = [(_path(name), before.fields.get(name), after.fields.get(name)) for name in fields]
    rows.append((_path(None), before.collection, after.collection))
    return [
        ConfigDifference(path=path, source=one, target=other, is_intended=True, note="the quantization that was asked for")
        for path, one, other in rows
        if not is_same(one, other)
    ]


def _path(field: str | None) -> str:
    return "quantization_config" if field is None else f"params.vectors.{field or chr(34) * 2}.quantization_config"


def _goal(before: IndexRecall | None, after: IndexRecall) -> float:
    """What the app should find: what it found before; if that is not known, what the index finds among the originals."""
    unquantized = next((v.recall for v in after.variants if v.ignore), 1.0)
    return (unquantized if before is None else before.recall) - TOLERATED_LOSS


def _spoken(variant: RecallVariant) -> str:
    parts = ["rescoring" if variant.rescore else "no rescoring"]
    if variant.oversampling is not None:
        parts.append(f"oversampling {variant.oversampling:g}")
    return " and ".join(parts)
