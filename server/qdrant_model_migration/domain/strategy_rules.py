"""When can a strategy be carried out, what speaks for and against it? One rule a strategy of domain/strategies.py."""

from __future__ import annotations

from collections.abc import Callable

from qdrant_model_migration.domain.estimates import HUGE_POINTS, human_bytes, multivector_bytes
from qdrant_model_migration.domain.linear_map import RECALL_FLOOR, fewest_pairs
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.observations import Advice, Goal, Observations, is_matryoshka
from qdrant_model_migration.domain.quantization import BINARY_DIMENSIONS, Kind, problem, settings_of
from qdrant_model_migration.domain.strategy_facts import (
    FOREIGN,
    added_field,
    embedding_risks,
    model_risks,
    needs_dense_model,
    needs_guard,
    needs_same_server,
    needs_text,
    new_collection_needs,
    reader_changes,
    this_server,
    writer_changes,
)


def _new_collection(advice: Advice, seen: Observations) -> None:
    needs_text(advice, seen)
    needs_dense_model(advice, seen)
    needs_guard(advice, seen)
    advice.reasons.append("Blue-green on any server version: the old collection stays untouched and is the rollback.")
    if seen.goal is Goal.COMPARE_MODELS:
        advice.reasons.append("compare_models on a sample answers first, before anything is created; then on the filled target.")
    if seen.goal is Goal.SHRINK_VECTORS:
        advice.reasons.append("Reaches the goal by embedding everything anew with a smaller model; the other two re-embed nothing.")
        if seen.model is not None and seen.field is not None and not seen.is_smaller:
            advice.refusals.append(
                f"'{seen.model.name}' has {seen.wanted_dimensions} dimensions, not fewer than the {seen.field.size} stored."
            )
    new_collection_needs(advice, seen)
    embedding_risks(advice, seen)
    reader_changes(advice, seen)
    writer_changes(advice, seen)
    advice.undo = (
        "Before the swap finish_migration(action='discard_new') removes the target, the source being unchanged; "
        "after it swap_alias(direction='back') until the old collection is deleted."
    )
    if seen.is_elsewhere:
        advice.undo = "Readers go back to the old connection; the source is unchanged until it is deleted."


def _side_by_side(advice: Advice, seen: Observations) -> None:
    needs_text(advice, seen)
    needs_dense_model(advice, seen)
    needs_guard(advice, seen)
    advice.reasons.append("Old and new queries are answered by one collection, so that each reader changes at its own deploy.")
    if not seen.is_elsewhere and seen.can("create_vector_name") and not (seen.is_embedded and seen.collection.field("") is not None):
        advice.reasons.append("This server can add the field in place: 'named_vector' does the same without the copy.")
    else:
        advice.reasons.append(f"Qdrant {seen.target_version} fixes the vector fields at creation (1.18 does not), hence the copy.")
    if seen.writes == "live":
        advice.reasons.append(
            "Writers need no dual write: after the fast copy the cutover can come early, the slow embedding goes on where they then write."
        )
    added_field(advice, seen, "second dense")
    advice.prerequisites.append("Room in it for both vectors.")
    if not seen.has_alias and not seen.is_elsewhere:
        advice.prerequisites.append(
            "An alias: no alias points to the collection, so one release has to name the new one (or an alias) first."
        )
    _each_reader(advice, seen)


def _named_vector(advice: Advice, seen: Observations) -> None:
    if not seen.is_elsewhere and not seen.can("create_vector_name"):
        advice.refusals.append(
            f"Adding a vector field to an existing collection needs Qdrant 1.18; {this_server(seen)}. 'side_by_side' does it by a copy."
        )
    needs_same_server(advice, seen)
    needs_text(advice, seen)
    needs_dense_model(advice, seen)
    needs_guard(advice, seen)
    added_field(advice, seen, "new")
    advice.reasons.append("Each reader changes at its own deploy, and the collection keeps its name.")
    _each_reader(advice, seen)


def _each_reader(advice: Advice, seen: Observations) -> None:
    embedding_risks(advice, seen)
    advice.app_changes.append("Each reader changes 'using' and the query model in one deploy, whenever it likes.")
    advice.undo = "Readers go back to the old field; it stays until finish_migration removes it."


