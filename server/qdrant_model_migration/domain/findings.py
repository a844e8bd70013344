"""How is what was found told? Untrusted text fenced, long lists cut with a count, and what a person must be warned of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qdrant_model_migration.domain.collection import METADATA_KEY, Collection
from qdrant_model_migration.domain.texts import FieldStatistics, TextSource
from qdrant_model_migration.domain.untrusted import cleaned, fenced, is_hidden
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import InspectResult, Provenance

NAME_CHARS = 120
TEMPLATE_PROSE = 60
"""Characters of its own that a recorded template may have and still be passed on: a prefix, not a speech."""
_WORD = re.compile(r"[\w.:/@+-]{1,120}")
_MODEL = re.compile(r"[^\s\"'`«»]{1,200}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much an answer may hold. A token is estimated at four characters of JSON."""

    collections: int
    aliases: int
    indexes: int
    text_fields: int
    vectors: int
    migrations: int
    tokens: int


CONCISE = Limits(collections=25, aliases=10, indexes=15, text_fields=8, vectors=8, migrations=5, tokens=1_400)
DETAILED = Limits(collections=200, aliases=200, indexes=200, text_fields=60, vectors=60, migrations=50, tokens=10_000)


def limits_of(response_format: Literal["concise", "detailed"]) -> Limits:
    return DETAILED if response_format == "detailed" else CONCISE


def field_name_is_usable(name: str) -> bool:
    """Whether a payload's own key can be shown and passed as `text_field`."""
    return len(name) <= NAME_CHARS and not any(map(is_hidden, name)) and not {"{", "}"} & set(name)


def shown(value: Any, depth: int = 0, *, is_foreign: bool = False) -> Any:
    """Configuration for an answer. Long strings are cut; of the metadata, which is the application's own, all that is more than a word is fenced."""
    if isinstance(value, Mapping):
        entries = list(value.items())[:100] if depth < 8 else []
        found = {name_shown(str(k)): shown(v, depth + 1, is_foreign=is_foreign or (depth == 0 and k == "metadata")) for k, v in entries}
        return found if depth < 8 else "…"
    if isinstance(value, list | tuple):
        return [shown(v, depth + 1, is_foreign=is_foreign) for v in value[:50]]
    if not isinstance(value, str):
        return value
    return fenced(value, 200) if len(value) > NAME_CHARS or (is_foreign and not _WORD.fullmatch(value)) else value


def name_shown(name: str) -> str:
    """A name that is told and not passed on: fenced where it is too long or hides something."""
    return name if len(name) <= NAME_CHARS and not any(map(is_hidden, name)) else cleaned(name, NAME_CHARS)


def fitted(result: InspectResult, limits: Limits) -> InspectResult:
    """The answer within its limits: lists are cut from the end, and `omitted` counts what was left out."""
    result = result.model_copy(deep=True)
    info = result.collection
    outer: dict[str, tuple[list[Any], int]] = {
        "collections": (result.collections, limits.collections),
        "aliases": (result.aliases, limits.aliases),
        "migrations": (result.migrations, limits.migrations),
    }
    inner: dict[str, tuple[list[Any], int]] = {}
    if info is not None:
        inner = {
            "text_fields": (info.text_fields, limits.text_fields),
            "payload_indexes": (info.payload_indexes, limits.indexes),
            "aliases": (info.aliases, limits.aliases),
            "vectors": (info.vectors, limits.vectors),
            "sparse_vectors": (info.sparse_vectors, limits.vectors),
        }
    for lists, omitted in ((outer, result.omitted), (inner, info.omitted if info else {})):
        for name, (entries, most) in lists.items():
            _cut(name, entries, most, omitted)
    while len(result.model_dump_json()) / 4 > limits.tokens:
        if not _shorten_longest(result, outer, inner):
            break
    return result


