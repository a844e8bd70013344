"""What does an operation that writes hold in its hands? The migration, both sides, the model, and the right to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import anyio
from anyio import to_thread

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import unlike_planned
from qdrant_model_migration.domain.own_operations import OwnOperations
from qdrant_model_migration.domain.pacing import LEAST_WINDOW, Ceiling
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.recipe import Recipe
from qdrant_model_migration.domain.records import EventRecord, Pace
from qdrant_model_migration.domain.texts import NoTexts, Texts, TextSource, UnreadableTexts
from qdrant_model_migration.domain.throughput import Throughput
from qdrant_model_migration.embedders.base import AnyEmbedder
from qdrant_model_migration.errors import AccessDenied, ConnectionFailed, ModelNotUsable, Refused
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.deriving import Deriver
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import Progress

PAGE = 256
"""Points a read."""
WINDOW = LEAST_WINDOW
"""Points of one field filled at a time."""


@dataclass(kw_only=True)
class Work:
    """One driver's hold on one migration; `check` raises when the hold is lost or the driver is to stop."""

    context: OperationContext
    migration: Migration
    source: Gateway
    target: Gateway
    ledger: Ledger
    source_collection: Collection
    check: Callable[[], None]
    throughput: Throughput
    texts: Texts = field(default_factory=NoTexts)
    deriver: Deriver | None = None
    """Makes the made field of other vectors, where the recipe says so."""
    epoch: int = 0
    inserts_by_mode: bool = False
    pace: Pace = field(default_factory=Pace)
    ceiling: Ceiling = field(default_factory=Ceiling)
    """What the source's search latency allows, where one is asked for."""
    progress: Progress = field(default_factory=lambda: Progress(stage="starting"))
    written: dict[PointId, int] | None = None
    """Where a mapping is given: the number of the operation that wrote each point of the target."""
    windows_in_writing: int = 0
    """Begun, they are written to their end and counted, also by a driver that was asked to stop."""
    own: OwnOperations = field(default_factory=OwnOperations)
    """Numbers of the operations by which this tool made vectors of the target."""
    stand_by: Callable[[], object] = lambda: None
    """Has a second driver wait, which takes over should this one die while writers wait."""
    fenced_since: float | None = None
    """When this driver made the app's writers wait, on its own clock."""
    settles_at: float | None = None
    """When no request of a driver that was lost can be on its way any more, on this driver's clock; None where there is none."""
    is_source_away: bool = False
    """The other server did not answer when this was opened: the source is not described, and only what can do without it may be done."""

    @property
    def points_per_second(self) -> float | None:
        """The rate that is kept: what is asked for, or less where the source's searches would suffer."""
        rates = [self.pace.points_per_second, self.ceiling.points_per_second if self.pace.max_source_latency_ms is not None else None]
        return min((rate for rate in rates if rate is not None), default=None)

    @contextmanager
    def writing_a_window(self) -> Iterator[None]:
        """Until this is left, a driver that is to stop goes on."""
        self.windows_in_writing += 1
        try:
            yield
        finally:
            self.windows_in_writing -= 1

    async def settled(self) -> None:
        """Wait until the driver before this one, which was lost, can write nothing any more."""
        if self.settles_at is not None:
            await anyio.sleep(max(0.0, self.settles_at - anyio.current_time()))
            self.settles_at = None

    def note_written(self, point_ids: Iterable[PointId], operation: int | None, *, is_made: bool = True) -> None:
        """Remember the operation that wrote these points; as one of ours only where their vectors were made with it, not kept."""
        if operation is None:
            return
        if is_made:
            self.own.add(operation)
        if self.written is not None:
            self.written.update(dict.fromkeys(point_ids, operation))

    async def save_own(self) -> None:
        """Record the numbers of our operations, where there are new ones."""
        if self.own.is_changed:
            self.check()
            self.own.is_changed = False
            await self.ledger.save_own(self.id, self.own.record)

    async def save_throughput(self) -> None:
        """Record how fast the work went, where there is something new."""
        if self.throughput.is_changed:
            self.check()
            self.throughput.is_changed = False
            await self.ledger.save_throughput(self.id, self.throughput.record)

    async def source_mark(self) -> int | None:
        """As `Points.watermark` of the source. None where its key may only read: then late writes cannot be told from newer ones."""
        try:
            return await self.source.points.watermark(self.migration.source.collection)
        except AccessDenied:
            return None

    async def find_source(self) -> None:
        """Describe the source after all, once its server answers again.

        Raises:
            ConnectionFailed: it still does not.
        """
        self.source_collection = await _described(self.source, self.migration.source.collection)
        self.deriver = await _deriver(self.migration, self.ledger, self.source_collection)
        self.is_source_away = False

    @property
    def id(self) -> str:
        return self.migration.id

    @property
    def copied(self) -> dict[str, str]:
        """Copied fields: name in the source -> name in the target."""
        return {r.source_field or "": r.field for r in self.migration.copies}

    @property
    def page(self) -> int:
        """Points a read may ask for, under the source's strict mode."""
        return min(PAGE, self.source_collection.page_limit or PAGE)

    @property
    def made(self) -> Recipe | None:
        return self.migration.made

    @property
    def made_field(self) -> str:
        return self.migration.making.field

    @property
    def makes_now(self) -> bool:
        """Whether a point that is written gets its made vector with it; a field that is filled later stays empty at first."""
        return self.made is not None and (self.made.stage == "insert" or self.migration.is_filling)

    @property
    def read_fields(self) -> list[str]:
        """Vector fields of the source that the recipes need."""
        derived = [self.made.source_field or ""] if self.made is not None and self.made.is_derived else []
        return [*self.copied, *(name for name in derived if name not in self.copied)]

    async def derived(self, points: Sequence[Point]) -> list[Point]:
        """The points with what the recipe makes of their own vectors; as they are where it makes nothing of them."""
        if self.deriver is None or self.made is None:
            return list(points)
        # Milliseconds a page for a large map: in a thread, so that the lease goes on being renewed.
        rows = await to_thread.run_sync(self.deriver.derive, [p.vectors.get(self.made.source_field or "") for p in points])
        return [replace(point, derived=row) for point, row in zip(points, rows, strict=True)]

    async def embedder(self) -> AnyEmbedder:
        """The new model; loaded at its first use.

        Raises:
            ModelNotUsable: it is not the model the migration was planned with.
        """
        planned = self.migration.spec
        loaded = await self.context.any_model(planned.name, self.migration.target.connection)
        unlike = unlike_planned(planned, loaded.spec)
        if unlike is not None:
            raise ModelNotUsable(
                f"Model {planned.name!r} on this machine is not the one that migration {self.id} was planned with: {unlike}. "
                "Vectors of two models must not be mixed. Provide the planned model, or discard this migration and start a new one."
            )
        return loaded

    async def record(self, event: str, text: str) -> None:
        """Add a line to the audit trail."""
        await self.ledger.add_event(self.id, EventRecord(at=now(), event=event, text=text))

    async def change(self, change: Callable[[Migration], Migration]) -> None:
        """Change the recorded migration under the lease."""
        self.check()
        self.migration = await self.ledger.change(self.id, change)


