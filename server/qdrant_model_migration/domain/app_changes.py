"""What must the app change, and when? Said before anything is spent."""

from __future__ import annotations

from qdrant_model_migration.domain.breaks import unchanged_writer
from qdrant_model_migration.domain.collection import METADATA_KEY
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.updated_at import FULL_EVERY_S, SLACK_S, UpdatedAt

_TEXTS_WRITTEN_LATER = {
    "dual_write": "The texts come from a file, which knows nothing of what is written after it was made: the dual-write snippet takes `text_of(record)`, by which the app "
    "gives it the text as it is now.",
    "live": "The texts come from a file, which knows nothing of what is written after it was made: a new point gets no new vector from it (on_missing_text), and a "
    "point whose text changed keeps the vector of the old text. Use writes='dual_write' or 'frozen' unless only other fields change.",
}


def app_changes(migration: Migration, aliases: list[str], old_dimensions: int | None) -> list[str]:
    """Whose queries and writes must change, when and how; one sentence each, in order."""
    if migration.made is None:
        return [
            "Queries and writes stay as they are. What the index finds afterwards is measured; migration_status and the report say which search parameters "
            "(rescore, oversampling) bring back what is lost."
        ]
    found = _beside(migration) if migration.keeps_old_field else _replaced(migration, old_dimensions)
    if not aliases and not migration.is_in_place:
        found.append(
            f"No alias points to {migration.source.collection!r}: the app names the collection itself, so it must be changed to the alias that the swap creates, or to "
            f"{migration.target.collection!r}."
        )
    if migration.is_across_servers:
        found.append(
            f"The target lies on connection {migration.target.connection!r}: the release that names it also connects to that server. The swap creates the alias there and moves "
            "nobody; the one on the old server stays. No writer connects there before the swap, except by the dual-write snippet: until then the target is kept as a copy of the "
            "source, and what the source does not hold is deleted from it."
        )
    found.append(_writers(migration))
    if not migration.keeps_old_field and migration.writes != "frozen":
        found.append(
            f"Each writer changes its model at the moment at which it writes to {migration.target.collection!r}. {unchanged_writer(migration.spec, old_dimensions)}"
        )
    if migration.updated_at is not None:
        found.append(_told_by(migration.updated_at))
    if migration.texts is not None and migration.writes != "frozen":
        found.append(_TEXTS_WRITTEN_LATER[migration.writes])
    return found


def _replaced(migration: Migration, old_dimensions: int | None) -> list[str]:
    """Old queries find nothing sensible any more: model and collection change together."""
    model, target, field = migration.spec, migration.target.collection, migration.making.field
    using = f", using={field!r}" if field else ""
    query = f"Queries must be embedded with {model.name} ({model.dimensions} dimensions, query side{_prefix(model.query_prefix)}){using}"
    found: list[str] = []
    if migration.readers == "self_resolving":
        found.append(
            f"With every query readers resolve the alias once, read the model from that collection's metadata ({METADATA_KEY}.model) and query that collection "
            f"by its own name (not through the alias, which may move in between); then the swap is enough. {query}."
        )
        return found
    found.append(
        f"{query}, from the moment their collection is {target!r}: model and collection change together, in one release of each reader."
    )
    if old_dimensions != model.dimensions:
        found.append(
            f"A reader that still queries with the old model ({old_dimensions} dimensions) through a swapped alias fails with 'Wrong input: Vector dimension error'."
        )
    else:
        found.append(
            "A reader that still queries with the old model through a swapped alias gets nonsense without any error: both have the same dimensions."
        )
    if migration.readers == "rolling":
        found.append(
            f"With a rolling deploy old and new readers live at once: let the new release name {target!r} (or a new alias to it) itself, keep both collections "
            "current until the last old reader is gone, and swap the old alias only then."
        )
    else:
        found.append(
            f"Name {target!r} or a new alias in the release that has the new model, or swap the alias at the moment of the deploy."
        )
    return found