def _shorten_longest(result: InspectResult, outer: dict[str, tuple[list[Any], int]], inner: dict[str, tuple[list[Any], int]]) -> bool:
    """Takes a quarter off the list that takes most room; False when nothing is left to cut."""
    info = result.collection
    places = [(entries, result.omitted, name) for name, (entries, _) in outer.items()]
    places += [(entries, info.omitted, name) for name, (entries, _) in inner.items()] if info else []
    size, entries, omitted, name = max(
        ((sum(len(str(e)) for e in entries), entries, omitted, name) for entries, omitted, name in places), key=lambda p: p[0]
    )
    if len(entries) > 1:
        _cut(name, entries, max(1, len(entries) * 3 // 4), omitted)
        return True
    if info is not None and info.config is not None:
        info.config = None
        info.omitted["config"] = 1
        return True
    if size and entries:
        _cut(name, entries, 0, omitted)
        return True
    return False


def _cut(name: str, entries: list[Any], most: int, omitted: dict[str, int]) -> None:
    if len(entries) > most:
        omitted[name] = omitted.get(name, 0) + len(entries) - most
        del entries[most:]


# What mcp-server-qdrant can name its vector: 'fast-' and the last part of FastEmbed's name, in lower case.
_FAST = {
    "all-minilm-l6-v2": "fastembed:sentence-transformers/all-MiniLM-L6-v2",
    "paraphrase-multilingual-minilm-l12-v2": "fastembed:sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
    "bge-small-en": "fastembed:BAAI/bge-small-en",
    "bge-small-en-v1.5": "fastembed:BAAI/bge-small-en-v1.5",
    "bge-base-en": "fastembed:BAAI/bge-base-en",
    "bge-base-en-v1.5": "fastembed:BAAI/bge-base-en-v1.5",
    "bge-large-en-v1.5": "fastembed:BAAI/bge-large-en-v1.5",
    "multilingual-e5-large": "fastembed:intfloat/multilingual-e5-large",
    "nomic-embed-text-v1.5": "fastembed:nomic-ai/nomic-embed-text-v1.5",
    "mxbai-embed-large-v1": "fastembed:mixedbread-ai/mxbai-embed-large-v1",
}


def provenance_of(found: Collection, framework: str | None) -> Provenance | None:
    """Which model wrote the vectors, as far as anything says so: this tool's metadata, else a vector's telling name."""
    recorded = found.metadata.get(METADATA_KEY)
    if isinstance(recorded, Mapping):
        model = recorded.get("model")
        name = model.get("name") if isinstance(model, Mapping) else model
        dimensions = recorded.get("dimensions", model.get("dimensions") if isinstance(model, Mapping) else None)
        return Provenance(
            model=_matching(_MODEL, name),
            dimensions=dimensions
            if isinstance(dimensions, int) and not isinstance(dimensions, bool) and 0 < dimensions <= 65_536
            else None,
            text_field=_recorded_text_field(recorded.get("text_field")),
            migration_id=_matching(_WORD, recorded.get("migration_id")),
            source=f"the collection's metadata ('{METADATA_KEY}'), written by this tool",
        )
    for field in found.dense:
        tail = field.name.removeprefix("fast-")
        if tail != field.name and tail in _FAST:
            return Provenance(
                model=_FAST[tail],
                dimensions=field.size,
                text_field="document" if framework == "mcp-server-qdrant" else None,
                source=f"the vector's name '{field.name}', as mcp-server-qdrant and qdrant-client's FastEmbed write it; not proven",
            )
    return None


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    """What the metadata says, when it can be what it is said to be: anybody who writes to the collection may have put it there."""
    return value if isinstance(value, str) and pattern.fullmatch(value) and not any(map(is_hidden, value)) else None


def _recorded_text_field(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        source = TextSource.parse(value)
    except Refused:
        return None
    prose = sum(len(literal) for literal, _ in source.parts) if source.is_template else 0
    names = source.fields
    return value if prose <= TEMPLATE_PROSE and names and all(len(n) <= NAME_CHARS and not any(map(is_hidden, n)) for n in names) else None


def collection_warnings(
    found: Collection, fields: Sequence[FieldStatistics], bare: Mapping[str, int], looked: int, sampled: int, *, is_embedded: bool
) -> list[str]:
    """What speaks against a migration as things are, each with its remedy. `bare` counts points without a field's vector, of `looked`."""
    if not found.points:
        return [f"'{found.name}' is empty: there is nothing to migrate. Create it anew with the new model."]
    warnings = []
    if found.status == "grey":
        warnings.append(
            "Status grey: optimizations wait since a restart and do not resume by themselves. Any write wakes them; then wait for green."
        )
    elif found.status == "yellow":
        warnings.append("Status yellow: the optimizer is at work. Latencies and index figures are worse than usual until it is green.")
    elif found.status == "red" or not found.optimizer_ok:
        reason = f": {cleaned(found.optimizer_error, 160)}" if found.optimizer_error else ""
        warnings.append(f"Status red: the optimizer failed{reason}. Look at the server's log and its disk before anything is written.")
    if not found.fields:
        warnings.append("The points hold payload only: there is no vector to migrate.")
    for name, count in bare.items():
        if count:
            label = f"vector '{name}'" if name else "vector"
            warnings.append(
                f"{count} of {looked} sampled points have no {label}: they are carried over without one unless their text is embedded."
            )
    if not fields:
        warnings.append(f"No text was found in {sampled} sampled payloads: nothing could be embedded anew from this collection.")
    elif fields[0].coverage < 1:
        warnings.append(
            f"{1 - fields[0].coverage:.1%} of the sampled points hold no text in the best field: on_missing_text decides about them."
        )
    if not found.aliases:
        warnings.append(
            "No alias points here: an app that uses the collection's own name cannot be switched by one. Let its next release use an alias."
        )
    if found.shard_keys:
        warnings.append(
            f"Custom sharding: {_keys(found)}. A new collection gets the same keys, shards and replicas, which needs a cluster; every point is "
            "written to its own key, and an app that writes must name the key as well."
        )
    resting = [r.label for r in found.replicas if not r.is_active]
    if resting:
        warnings.append(
            f"{len(resting)} of {len(found.replicas)} replicas are not active ({'; '.join(resting[:3])}): wait for them, or see to their peers, first."
        )
    if is_embedded and found.points > 20_000:
        warnings.append("The embedded database is slow beyond 20,000 points; a server (QDRANT_URL) is made for this.")
    return warnings


def _keys(found: Collection, most: int = 5) -> str:
    """`3 shard keys ('a': 1 shard x 2 replicas; ...)`."""
    numbers = [(c, c.get("shards_number", 1), c.get("replication_factor", 1)) for c in found.shard_key_config]
    told = [f"{cleaned(repr(c['key']))}: {s} shard{'s' * (s != 1)} x {r} replica{'s' * (r != 1)}" for c, s, r in numbers[:most]]
    more = f"; and {len(numbers) - most} more" if len(numbers) > most else ""
    count = len(found.shard_keys)
    return f"{count} shard key{'s' * (count != 1)}" + (f" ({'; '.join(told)}{more})" if told else "")
