"""How are points read and written? Ordered scrolls, insert-only and conditional writes, searches, versions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict
from qdrant_client import models

from qdrant_model_migration.domain.points import Payload, Point, PointId, ServerText, ShardKey, payload_digest
from qdrant_model_migration.errors import BatchTooLarge, RateLimited, RequestRejected
from qdrant_model_migration.qdrant import translate, wire
from qdrant_model_migration.qdrant.client import Caller
from qdrant_model_migration.qdrant.counting import count_by_reading

VERSION_PAGE = 500
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What a server takes for a payload field without quotes. It does not look into JSON that a string holds, as we do for a path."""


Query = list[float] | list[list[float]] | Mapping[str, Any] | ServerText
"""What is searched for: a dense vector, a multivector, a sparse `{"indices": …, "values": …}`, or a text that the server embeds."""


class Found(BaseModel):
    """One hit of a search."""

    model_config = ConfigDict(frozen=True)

    id: PointId
    score: float
    payload: Payload


def search_params(
    caller: Caller, *, exact: bool, quantization: models.QuantizationSearchParams | None = None
) -> models.SearchParams | None:
    """The embedded database always searches exactly, and warns when it is told how to."""
    return None if caller.connection.is_embedded else models.SearchParams(exact=exact, quantization=quantization)


