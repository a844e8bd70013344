"""When can a strategy be carried out, what speaks for and against it? One rule a strategy of the design's table."""

from __future__ import annotations

from collections.abc import Callable

from qdrant_model_migration.domain.estimates import HUGE_POINTS
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.observations import Advice, Goal, Observations, is_matryoshka


def _new_collection(advice: Advice, seen: Observations) -> None:
    _needs_text(advice, seen)
    _needs_dense_model(advice, seen)
    _needs_guard(advice, seen)
    if seen.collection.shard_keys:
        advice.refusals.append(f"Custom sharding ({len(seen.collection.shard_keys)} shard keys) is carried over by a later version only.")
    if seen.readers == "self_resolving" and "collection_metadata" not in seen.capabilities:
        advice.refusals.append(
            f"Self-resolving readers need collection metadata (Qdrant 1.16); this server is {seen.server}. Take readers='one_deploy'."
        )
    advice.reasons.append("Blue-green on any server version: the old collection stays untouched and is the rollback.")
    if seen.goal is Goal.COMPARE_MODELS:
        advice.reasons.append("compare_models on a sample answers first, before anything is created; then on the filled target.")
    if (
        seen.goal is Goal.REPLACE_MODEL
        and seen.has_same_base
        and _is_smaller(seen)
        and is_matryoshka(seen.model.name if seen.model else "")
    ):
        advice.reasons.append(
            "It is the same Matryoshka model at fewer dimensions: goal='shrink_vectors' shows how to cut instead of embedding anew."
        )
    if seen.goal is Goal.SHRINK_VECTORS:
        advice.reasons.append("Reaches the goal by embedding everything anew with a smaller model; the other two re-embed nothing.")
        if seen.model is not None and seen.field is not None and not _is_smaller(seen):
            advice.refusals.append(
                f"'{seen.model.name}' has {seen.model.dimensions} dimensions, not fewer than the {seen.field.size} stored."
            )
    advice.prerequisites.append("Room for a second collection until the old one is deleted.")
    _embedding_risks(advice, seen)
    _reader_changes(advice, seen)
    _writer_changes(advice, seen)
    advice.undo = (
        "Before the swap finish_migration(action='discard_new') removes the target, the source being unchanged; "
        "after it swap_alias(direction='back') until the old collection is deleted."
    )


def _side_by_side(advice: Advice, seen: Observations) -> None:
    _needs_text(advice, seen)
    _needs_dense_model(advice, seen)
    _needs_guard(advice, seen)
    advice.reasons.append("Old and new queries are answered by one collection, so that each reader changes at its own deploy.")
    if "create_vector_name" in seen.capabilities:
        advice.reasons.append("This server can add the field in place: 'named_vector' does the same without the copy.")
    else:
        advice.reasons.append(f"Qdrant {seen.server} fixes the vector fields at creation (1.18 does not), hence the copy.")
    advice.prerequisites.append("Room for a second collection that holds both vectors.")
    _two_fields(advice, seen)


def _named_vector(advice: Advice, seen: Observations) -> None:
    if "create_vector_name" not in seen.capabilities:
        advice.refusals.append(
            f"Adding a vector field to an existing collection needs Qdrant 1.18; this server is {seen.server}. 'side_by_side' does it by a copy."
        )
    if seen.field is not None and seen.field.name == "" and seen.is_embedded:
        advice.refusals.append("The embedded database no longer takes unnamed vectors once a named field was added. Take 'side_by_side'.")
    _needs_text(advice, seen)
    _needs_dense_model(advice, seen)
    _needs_guard(advice, seen)
    advice.is_in_place = True
    advice.reasons.append("The new field is added in place: no copy, no swap, and each reader changes at its own deploy.")
    if seen.field is not None and seen.field.name == "":
        advice.risks.append("The old vector is unnamed: try the app's own upserts on a scratch collection with an added field first.")
    _two_fields(advice, seen)


def _add_sparse(advice: Advice, seen: Observations) -> None:
    _needs_text(advice, seen)
    _needs_guard(advice, seen)
    _place(advice, seen, "sparse")
    name = seen.model.name if seen.model else "qdrant:bm25"
    if seen.model is not None and seen.model.kind is not ModelKind.SPARSE:
        advice.refusals.append(f"'{name}' is a {seen.model.kind.value} model; sparse vectors need a sparse one, such as 'qdrant:bm25'.")
    elif name.startswith("qdrant:") and "server_bm25" not in seen.capabilities:
        why = "the embedded database has none" if seen.is_embedded else f"this server is {seen.server}"
        advice.refusals.append(f"BM25 in the server needs Qdrant 1.15.2; {why}. A client-side model does it: 'fastembed:Qdrant/bm25'.")
    advice.reasons.append("The dense vectors are not re-embedded; only sparse ones are computed from the texts.")
    advice.prerequisites.append("The sparse field needs modifier=idf for BM25, and the same language and tokenizer at query time.")
    advice.risks += [
        "BM25 counts words of chunks, and stemming depends on the language.",
        "Hybrid search does not always win: compare dense alone with RRF.",
    ]
    advice.app_changes.append("Queries: two prefetches, dense and sparse, fused by RRF. Writers: both vectors with every upsert.")
    advice.undo = "Stop querying the sparse field; then remove it (1.18 and later), or go back to the old collection."