def _add_sparse(advice: Advice, seen: Observations) -> None:
    needs_text(advice, seen)
    needs_guard(advice, seen)
    name = seen.model.name if seen.model else "qdrant:bm25"
    if seen.model is not None and seen.model.kind is not ModelKind.SPARSE:
        advice.refusals.append(f"'{name}' is a {seen.model.kind.value} model; sparse vectors need a sparse one, such as 'qdrant:bm25'.")
    elif (seen.model is None or seen.model.is_server_side) and not seen.can("server_bm25"):
        why = "the embedded database has none" if seen.lands_embedded else this_server(seen)
        advice.refusals.append(f"BM25 in the server needs Qdrant 1.15.2; {why}. A client-side model does it: 'fastembed:Qdrant/bm25'.")
    advice.reasons.append("The dense vectors are not re-embedded; only sparse ones are computed from the texts.")
    added_field(advice, seen, "sparse")
    # A configured name need not say it.
    is_bm25 = "bm25" in name.lower() or (seen.model is not None and seen.model.is_server_side and seen.model.modifier == "idf")
    if is_bm25:
        advice.prerequisites.append("BM25: the field gets modifier=idf; queries need the language and tokenizer of the documents.")
        advice.risks.append("BM25 counts words of chunks, not of documents: word frequencies and lengths are those of the chunks.")
    if seen.foreign_letters >= FOREIGN:
        advice.risks.append(
            f"{seen.foreign_letters:.0%} of the sampled letters are not ASCII: the texts are hardly all English. "
            + (
                "Set 'language' (stemming, stop words) and the tokenizer to fit."
                if is_bm25
                else f"Check that '{name}' knows their language."
            )
        )
    advice.risks.append("Hybrid search does not always win: compare dense alone with RRF.")
    model_risks(advice, seen)
    advice.app_changes.append(
        "Queries: two prefetches, dense and sparse, fused by RRF; dense queries go on working. Each reader at its own deploy."
    )


def _add_multivector(advice: Advice, seen: Observations) -> None:
    needs_text(advice, seen)
    needs_guard(advice, seen)
    if seen.model is None:
        advice.refusals.append("No model was named: reranking needs a late-interaction one (ColBERT).")
    elif seen.model.kind is not ModelKind.MULTIVECTOR:
        advice.refusals.append(f"'{seen.model.name}' is a {seen.model.kind.value} model; reranking needs a late-interaction one (ColBERT).")
    advice.reasons.append("The dense vectors are not re-embedded; token vectors rerank a short list.")
    added_field(advice, seen, "multivector")
    if seen.model is not None and seen.model.dimensions:
        size = multivector_bytes(seen.collection.points, seen.model.dimensions, seen.rows)
        each = f"{seen.rows:,.0f} (measured)" if seen.rows else "some 128"
        advice.prerequisites.append(f"{human_bytes(size)} of disk for token vectors: {each} of {seen.model.dimensions} numbers a point.")
    advice.prerequisites.append("The field lies on disk with HNSW off (m=0): it only reranks.")
    advice.risks.append(
        "Beside the dense field, at millions of points, queries took 13 s, and 2 s after its removal: measure, or use a collection of its own."
    )
    model_risks(advice, seen)
    advice.app_changes.append("Queries: a dense prefetch of 50 to 200, reranked by the multivector field. Each reader at its own deploy.")


def _truncate(advice: Advice, seen: Observations) -> None:
    needs_guard(advice, seen)
    size, wanted = seen.field.size if seen.field else None, seen.wanted_dimensions
    if seen.field is None:
        advice.refusals.append("There is no dense vector to shorten.")
    elif seen.field.datatype == "uint8":
        advice.refusals.append("The vectors are uint8: cut and renormalised they would round to zeros. 'requantize' is not needed either.")
    if seen.current is None:
        advice.refusals.append("The current model is not stated, and only vectors of a Matryoshka model may be cut: pass current_model.")
    else:
        if not is_matryoshka(seen.current.name) and not seen.has_passed_comparison:
            found = (
                f" Cut to {seen.cut.dimensions} they find {seen.cut.recall_at_k:.0%} of their true neighbours in a sample."
                if seen.cut
                else ""
            )
            advice.refusals.append(
                f"'{seen.current.name}' is not known to be a Matryoshka model: cut vectors may be useless.{found} "
                "Have compare_models pass first, between the whole model and the model at those dimensions."
            )
            advice.needs_comparison = seen.model is not None and seen.has_same_base and seen.is_smaller
        if seen.match is not None and not seen.match.is_match:
            advice.refusals.append(
                "The stored vectors are not those of the stated current model (source_match), so it says nothing about cutting them."
            )
        if seen.model is not None and not seen.has_same_base:
            advice.refusals.append(
                f"'{seen.model.name}' is another model than '{seen.current.name}': its vectors cannot be had by cutting."
            )
        elif wanted and size and wanted >= size:
            advice.refusals.append(f"{wanted} dimensions are not fewer than the {size} stored.")
    advice.reasons.append("Cut and renormalised: nothing is re-embedded, and no text is needed.")
    if seen.has_passed_comparison:
        advice.reasons.append("The comparison of the whole model with the model at these dimensions has passed.")
    if seen.cut is not None:
        advice.reasons.append(
            f"Cut to {seen.cut.dimensions}, vectors find {seen.cut.recall_at_k:.0%} of their true neighbours in a sample."
        )
    if wanted and size:
        advice.risks.append(f"{size} -> {wanted} dimensions: a query by the whole model's vector is an error (400).")
    if wanted is None:
        advice.prerequisites.append("A choice of dimensions, by the recall that 'dimensions' of this answer lists: a person's choice.")
    new_collection_needs(advice, seen)
    advice.risks.append("Some recall is lost: measured on a sample beforehand, and by compare_models on the target.")
    advice.app_changes.append("Queries ask the model for the same number of dimensions, together with the collection's change.")
    reader_changes(advice, seen)
    writer_changes(advice, seen)
    advice.undo = "The old collection keeps the full vectors until it is deleted."


