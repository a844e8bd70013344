"""What would a migration be? The request resolved against what is there: source, model, texts, target, recipes. Nothing is written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain import quantization
from qdrant_model_migration.domain.app_changes import app_changes
from qdrant_model_migration.domain.collection import Collection, VectorField
from qdrant_model_migration.domain.derived import check_datatype
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec
from qdrant_model_migration.domain.recipe import Endpoint, Gate
from qdrant_model_migration.domain.strategies import Strategy
from qdrant_model_migration.domain.target import EMBEDDED_UNSTATED, TargetPlan, default_field, plan_target, target_name
from qdrant_model_migration.domain.texts import NoTexts, Texts, TextSource, framework_of, text_statistics
from qdrant_model_migration.domain.texts_file import TextsFile, coverage
from qdrant_model_migration.domain.updated_at import UpdatedAt, understood
from qdrant_model_migration.errors import AlreadyExists, Refused, RequestRejected, Unsupported
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.naming import check_new_name
from qdrant_model_migration.operations.sampling import sample_points
from qdrant_model_migration.operations.source_match import source_match
from qdrant_model_migration.operations.truncating import check_truncation, truncated_model
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import SourceMatch

NOTHING = "Nothing was changed"


class Request(BaseModel):
    """The arguments that define a migration; the same ones mean the same migration."""

    model_config = ConfigDict(frozen=True)

    collection: str
    strategy: str
    model: str | None = None
    text_field: str | None = None
    texts_file: str | None = None
    target: str | None = None
    vector: str | None = None
    new_vector: str | None = None
    dimensions: int | None = None
    current_model: str | None = None
    alias: str | None = None
    writes: Literal["frozen", "dual_write", "live"] = "live"
    readers: Literal["one_deploy", "rolling", "self_resolving"] = "one_deploy"
    on_missing_text: Literal["payload_only", "skip", "stop"] = "payload_only"
    on_long_text: Literal["truncate", "stop"] = "truncate"
    on_disk: bool | None = None
    quantization: Literal["scalar", "product", "binary", "off"] | None = None
    sample_size: int | None = None
    gate: Gate | None = None
    updated_at_field: str | None = None
    connection: str | None = None
    target_connection: str | None = None

    def digest(self, source: str) -> str:
        """Of the resolved request: an alias and its collection ask for the same, and so do no connection and the default one."""
        here = self.connection or "default"
        fields = self.model_dump(mode="json") | {
            "collection": source,
            "connection": here,
            "target_connection": self.target_connection or here,
        }
        if self.updated_at_field is None:
            # So that a request of a version that did not know it is still the same.
            del fields["updated_at_field"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Both sides as they are before anything is created; in place they are one."""

    source_gateway: Gateway
    target_gateway: Gateway
    source: Collection
    strategy: Strategy
    is_in_place: bool


async def plan_migration(context: OperationContext, sides: Sides, request: Request, migrations: list[Migration]) -> Migration:
    """The migration as it would be recorded.

    Raises:
        MigrationError: what stands in the way; nothing is written.
    """
    source, strategy = sides.source, sides.strategy
    _check_idle(strategy, request, is_in_place=sides.is_in_place)
    if strategy.made is None:
        return await _requantization(context, sides, request, migrations)
    old = _old_field(sides, request)
    texts, file = await _texts(context, sides, request)
    match = await _match(context, sides, old, texts, request)
    spec = await _model(context, sides, old, match, request)
    names = await _taken(context, sides, request, spec)
    new_name = request.new_vector if request.new_vector is not None else default_field(strategy, old, spec, {f.name for f in source.fields})
    replaced = None if strategy.adds_field or old is None else old.name
    if new_name != replaced and source.field(new_name) is not None:
        raise Refused(f"{NOTHING}: {source.name!r} has a vector {new_name!r} already. Choose another 'new_vector'.")
    if new_name == "" and spec.kind is not ModelKind.DENSE:
        raise Refused(f"{NOTHING}: a {spec.kind.value} vector needs a name; give 'new_vector', or leave it out.")
    migration_id = _new_id(request.digest(source.name), migrations)
    facts = await sides.target_gateway.facts()
    plan = plan_target(
        source,
        old,
        spec,
        new_name=new_name,
        text_field=texts.expression,
        migration_id=migration_id,
        has_metadata=facts.can("collection_metadata"),
        on_disk=request.on_disk,
        strategy=strategy,
        is_in_place=sides.is_in_place,
        quantization=_quantization(request, spec),
    )
    migration = _migration(sides, request, plan, migration_id, target=names).model_copy(
        update={
            "model": spec,
            "current_model": match.model if match else None,
            "source_match": match,
            "text_field": texts.expression if isinstance(texts, TextSource) else "",
            "framework": framework_of(p.payload for p in await sample_points(sides.source_gateway, sides.source, 200)),
            "texts": file,
            "dense_field": old.name if old is not None else None,
            "updated_at": await _updated_at(sides, request),
        }
    )
    changes = app_changes(migration, list(source.aliases), old.size if old is not None else None)
    return migration.model_copy(update={"app_changes": tuple(changes)})