async def open_work(context: OperationContext, migration: Migration, check: Callable[[], None], epoch: int = 0) -> Work:
    """Both sides of a migration; a source that is gone already, or whose other server does not answer, is described as empty.

    Raises:
        ConnectionFailed: Qdrant does not answer; where there are two, that of the target.
    """
    source = await context.gateway(migration.source.connection)
    target = await context.gateway(migration.target.connection)
    ledger = await context.ledger(migration.target.connection)
    is_away = False
    try:
        described = await _described(source, migration.source.collection)
    except ConnectionFailed:
        if not migration.is_across_servers:
            raise
        is_away, described = True, _nothing(migration.source.collection)
    return Work(
        context=context,
        migration=migration,
        source=source,
        target=target,
        ledger=ledger,
        source_collection=described,
        check=check,
        throughput=Throughput(await ledger.throughput(migration.id), clock=anyio.current_time, epoch=lambda: ledger.now().timestamp()),
        texts=await texts_of_migration(context, migration),
        deriver=await _deriver(migration, ledger, described),
        epoch=epoch,
        own=OwnOperations(await ledger.own(migration.id)),
        pace=await ledger.pace(migration.id),
        is_source_away=is_away,
    )


async def _described(gateway: Gateway, collection: str) -> Collection:
    return await gateway.describe(collection) if await gateway.exists(collection) else _nothing(collection)


def _nothing(collection: str) -> Collection:
    return Collection(name=collection, points=0, fields=(), config={})


async def texts_of_migration(context: OperationContext, migration: Migration) -> Texts:
    """Where the texts of a migration come from; of a file that is gone, one that says so when a text is needed."""
    if migration.texts is not None:
        try:
            return await context.recorded_texts(migration.texts)
        except Refused as error:
            # A migration can be swapped, rolled back and finished without them.
            return UnreadableTexts(expression=migration.texts.expression, reason=str(error))
    return TextSource.parse(migration.text_field) if migration.text_field else NoTexts()


async def _deriver(migration: Migration, ledger: Ledger, source: Collection) -> Deriver | None:
    """What the recipe makes vectors of vectors with; a map that is not fitted yet makes none."""
    made = migration.made
    if made is None or not made.is_derived:
        return None
    field = source.field(made.source_field or "")
    if made.kind == "truncate":
        size = field.size if field is not None and field.size is not None else made.dimensions or 0
        return Deriver.truncate(size, made.dimensions or 0)
    found = await ledger.load_map(migration.id)
    return Deriver.linear_map(found) if found is not None else None


def read_only_check() -> None:
    """The right to write that nobody has in read-only mode.

    Raises:
        Refused: always.
    """
    raise Refused("Nothing was written: QDRANT_MIGRATION_READ_ONLY is set.")