def _beside(migration: Migration) -> list[str]:
    """Old queries go on being answered: each reader changes by itself, when the new field is complete."""
    model, field, old = migration.spec, migration.making.field, migration.dense_field
    where = f"in {migration.target.collection!r}" if migration.is_in_place else "before and after the swap"
    named = "the unnamed vector" if old == "" else f"using={old!r}" if old is not None else "their vectors"
    found = [f"Old queries ({named}) go on being answered {where}: nothing has to change at a given moment."]
    match model.kind:
        case ModelKind.SPARSE:
            found.append(
                f"Each reader changes to hybrid search in its own release: two prefetches, dense and {field!r}, fused by RRF (query_snippet). Queries are embedded with "
                f"{model.name}{_options(model)}, exactly as the documents were."
            )
        case ModelKind.MULTIVECTOR:
            found.append(
                f"Each reader changes to reranking in its own release: a dense prefetch of 50 to 200 points, reranked with using={field!r} and queries embedded by "
                f"{model.name} (query_snippet)."
            )
        case _:
            found.append(
                f"Each reader changes in its own release: using={field!r}, and queries embedded with {model.name} ({model.dimensions} dimensions, query "
                f"side{_prefix(model.query_prefix)}) (query_snippet)."
            )
    if migration.has_fill_stage:
        found.append(
            f"No reader before {field!r} is complete: points that lack it are not found by it. migration_status tells the coverage, verify_target proves it."
        )
    return found


def _writers(migration: Migration) -> str:
    model, field = migration.spec, migration.making.field
    if migration.has_fill_stage:
        where = "through the alias, which leads to the copy after the swap, " if not migration.is_in_place else ""
        return (
            f"Writers may go on as they are, {where}while the worker runs: it fills {field!r} where an upsert left it out (a full upsert that omits a vector deletes it). "
            f"From the first reader of {field!r} on they write both vectors, or update payloads and single vectors only; edits of the text alone (set_payload) leave a "
            "stale vector behind: on a collection of one shard verify_target finds every one of them and repair_target embeds them again; elsewhere (several shards, a "
            "cluster, embedded) a sample finds some. A text that is taken away (delete_payload) leaves its vector, which is not found: it may be the app's own."
        )
    if migration.keeps_old_field:
        return {
            "frozen": f"Nothing writes to the source until the swap; afterwards writers use the alias and write {field!r} as well.",
            "dual_write": f"Writers use the dual-write snippet from the start of the backfill, and write {field!r} as well, to the new collection only, after the swap.",
            "live": f"Writers go on as they are; after the swap they write through the alias or to the new collection, and {field!r} of {model.name} as well. "
            + _WAITING,
        }[migration.writes]
    return {
        "frozen": "Nothing writes to the source from the start of the backfill until the swap; then writers use the alias, with vectors of the new model.",
        "dual_write": "Writers use the dual-write snippet from the start of the backfill, and write only to the new collection after the swap."
        if migration.making.kind == "embed"
        else f"Writers embed with {model.name} for the new collection as well, from the start of the backfill, and write only there after the swap.",
        "live": "Writers go on as they are; after the swap they must embed documents with the new model and write through the alias or to the new collection. "
        + _WAITING,
    }[migration.writes]


def _told_by(told: UpdatedAt) -> str:
    lacking = f" {1 - told.coverage:.0%} of the sampled points do not hold it." if told.coverage < 1 else ""
    return (
        f"Writes set {told.field!r} to their time, partial updates too: catch-up passes read what it says was written since the last one began, less {SLACK_S:.0f} s for clocks "
        f"that differ.{lacking} Deletes, and writes that leave it or state an earlier time, are found by a full pass: every {FULL_EVERY_S / 60:.0f} minutes (less often where one "
        "takes long), before 'backfilled', in every verification and before the swap."
    )


_WAITING = (
    "During the swap, usually for some seconds, at most a minute (should the worker die meanwhile, until another has taken over), Qdrant answers their writes with "
    "429: they must try again until it takes them, a request of several points whole (swap_alias with fence=false makes nobody wait)."
)


def _options(model: ModelSpec) -> str:
    return f" ({', '.join(f'{key}={value!r}' for key, value in sorted(model.options.items()))})" if model.options else ""


def _prefix(prefix: str) -> str:
    return f", prefixed {prefix!r}" if prefix else ""