_OF_A_NEW_FIELD = ("model", "texts_file", "new_vector", "dimensions", "on_disk", "gate")
"""Arguments that say nothing where only the configuration changes."""


def _check_idle(strategy: Strategy, request: Request, *, is_in_place: bool) -> None:
    """Refuse what would be ignored.

    Raises:
        Refused: names the arguments.
    """
    idle = [name for name in _OF_A_NEW_FIELD if strategy.made is None and getattr(request, name) is not None]
    if request.sample_size is not None and strategy.made != "linear_map":
        idle.append("sample_size")
    if request.quantization is not None and strategy.model_kind is ModelKind.SPARSE:
        idle.append("quantization")
    if request.updated_at_field is not None and (is_in_place or strategy.made is None):
        # There is no copy that follows.
        idle.append("updated_at_field")
    if strategy.made is None and request.target not in (None, request.collection):
        idle.append("target")
    if idle:
        raise Refused(f"{NOTHING}: '{strategy.name}' has no use for {', '.join(map(repr, idle))}. Leave it out.")


def _migration(sides: Sides, request: Request, plan: TargetPlan, migration_id: str, *, target: str) -> Migration:
    return Migration(
        id=migration_id,
        arguments_digest=request.digest(sides.source.name),
        created_at=now(),
        intent="creating",
        strategy=sides.strategy.name,
        placement="in_place" if sides.is_in_place else "new_collection",
        source=Endpoint(connection=sides.source_gateway.connection.name, collection=sides.source.name),
        target=Endpoint(connection=sides.target_gateway.connection.name, collection=target),
        recipes=plan.recipes,
        writes=request.writes,
        readers=request.readers,
        on_missing_text=request.on_missing_text,
        on_long_text=request.on_long_text,
        sample_size=request.sample_size,
        alias=request.alias,
        gate=request.gate,
        create=plan.create,
        restore=plan.restore,
        on_cutover=plan.on_cutover,
        indexes=plan.indexes,
        intended={**plan.intended, **_unstated(sides)},
        total_points=sides.source.points,
        is_filling=sides.is_in_place and sides.strategy.made is not None,
    )


def _unstated(sides: Sides) -> dict[str, str]:
    """What one side cannot say of itself when only the other one is a server."""
    one, other = sides.source_gateway.connection, sides.target_gateway.connection
    return EMBEDDED_UNSTATED if one.is_embedded != other.is_embedded else {}


def _new_id(digest: str, migrations: list[Migration]) -> str:
    # A number for each earlier try with the same arguments: two callers at once then meet at the same id.
    tries = sum(m.arguments_digest == digest for m in migrations)
    return "m-" + hashlib.sha256(f"{digest}-{tries}".encode()).hexdigest()[:6]