def _add_multivector(advice: Advice, seen: Observations) -> None:
    _needs_text(advice, seen)
    _needs_guard(advice, seen)
    _place(advice, seen, "multivector")
    if seen.model is not None and seen.model.kind is not ModelKind.MULTIVECTOR:
        advice.refusals.append(f"'{seen.model.name}' is a {seen.model.kind.value} model; reranking needs a late-interaction one (ColBERT).")
    advice.reasons.append("The dense vectors are not re-embedded; token vectors rerank a short list.")
    advice.prerequisites.append("Disk: one vector a token. Keep it on disk with HNSW off (m=0): it only reranks.")
    advice.risks.append(
        "Beside the dense field, at millions of points, queries took 13 s, and 2 s after its removal: measure, or use a collection of its own."
    )
    advice.app_changes.append("Queries: a dense prefetch of 50 to 200, reranked with using='multivector'. Writers: both with every upsert.")
    advice.undo = "Stop reranking; then remove the field (1.18 and later), or go back to the old collection."


def _truncate(advice: Advice, seen: Observations) -> None:
    _needs_guard(advice, seen)
    size = seen.field.size if seen.field else None
    wanted = seen.model.dimensions if seen.model else None
    if seen.field is None:
        advice.refusals.append("There is no dense vector to shorten.")
    if seen.current is None:
        advice.refusals.append("The current model is not stated, and only vectors of a Matryoshka model may be cut: pass current_model.")
    else:
        if not is_matryoshka(seen.current.name):
            advice.refusals.append(
                f"'{seen.current.name}' is not known to be a Matryoshka model: cut vectors may be useless. Have compare_models pass on a sample first."
            )
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
    advice.prerequisites.append(
        "Choose the dimensions by compare_models, for example at 256, 512 and 768."
        if wanted is None
        else "Room for a second, smaller collection."
    )
    advice.risks.append("Some recall is lost; how much only a comparison tells.")
    advice.app_changes.append("Queries ask the model for the same number of dimensions, together with the collection's change.")
    advice.undo = "The old collection keeps the full vectors until it is deleted."


def _linear_map(advice: Advice, seen: Observations) -> None:
    _needs_text(advice, seen)
    _needs_dense_model(advice, seen)
    _needs_guard(advice, seen)
    points = seen.collection.points
    if points >= HUGE_POINTS:
        advice.reasons.append(f"{points:,} points: only a sample of some 10,000 texts is embedded, the other vectors are mapped.")
    else:
        advice.reasons.append(f"Meant for 100 million points and more; at {points:,} embedding everything is exact and affordable.")
    advice.prerequisites.append("A sample embedded with the new model; a held-out part of it measures the recall.")
    advice.risks.append("Recall is lost, by how much depends on the pair of models: it is measured, never promised.")
    _reader_changes(advice, seen)
    advice.undo = "The old collection stays until it is deleted."


def _requantize(advice: Advice, seen: Observations) -> None:
    advice.is_in_place = True
    if seen.is_embedded:
        advice.refusals.append("The embedded database does not quantize.")
    if seen.field is None:
        advice.refusals.append("There is no dense vector to quantize.")
    elif seen.field.datatype == "uint8":
        advice.risks.append("The vectors are uint8 already: scalar quantization saves nothing more.")
    elif (seen.field.size or 0) < 1024:
        advice.risks.append(f"Binary quantization suits 1,024 dimensions and more; at {seen.field.size} take scalar.")
    advice.reasons.append("Configuration only: the server re-quantizes from the stored originals; no text, no model, no copy.")
    advice.risks.append("Recall falls a little: rescore, with oversampling for binary. The originals still take disk.")
    advice.app_changes.append("None, but search parameters: rescore=true, oversampling 2 to 4 for binary.")
    advice.undo = "Set the previous quantization again; the originals are kept."


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


# --- what several rules ask


def _is_smaller(seen: Observations) -> bool:
    new, old = seen.model.dimensions if seen.model else None, seen.field.size if seen.field else None
    return new is not None and old is not None and new < old


