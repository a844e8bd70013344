"""What do several strategies' rules ask alike? Texts, models, the server's gates, readers and writers."""

from __future__ import annotations

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.observations import Advice, Observations
from qdrant_model_migration.domain.strategies import STRATEGY

FOREIGN = 0.02
"""From this share of letters outside ASCII on the texts are hardly plain English; accents in names stay below it."""
OLDEST_SOURCE = "1.11"
"""A source on another server is only read: scrolls, and samples drawn at random (1.11). All gates of writing are the target's."""


def needs_text(advice: Advice, seen: Observations) -> None:
    """Whatever is embedded needs texts, in the payload or in a file."""
    where = "the texts file" if seen.has_texts_file else f"'{seen.text_field}'"
    if seen.has_texts_file and seen.text_coverage <= 0:
        advice.refusals.append("The texts file holds no text for any sampled point: are its ids those of the points?")
    elif not seen.has_texts_file and (seen.text_field is None or seen.text_coverage <= 0):
        advice.refusals.append(
            "No payload field holds text, so nothing can be embedded. Pass the texts as a file keyed by point id (texts_file: JSONL or Parquet)."
        )
    elif seen.text_coverage < 1:
        advice.risks.append(f"{1 - seen.text_coverage:.1%} of the sampled points have no text in {where}: choose on_missing_text.")


def needs_dense_model(advice: Advice, seen: Observations) -> None:
    """A dense field takes the vectors of a dense model, and of another one than it holds."""
    if seen.field is None:
        advice.refusals.append("The collection has no dense vector to replace.")
    if seen.model is None:
        advice.refusals.append("No model was named.")
        return
    if seen.model.kind is not ModelKind.DENSE:
        advice.refusals.append(f"'{seen.model.name}' is a {seen.model.kind.value} model; a dense field needs a dense one.")
    elif seen.model_problem is not None:
        advice.refusals.append(f"'{seen.model.name}' cannot be asked for vectors here: {seen.model_problem}")
    if seen.is_current_known and seen.current is not None and seen.current.name == seen.model.name:
        advice.refusals.append(
            f"The stored vectors are those of '{seen.model.name}' already ({seen.match.sampled if seen.match else 0} sampled texts match)."
        )


def needs_guard(advice: Advice, seen: Observations) -> None:
    """The ledger and the target lie on one server, which must know conditional writes."""
    if not seen.can("update_filter"):
        advice.refusals.append(
            f"The ledger and the insert-only writes need conditional updates (Qdrant 1.15.4); {this_server(seen)}. Upgrade it first."
        )


def needs_same_server(advice: Advice, seen: Observations) -> None:
    """What happens in place cannot happen elsewhere."""
    if seen.is_elsewhere:
        advice.refusals.append("It changes the collection where it is, so not across servers: leave target_connection out.")


def this_server(seen: Observations) -> str:
    """The version that a gate is about, as the end of a sentence."""
    if seen.is_elsewhere:
        return f"the target's server is {seen.target_version}"
    return f"this server is {seen.server}"


def new_collection_needs(advice: Advice, seen: Observations) -> None:
    """What a second collection takes, wherever it is created."""
    if seen.collection.shard_keys:
        count = len(seen.collection.shard_keys)
        if seen.lands_embedded or seen.is_target_cluster is False:
            advice.refusals.append(
                f"Custom sharding ({count} shard keys) needs a server in cluster mode as the target; this one runs alone. Take another target_connection."
            )
        else:
            advice.reasons.append(f"The {count} shard keys are created on the target, and every point is written to its own.")
    if seen.readers == "self_resolving":
        if seen.is_elsewhere:
            advice.refusals.append("Self-resolving readers follow an alias, and none points to another server. Take readers='one_deploy'.")
        elif not seen.can("collection_metadata"):
            advice.refusals.append(
                f"Self-resolving readers need collection metadata (Qdrant 1.16); {this_server(seen)}. Take readers='one_deploy'."
            )
    if seen.is_elsewhere and "random_sample" not in seen.capabilities:
        advice.refusals.append(f"Reading a source needs Qdrant {OLDEST_SOURCE}; this one is {seen.server}. Upgrade it first.")
    if seen.is_elsewhere:
        advice.reasons.append(f"The target is created on the other server ({seen.target_version}); its version decides what can be done.")
        advice.prerequisites.append(
            f"Room on the other server. This one ({seen.server}) is only read, which any version from {OLDEST_SOURCE} on allows."
        )
    else:
        advice.prerequisites.append("Room for a second collection until the old one is deleted.")
    if seen.lands_embedded and not seen.is_embedded and seen.is_elsewhere:
        advice.risks.append("The target is an embedded database: one process at a time, no index. For trying out only.")