async def _requantization(context: OperationContext, sides: Sides, request: Request, migrations: list[Migration]) -> Migration:
    """Configuration only: no model, no text, no recipe."""
    if request.quantization is None:
        raise Refused(f"{NOTHING}: 'quantization' is missing: scalar, product, binary or off.")
    field = sides.source.field_to_replace(request.vector)
    why = quantization.problem(request.quantization, sides.source, field, is_embedded=sides.source_gateway.connection.is_embedded)
    if why is not None:
        raise Refused(f"{NOTHING}: {why}.")
    migration_id = _new_id(request.digest(sides.source.name), migrations)
    migration = _migration(sides, request, TargetPlan(create={}, recipes=()), migration_id, target=sides.source.name)
    migration = migration.model_copy(
        update={
            "quantization": request.quantization,
            "dense_field": field.name,
            "previous": quantization.settings_of(sides.source).model_dump(mode="json"),
        }
    )
    return migration.model_copy(update={"app_changes": tuple(app_changes(migration, list(sides.source.aliases), field.size))})


def _old_field(sides: Sides, request: Request) -> VectorField | None:
    """The dense field in question. Where a sparse or a token field is added there may be none, or several without a choice."""
    if sides.strategy.model_kind is ModelKind.DENSE or request.vector is not None:
        return sides.source.field_to_replace(request.vector)
    return sides.source.dense[0] if len(sides.source.dense) == 1 else None


async def _texts(context: OperationContext, sides: Sides, request: Request) -> tuple[Texts, TextsFile | None]:
    """The texts to embed: in the payload or in a file; some sampled point must have one."""
    if request.texts_file is not None:
        texts = await context.texts_file(request.texts_file, request.text_field)
        points = await sample_points(sides.source_gateway, sides.source, 200)
        why = coverage(texts, points).refusal(texts.recorded, sides.source.name)
        if why is not None:
            raise Refused(why)
        return texts, texts.recorded
    if not sides.strategy.needs_text and request.text_field is None:
        # Nothing is embedded; a text would only prove what the stored vectors are, so that old and new can be compared.
        try:
            return await _text_source(sides.source_gateway, sides.source, None), None
        except Refused:
            return NoTexts(), None
    return await _text_source(sides.source_gateway, sides.source, request.text_field), None


async def _text_source(gateway: Gateway, source: Collection, wanted: str | None) -> TextSource:
    payloads = [p.payload for p in await sample_points(gateway, source, 200)]
    statistics = text_statistics(payloads)
    listed = ", ".join(f"'{s.field}' ({s.coverage:.0%})" for s in statistics[:5]) or "none"
    if wanted is None:
        if not statistics:
            raise Refused(
                f"{NOTHING}: none of {len(payloads)} sampled points of {source.name!r} holds text in its payload, so nothing can be embedded. "
                "Texts from elsewhere: 'texts_file', keyed by point id."
            )
        if statistics[0].coverage < 0.5 or (len(statistics) > 1 and statistics[1].coverage >= 0.5):
            raise Refused(
                f"{NOTHING}: which text is embedded must be said with 'text_field'. Fields holding text: {listed}. A template such as '{{title}}\\n{{body}}' joins several."
            )
        wanted = statistics[0].field
    text = TextSource.parse(wanted)
    if not any(text.extract(payload) for payload in payloads):
        raise Refused(
            f"{NOTHING}: none of {len(payloads)} sampled points of {source.name!r} holds text at {wanted!r}. Fields holding text: {listed}."
        )
    return text


async def _match(context: OperationContext, sides: Sides, old: VectorField | None, texts: Texts, request: Request) -> SourceMatch | None:
    if request.current_model is None or old is None or isinstance(texts, NoTexts):
        return None
    return await source_match(context, sides.source_gateway, sides.source, old, texts, request.current_model)