def _linear_map(advice: Advice, seen: Observations) -> None:
    needs_text(advice, seen)
    needs_dense_model(advice, seen)
    needs_guard(advice, seen)
    if seen.field is not None and seen.field.datatype == "uint8":
        advice.refusals.append("The stored vectors are uint8: a map fitted on rounded whole numbers keeps too little of them.")
    points = seen.collection.points
    pairs = int(points * seen.text_coverage)
    needed = fewest_pairs(seen.field.size or 0) if seen.field else 0
    if pairs < needed:
        advice.refusals.append(f"{pairs} texts are too few to fit a map on some and judge it on others ({needed} are needed).")
    if points >= HUGE_POINTS:
        advice.reasons.append(f"{points:,} points: only a sample of some 10,000 texts is embedded, the other vectors are mapped.")
    else:
        advice.reasons.append(f"Meant for 100 million points and more; at {points:,} embedding everything is exact and affordable.")
    advice.prerequisites.append(
        f"A sample embedded with the new model; if the recall on its held-out part is below the floor ({RECALL_FLOOR:.2f}), the map is refused."
    )
    new_collection_needs(advice, seen)
    advice.risks.append("Recall is lost, by how much depends on the pair of models: it is measured, never promised.")
    embedding_risks(advice, seen)
    reader_changes(advice, seen)
    writer_changes(advice, seen)
    advice.undo = "The old collection stays until it is deleted."


def _requantize(advice: Advice, seen: Observations) -> None:
    advice.is_in_place = True
    needs_same_server(advice, seen)
    if seen.is_embedded:
        advice.refusals.append("The embedded database does not quantize.")
    elif not seen.is_elsewhere:
        needs_guard(advice, seen)
    if seen.field is None:
        advice.refusals.append("There is no dense vector to quantize.")
    else:
        _choose_quantization(advice, seen)
    advice.reasons.append("Configuration only: the server re-quantizes from the stored originals; no text, no model, no copy.")
    advice.risks.append("Recall falls a little: rescore, with oversampling for binary. The originals still take disk.")
    if seen.field is not None and seen.field.config.get("on_disk") is not True:
        advice.risks.append("The originals lie in RAM: quantized copies come on top, and RAM falls only when the originals are on disk.")
    advice.app_changes.append("None, but search parameters: rescore=true, oversampling 2 to 4 for binary.")
    advice.undo = "Set the previous quantization again; the originals are kept."


def _choose_quantization(advice: Advice, seen: Observations) -> None:
    """What to set: scalar, which loses least, unless it is set already; the reasons against it are those of create_target."""
    assert seen.field is not None
    size = seen.field.size or 0
    present = settings_of(seen.collection).effective(seen.field.name) or {}
    kind: Kind | None = "scalar" if "scalar" not in present else "binary" if size >= BINARY_DIMENSIONS else None
    why = problem(kind or "off", seen.collection, seen.field, is_embedded=False)
    if why is not None:
        advice.refusals.append(f"{why[0].upper()}{why[1:]}.")
        return
    if size < BINARY_DIMENSIONS:
        advice.risks.append(f"Binary quantization suits {BINARY_DIMENSIONS:,} dimensions and more; at {size} take scalar.")
    advice.quantization = kind
    if kind == "scalar":
        now = next(iter(present), None)
        advice.reasons.append("Scalar (a quarter of the RAM) is the careful choice" + (f"; now it is {now}." if now else "."))
    elif kind == "binary":
        advice.reasons.append(f"Scalar is set already; binary (a 32nd of the RAM) suits {size} dimensions, with rescoring.")
    else:
        advice.prerequisites.append("A choice of 'quantization' (product, binary, off): scalar is set already.")


RULES: dict[str, Callable[[Advice, Observations], None]] = {
    "new_collection": _new_collection,
    "side_by_side": _side_by_side,
    "named_vector": _named_vector,
    "add_sparse": _add_sparse,
    "add_multivector": _add_multivector,
    "truncate": _truncate,
    "linear_map": _linear_map,
    "requantize": _requantize,
}