def _needs_text(advice: Advice, seen: Observations) -> None:
    if seen.text_field is None or seen.text_coverage <= 0:
        advice.refusals.append(
            "No payload field holds text, so nothing can be embedded. Texts from a file (texts_file) come with a later version; "
            "until then re-index from the source of the texts."
        )
    elif seen.text_coverage < 1:
        advice.risks.append(
            f"{1 - seen.text_coverage:.1%} of the sampled points have no text in '{seen.text_field}': choose on_missing_text."
        )


def _needs_dense_model(advice: Advice, seen: Observations) -> None:
    if seen.field is None:
        advice.refusals.append("The collection has no dense vector to replace.")
    if seen.model is None:
        advice.refusals.append("No model was named.")
        return
    if seen.model.kind is not ModelKind.DENSE:
        advice.refusals.append(f"'{seen.model.name}' is a {seen.model.kind.value} model; a dense field needs a dense one.")
    if seen.is_current_known and seen.current is not None and seen.current.name == seen.model.name:
        advice.refusals.append(
            f"The stored vectors are those of '{seen.model.name}' already ({seen.match.sampled if seen.match else 0} sampled texts match)."
        )


def _needs_guard(advice: Advice, seen: Observations) -> None:
    if "update_filter" not in seen.capabilities:
        advice.refusals.append(
            f"The ledger and the insert-only writes need conditional updates (Qdrant 1.15.4); this server is {seen.server}. Upgrade it first."
        )


def _place(advice: Advice, seen: Observations, kind: str) -> None:
    advice.is_in_place = "create_vector_name" in seen.capabilities
    if advice.is_in_place:
        advice.reasons.append(f"The {kind} field is added in place (1.18).")
    else:
        advice.reasons.append(f"Qdrant {seen.server} fixes the fields at creation: a new collection, the dense vectors copied into it.")
        advice.prerequisites.append("Room for a second collection.")


def _two_fields(advice: Advice, seen: Observations) -> None:
    _embedding_risks(advice, seen)
    advice.risks.append("A full upsert that omits a named vector deletes it: every writer must know both fields, or update vectors only.")
    advice.app_changes.append("Each reader changes 'using' and the query model in one deploy, whenever it likes.")
    advice.undo = "Readers go back to the old field; it stays until it is removed."


def _embedding_risks(advice: Advice, seen: Observations) -> None:
    model, old = seen.model, seen.field
    if model is None or old is None:
        return
    if model.dimensions == old.size:
        advice.risks.append(f"Both models have {old.size} dimensions: a query by the wrong one returns nonsense without an error.")
    else:
        advice.risks.append(f"{old.size} -> {model.dimensions} dimensions: a query by the wrong model is an error (400).")
    if old.distance and model.distance != old.distance:
        advice.risks.append(f"The field uses {old.distance}, the model was trained for {model.distance}.")
    if not seen.is_current_known:
        advice.risks.append(
            "The current model is not proven: no comparison against it, and later writes cannot be carried back by a rollback."
        )
    if not model.is_local:
        advice.risks.append("The texts leave this machine for the model's provider.")
    if model.note:
        advice.risks.append(f"The model: {model.note}.")


def _reader_changes(advice: Advice, seen: Observations) -> None:
    if seen.readers == "self_resolving":
        advice.app_changes.append("Readers take the model's name from the aliased collection's metadata with every query.")
    elif seen.readers == "rolling":
        advice.app_changes.append(
            "The release with the new query model names the new collection (or a new alias) itself; old instances keep the old one."
        )
        advice.risks.append(
            "Readers of both models run at once: an alias they share must not be swapped before the old release is drained."
        )
    else:
        advice.app_changes.append("One release changes the query model and the collection it names (or the alias is swapped with it).")
    if not seen.has_alias:
        advice.risks.append("No alias points to the collection: an app that names it directly cannot be switched by one.")
        advice.app_changes.append("That release names the new alias instead of the collection.")


def _writer_changes(advice: Advice, seen: Observations) -> None:
    match seen.writes:
        case "frozen":
            advice.app_changes.append("No writes from the start of the backfill to the swap.")
        case "dual_write":
            advice.app_changes.append(
                "Before the backfill: every write goes to the source first, then to the target (create_target gives the snippet)."
            )
        case "live":
            advice.app_changes.append(
                "Writers stay as they are until the swap, which makes them wait for seconds; afterwards they use the new model."
            )
            if int((seen.collection.config.get("params") or {}).get("shard_number") or 1) > 1:
                advice.risks.append(
                    "Several shards: without the write fence a late write cannot be told from a newer one; prefer dual_write."
                )