class Points:
    """The points of one Qdrant."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    # --- reading

    async def scroll(
        self,
        collection: str,
        *,
        offset: PointId | None,
        limit: int,
        payload: bool = True,
        vectors: Sequence[str] = (),
        packed: bool = False,
    ) -> tuple[list[Point], PointId | None]:
        """A page in id order from `offset` (inclusive; it need not exist), and the id where the next begins.

        Where `packed`, dense vectors are arrays of single precision, which cost a fraction of lists.
        """
        if (stub := self._call.stub) is not None:
            request = wire.scroll(collection, offset=offset, limit=limit, payload=payload, vectors=vectors)
            answer = await self._call(lambda: stub.Scroll(request, timeout=self._call.timeout_s))
            points = [wire.point(p, packed=packed) for p in answer.result]
            # gRPC turns integers above 2^63-1 into floats; REST keeps them.
            if not any(translate.has_wide_number(p.payload) for p in points):
                return points, wire.plain_id(answer.next_page_offset) if answer.HasField("next_page_offset") else None
        wanted: Any = False if not vectors else (True if "" in vectors else list(vectors))
        records, after = await self._call(
            lambda: self._call.rest.scroll(collection, offset=offset, limit=limit, with_payload=payload, with_vectors=wanted)
        )
        points = [translate.point(r) for r in records]
        if packed:
            points = [replace(p, vectors={name: translate.packed(v) for name, v in p.vectors.items()}) for p in points]
        return points, translate.plain_id(after)

    async def ids(self, collection: str, *, offset: PointId | None, limit: int) -> tuple[list[PointId], PointId | None]:
        """Ids only."""
        points, after = await self.scroll(collection, offset=offset, limit=limit, payload=False)
        return [p.id for p in points], after

    async def retrieve(
        self,
        collection: str,
        ids: Sequence[PointId],
        *,
        payload: bool = True,
        vectors: Sequence[str] = (),
        shard_key: ShardKey | None = None,
    ) -> dict[PointId, Point]:
        """The points among `ids` that exist, by id; under one shard key, or under any."""
        if not ids:
            return {}
        wanted: Any = False if not vectors else (True if "" in vectors else list(vectors))
        # Payloads by REST: gRPC turns integers above 2^63-1 into floats.
        client = self._call.rest if payload else self._call.fast
        records = await self._call(
            lambda: client.retrieve(collection, list(ids), with_payload=payload, with_vectors=wanted, shard_key_selector=shard_key)
        )
        return {p.id: p for p in (translate.point(r) for r in records)}

    async def payloads(self, collection: str, ids: Sequence[PointId], field: str) -> dict[PointId, Payload]:
        """The payload field of the points among `ids` that exist, by id; the whole payload where the field is a path or oddly named."""
        wanted: Any = [field] if _PLAIN_NAME.fullmatch(field) else True
        records = await self._call(lambda: self._call.rest.retrieve(collection, list(ids), with_payload=wanted, with_vectors=False))
        return {p.id: p.payload for p in (translate.point(r) for r in records)}

    async def existing(self, collection: str, ids: Sequence[PointId]) -> set[PointId]:
        """Which of `ids` exist."""
        if (stub := self._call.stub) is not None and ids:
            request = wire.get(collection, ids)
            answer = await self._call(lambda: stub.Get(request, timeout=self._call.timeout_s))
            return {wire.plain_id(p.id) for p in answer.result}
        return set(await self.retrieve(collection, ids, payload=False))

    async def count(self, collection: str) -> int:
        """Exact number of points; counted by their ids where strict mode forbids exact counts."""
        try:
            return (await self._call(lambda: self._call.rest.count(collection, exact=True))).count
        except RequestRejected:
            return await count_by_reading(lambda offset, limit: self.ids(collection, offset=offset, limit=limit))

    async def sample(self, collection: str, size: int, *, vectors: Sequence[str] = ()) -> list[Point]:
        """Points drawn at random by the server, with payloads."""
        wanted: Any = False if not vectors else (True if "" in vectors else list(vectors))
        query = models.SampleQuery(sample=models.Sample.RANDOM)
        answer = await self._call(
            lambda: self._call.rest.query_points(collection, query=query, limit=size, with_payload=True, with_vectors=wanted)
        )
        return [translate.point(p) for p in answer.points]

    async def search(
        self,
        collection: str,
        vector: Query,
        *,
        using: str,
        limit: int,
        exact: bool,
        payload: bool = True,
        rescore: bool | None = None,
        oversampling: float | None = None,
        ignore_quantization: bool = False,
    ) -> list[Found]:
        """Nearest points, best first; `exact` looks at every original vector instead of the index. The rest is for quantized fields."""
        quantized = rescore is not None or oversampling is not None or ignore_quantization
        how = models.QuantizationSearchParams(rescore=rescore, oversampling=oversampling, ignore=ignore_quantization) if quantized else None
        answer = await self._call(
            lambda: self._call.fast.query_points(
                collection,
                query=translate.value(vector),
                using=using or None,
                limit=limit,
                search_params=search_params(self._call, exact=exact, quantization=how),
                with_payload=payload,
            )
        )
        return [Found(id=translate.plain_id(p.id) or 0, score=p.score, payload=p.payload or {}) for p in answer.points]

    async def versions(self, collection: str, ids: Sequence[PointId]) -> dict[PointId, int]:
        """Number of the last operation on each point that exists, with or without vectors; comparable within one shard."""
        found: dict[PointId, int] = {}
        for start in range(0, len(ids), VERSION_PAGE):
            found.update(await self._versions(collection, list(ids[start : start + VERSION_PAGE])))
        return found

    async def _versions(self, collection: str, page: Sequence[PointId]) -> dict[PointId, int]:
        these = models.Prefetch(filter=models.Filter(must=[models.HasIdCondition(has_id=list(page))]), limit=len(page))
        try:
            answer = await self._call(
                lambda: self._call.rest.query_points(
                    collection,
                    # A search tells the numbers of points that have the vector only, a scroll of none.
                    prefetch=these,
                    query=models.FormulaQuery(formula=1.0),
                    limit=len(page),
                    with_payload=False,
                )
            )
        except RequestRejected:
            # Strict mode: too many at a time.
            if len(page) == 1:
                raise
            middle = len(page) // 2
            halves = [await self._versions(collection, half) for half in (page[:middle], page[middle:])]
            return halves[0] | halves[1]
        return {translate.plain_id(p.id) or 0: p.version for p in answer.points}

    # --- writing

    async def insert(self, collection: str, points: Sequence[Point], *, by_mode: bool = False) -> int | None:
        """Write the points that do not exist yet; leave existing ones as they are. Each is written to its own shard key, a key after another.

        Returns the number of the operation; None with several shard keys, which number on their own. `by_mode` uses `update_mode` (>= 1.17); else a filter no existing point passes (>= 1.15.4). The embedded database honours both.
        """
        guard: dict[str, Any] = {"update_mode": models.UpdateMode.INSERT_ONLY} if by_mode else {"update_filter": translate.never()}
        numbers = [await self._upsert(collection, group, **guard) for group in by_shard_key(points)]
        return numbers[0] if len(numbers) == 1 else None

    async def write(self, collection: str, points: Sequence[Point]) -> None:
        """Write without a guard: only where nobody else writes, or what nobody else knows."""
        for group in by_shard_key(points):
            await self._upsert(collection, group)

    async def _upsert(self, collection: str, group: Sequence[Point], **guard: Any) -> int | None:
        """Write points of one shard key."""
        stub = self._call.stub
        if stub is not None and not any(translate.has_wide_number(p.payload) for p in group):
            request = wire.upsert(collection, group, **guard)
            result = (await self._call(lambda: stub.Upsert(request, timeout=self._call.timeout_s))).result
            return result.operation_id if result.HasField("operation_id") else None
        structs = [translate.struct(p) for p in group]
        answer = await self._call(
            lambda: self._call.rest.upsert(collection, structs, wait=True, shard_key_selector=group[0].shard_key, **guard)
        )
        return answer.operation_id

    async def replace_all(
        self, collection: str, changes: Sequence[tuple[Point, Payload]], *, whole: bool = False
    ) -> dict[PointId, int | None]:
        """As `replace` for many points, each with the payload observed of it, in one request; the number of each operation by id."""
        if not changes:
            return {}
        if len(changes) > 1:
            operations = [
                models.UpsertOperation(
                    upsert=models.PointsList(
                        points=[translate.struct(point)],
                        shard_key=point.shard_key,
                        update_filter=translate.still_holds(point.id, observed, point.payload, whole=whole),
                    )
                )
                for point, observed in changes
            ]
            try:
                # Five times as fast as one request each (400 points of 384 dimensions); over gRPC it gains nothing.
                answers = await self._call(lambda: self._call.rest.batch_update_points(collection, operations, wait=True))
                return {point.id: answer.operation_id for (point, _), answer in zip(changes, answers, strict=True)}
            except BatchTooLarge:
                middle = len(changes) // 2
                halves = [await self.replace_all(collection, half, whole=whole) for half in (changes[:middle], changes[middle:])]
                return halves[0] | halves[1]
            except RequestRejected:
                # One of them was refused, and the rest partly applied: a repetition is harmless, and tells which.
                pass
        return {point.id: await self.replace(collection, point, observed=observed, whole=whole) for point, observed in changes}

    async def replace(self, collection: str, point: Point, *, observed: Payload, whole: bool = False) -> int | None:
        """Overwrite one existing point unless what is replaced (`whole`: anything) is no longer as observed, as far as a filter can tell.

        Returns the number of the operation: the point's own version when it was written.
        """

        # An upsert's filter applies to existing points only: were the point gone meanwhile, it would be inserted again.
        # The operations of a batch are applied in order, so that case is for the next pass to find as an extra point.
        async def write(guard: models.Filter | None) -> int | None:
            return await self._upsert(collection, [point], update_filter=guard)

        try:
            return await write(translate.still_holds(point.id, observed, point.payload, whole=whole))
        except RequestRejected:
            # Strict mode refuses its conditions: no index, or too many.
            return await write(None) if await self._as_observed(collection, point.id, observed, point.shard_key) else None

    async def delete_all_if(self, collection: str, seen: Sequence[Point]) -> None:
        """As `delete_if` for many points, each as it was seen, in few requests."""
        numbers = [p for p in seen if isinstance(p.id, int)]
        operations = [
            models.DeleteOperation(delete=models.FilterSelector(filter=translate.still_holds(p.id, p.payload, {}), shard_key=p.shard_key))
            for p in numbers
        ]
        by_one = [p for p in seen if not isinstance(p.id, int)]
        if operations:
            try:
                await self._call(lambda: self._call.rest.batch_update_points(collection, operations, wait=True))
            except RequestRejected:
                by_one = list(seen)
        for point in by_one:
            await self.delete_if(collection, point.id, observed=point.payload, shard_key=point.shard_key)

    async def delete_if(self, collection: str, point_id: PointId, *, observed: Payload, shard_key: ShardKey | None = None) -> None:
        """Delete one point unless its payload is no longer as observed, as far as a filter can tell; a UUID is looked at right before.

        Without the shard key of a collection with custom sharding, the point is looked at right before as well, and its key is found.
        """

        async def write(selector: models.FilterSelector | models.PointIdsList, key: ShardKey | None) -> None:
            await self._call(lambda: self._call.rest.delete(collection, points_selector=selector, wait=True, shard_key_selector=key))

        if isinstance(point_id, int):
            try:
                await write(models.FilterSelector(filter=translate.still_holds(point_id, observed, {})), shard_key)
                return
            except RequestRejected:
                # Strict mode refuses its conditions (no index, or too many), or the shard key is wanted.
                pass
        now = await self._as_observed(collection, point_id, observed, shard_key)
        if now is not None:
            await write(models.PointIdsList(points=[point_id]), now.shard_key)

    async def _as_observed(self, collection: str, point_id: PointId, observed: Payload, shard_key: ShardKey | None) -> Point | None:
        now = (await self.retrieve(collection, [point_id], shard_key=shard_key)).get(point_id)
        return now if now is not None and payload_digest(now.payload) == payload_digest(observed) else None

    async def watermark(self, collection: str) -> int | None:
        """Number of a no-op just carried out: every write after it has a higher one (single shard).

        None when embedded, and with custom sharding: there a number belongs to a shard key.
        """
        if self._call.connection.is_embedded:
            return None
        nobody = models.PointIdsList(points=[str(uuid.uuid4())])
        try:
            answer = await self._call(lambda: self._call.rest.delete(collection, points_selector=nobody, wait=True))
        except RequestRejected as error:
            if not _wants_key(error):
                raise
            await self.wake(collection)
            return None
        return answer.operation_id

    async def last_write(self, collection: str) -> int | None:
        """A no-op for every shard, tried once; its number.

        Raises:
            RateLimited: a write rate refused it.
        """
        nothing = models.FilterSelector(filter=translate.never())
        answer = await self._call.once(lambda: self._call.rest.delete(collection, points_selector=nothing, wait=True))
        return answer.operation_id

    async def is_refused(self, collection: str) -> bool:
        """Whether a write rate refuses writes just now."""
        try:
            await self.last_write(collection)
        except RateLimited:
            return True
        return False

    async def wake(self, collection: str) -> None:
        """A no-op for every shard: optimizers that wait since a restart go on with the next write to theirs."""
        nothing = models.FilterSelector(filter=translate.never())
        try:
            await self._call(lambda: self._call.rest.delete(collection, points_selector=nothing, wait=True))
        except RequestRejected as error:
            if not _wants_key(error):
                raise
            listed = await self._call(lambda: self._call.rest.list_shard_keys(collection))
            keys = [k.key for k in listed.shard_keys or []]
            if keys:
                await self._call(lambda: self._call.rest.delete(collection, points_selector=nothing, wait=True, shard_key_selector=keys))


def by_shard_key(points: Sequence[Point]) -> list[list[Point]]:
    """The points of each shard key, in their order: one request names one key."""
    groups: dict[ShardKey | None, list[Point]] = {}
    for point in points:
        groups.setdefault(point.shard_key, []).append(point)
    return list(groups.values())


def _wants_key(error: RequestRejected) -> bool:
    """Custom sharding; Qdrant tells it by its text only."""
    return "shard key not specified" in str(error).lower()