def embedding_risks(advice: Advice, seen: Observations) -> None:
    """What changes for queries when another dense model's vectors are searched."""
    model, old, size = seen.model, seen.field, seen.wanted_dimensions
    if model is None or old is None:
        return
    if size == old.size:
        advice.risks.append(f"Both models have {old.size} dimensions: a query by the wrong one returns nonsense without an error.")
    else:
        advice.risks.append(f"{old.size} -> {size} dimensions: a query by the wrong model is an error (400).")
    if old.distance and model.distance != old.distance:
        advice.risks.append(f"The field uses {old.distance}, the model was trained for {model.distance}.")
    if not seen.is_current_known:
        advice.risks.append(
            "The current model is not proven: no comparison against it, and later writes cannot be carried back by a rollback."
        )
    model_risks(advice, seen)


def model_risks(advice: Advice, seen: Observations) -> None:
    """What a person must know of the model itself."""
    if seen.model is not None and not seen.model.is_local and not is_in_server(seen):
        advice.risks.append("The texts leave this machine for the model's provider.")
    if seen.model is not None and seen.model.note:
        advice.risks.append(f"The model: {seen.model.note}.")


def is_in_server(seen: Observations) -> bool:
    """Whether the Qdrant server itself computes the vectors."""
    return seen.model is not None and seen.model.is_server_side


def reader_changes(advice: Advice, seen: Observations) -> None:
    """How each reader gets to the new collection together with the new query model."""
    if seen.is_elsewhere:
        advice.app_changes.append(
            "Readers change their connection, the collection's name and the query model in one release: no alias moves to another server."
        )
        return
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


def writer_changes(advice: Advice, seen: Observations) -> None:
    """How writes that arrive meanwhile reach a second collection."""
    match seen.writes:
        case "frozen":
            advice.app_changes.append("No writes from the start of the backfill to the swap.")
        case "dual_write":
            advice.app_changes.append(
                "Before the backfill: every write goes to the source first, then to the target (create_target gives the snippet)."
            )
        case "live":
            advice.app_changes.append(
                "Writers stay as they are until the cutover, write to the target from then on, and give it the target's vectors."
            )
            if int((seen.collection.config.get("params") or {}).get("shard_number") or 1) > 1:
                advice.risks.append("Several shards: a late write cannot be told from a newer one; prefer dual_write.")


def is_added_in_place(strategy: str, collection: Collection, *, can_add_field: bool, is_embedded: bool, is_elsewhere: bool = False) -> bool:
    """Whether a strategy's new field is added to the source itself; else a new collection takes the other fields as copies.

    `can_add_field`: the server has `create_vector_name` (1.18, and the embedded database); `is_elsewhere`: the target lies on
    another server. In the embedded database an unnamed vector may take plain upserts no longer once a field was added.
    """
    plan = STRATEGY[strategy]
    if plan.placement != "either":
        return plan.placement == "in_place"
    is_trapped = is_embedded and collection.field("") is not None
    return can_add_field and not is_elsewhere and not is_trapped


def added_field(advice: Advice, seen: Observations, kind: str) -> None:
    """Where a field beside the others is added, and what that means for whoever writes."""
    advice.is_in_place = is_added_in_place(
        advice.strategy,
        seen.collection,
        can_add_field=seen.can("create_vector_name"),
        is_embedded=seen.is_embedded,
        is_elsewhere=seen.is_elsewhere,
    )
    if advice.is_in_place:
        advice.reasons.append(f"The {kind} field is added in place (1.18): no copy, no swap.")
        advice.undo = "Stop querying the new field; finish_migration(action='discard_new') removes it."
    else:
        if STRATEGY[advice.strategy].placement == "either" and not seen.can("create_vector_name"):
            advice.reasons.append(
                f"Qdrant {seen.target_version} fixes the fields at creation: a new collection, the other vectors copied into it."
            )
        elif STRATEGY[advice.strategy].placement == "either":
            advice.reasons.append("A new collection is made, the other vectors copied into it.")
        new_collection_needs(advice, seen)
        advice.undo = "The old collection stays until it is deleted: before the swap discard_new, after it swap_alias(direction='back')."
    if STRATEGY[advice.strategy].model_kind is not ModelKind.SPARSE and seen.collection.field("") is not None:
        _unnamed(advice, seen)
    full = "A full upsert that omits a named vector deletes it"
    if seen.writes == "frozen":
        advice.risks.append(f"{full}: before writes resume every writer must know both fields, or update vectors only.")
    elif seen.writes == "dual_write":
        advice.app_changes.append(f"Writers give both fields from the start of the backfill. {full}.")
    else:
        advice.risks.append(f"{full}: until writers give both, each of their upserts loses the new one, which is then filled again.")
        advice.app_changes.append("Writers go on as they are; they must give both fields before readers rely on the new one.")


def _unnamed(advice: Advice, seen: Observations) -> None:
    """The trap of an unnamed vector beside a named one that is not sparse."""
    plain = "The old vector is unnamed, and beside a named one the embedded database refuses plain upserts of it"
    if not seen.lands_embedded:
        if advice.is_in_place:
            advice.risks.append("The old vector is unnamed: try the app's own upserts on a scratch collection with an added field first.")
    elif advice.is_in_place:
        advice.refusals.append(f"{plain}: writers would fail at once. Take 'side_by_side'.")
    else:
        advice.risks.append(f'{plain}: after the cutover writers write {{"": vector}}. A server takes both.')