async def _model(
    context: OperationContext, sides: Sides, old: VectorField | None, match: SourceMatch | None, request: Request
) -> ModelSpec:
    """The new model, loaded and measured, and of the kind that the strategy needs."""
    strategy = sides.strategy
    if strategy.made == "truncate":
        assert old is not None
        name = truncated_model(request.model, request.current_model, request.dimensions)
        spec = (await context.model(name, sides.source_gateway.connection.name)).spec
        await check_truncation(context, sides.source_gateway.connection.name, sides.source, old, spec, request.current_model, match)
        return spec
    if not request.model:
        raise Refused(f"{NOTHING}: 'model' is missing. recommend_strategy without a model lists the usable ones.")
    name = request.model
    if request.dimensions is not None:
        if "@" in name:
            raise Refused(f"{NOTHING}: dimensions are stated twice, in 'model' ({name!r}) and in 'dimensions' ({request.dimensions}).")
        name = f"{name}@{request.dimensions}"
    embedder = await context.any_model(name, sides.target_gateway.connection.name)
    spec = embedder.spec
    if spec.kind is not strategy.model_kind:
        wanted = strategy.model_kind.value if strategy.model_kind else "no"
        raise Refused(f"{NOTHING}: strategy '{strategy.name}' needs a {wanted} model; {spec.name!r} is a {spec.kind.value} one.")
    if strategy.made == "linear_map" and old is not None:
        check_datatype(old.datatype)
    if request.on_long_text == "stop" and strategy.made == "embed" and await embedder.count_tokens(["text"]) is None:
        raise Unsupported(
            f"{NOTHING}: the tokens of {spec.name!r} cannot be counted here, so on_long_text='stop' could not be kept. Leave it out."
        )
    return spec


async def _updated_at(sides: Sides, request: Request) -> UpdatedAt | None:
    """The field that tells when a point was written, proven by a look at the newest one.

    Raises:
        Refused: it tells nothing that a pass could go by.
    """
    if request.updated_at_field is None:
        return None
    payloads = [p.payload for p in await sample_points(sides.source_gateway, sides.source, 200)]
    told = understood(request.updated_at_field, sides.source.payload_indexes, payloads, sides.source.name)
    try:
        await sides.source_gateway.changes.newest(sides.source.name, told)
    except RequestRejected as error:
        raise Refused(f"{NOTHING}: the index of {told.field!r} does not order points by it: {error}") from None
    return told


def _quantization(request: Request, spec: ModelSpec) -> dict[str, object] | None:
    """Of the made field; None leaves it as the old field's."""
    if request.quantization is None or spec.kind is ModelKind.SPARSE:
        return None
    return dict(quantization.REQUESTED.get(request.quantization, {}))


async def _taken(context: OperationContext, sides: Sides, request: Request, spec: ModelSpec) -> str:
    """The target's name, free and allowed; and the alias, if one is named, is the source's or free."""
    source, gateway = sides.source, sides.target_gateway
    if sides.is_in_place:
        if request.target not in (None, source.name):
            raise Refused(f"{NOTHING}: '{sides.strategy.name}' changes {source.name!r} in place here; leave 'target' out.")
        return source.name
    aliases, collections = await gateway.aliases(), await gateway.collections()
    taken = {*aliases, *collections}
    target = request.target or target_name(source.name, spec.name, taken)
    context.settings.check_collection_allowed(target)
    for new in (target, request.alias):
        if new is not None and (new not in taken or new == context.settings.ledger):
            await check_new_name(context, gateway.connection.name, new, migration_id=None)
    if target in taken:
        what = f"an alias of {aliases[target]!r}" if target in aliases else "a collection"
        raise AlreadyExists(
            f"{NOTHING}: the target {target!r} exists already ({what}). Choose another name with 'target', or leave it out for {target_name(source.name, spec.name, taken)!r}."
        )
    is_across = gateway.connection.name != sides.source_gateway.connection.name
    owner = None if is_across else source.name
    if request.alias is not None and aliases.get(request.alias, owner) != owner:
        raise Refused(f"{NOTHING}: alias {request.alias!r} points to {aliases[request.alias]!r}, not to the source {source.name!r}.")
    if request.alias is not None and request.alias in collections:
        raise Refused(
            f"{NOTHING}: {request.alias!r} is a collection, so no alias can have that name. Choose another alias, and have the app use it."
        )
    return target
