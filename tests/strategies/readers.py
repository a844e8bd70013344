"""Who searches while a strategy is carried out? Readers that change as `app_changes` says, and note every search that failed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from tests.strategies.places import Json, Place

PAUSE_S = 0.03


@dataclass(kw_only=True)
class Reader:
    """An app that searches on and on through an alias, with one question after the other."""

    place: Place
    alias: str
    bodies: dict[str, list[Json]]
    """Model -> the request of each question."""
    model: str
    is_self_resolving: bool = False
    """Looks up collection and model with every query; else the model stays and the alias is searched."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(collection or alias, model) of each search that found something."""
    failures: list[str] = field(default_factory=list)

    async def search(self) -> None:
        """One search, noted."""
        number = len(self.asked) + len(self.failures)
        where, model = self.alias, self.model
        try:
            if self.is_self_resolving:
                where, model = await self.place.resolve(self.alias)
            bodies = self.bodies[model]
            found = await self.place.query(where, bodies[number % len(bodies)])
        except Exception as error:  # noqa: BLE001 - whatever a query fails with is what this test looks for
            self.failures.append(f"{where} with {model}: {error!r}"[:400])
        else:
            if found:
                self.asked.append((where, model))
            else:
                self.failures.append(f"{where} with {model}: nothing found")

    @property
    def models_used(self) -> list[str]:
        """In the order of their first use."""
        return list(dict.fromkeys(model for _, model in self.asked))


@dataclass(kw_only=True)
class Loop:
    """The first reader searches from the beginning, the second from the moment it may change."""

    first: Reader
    second: Reader | None = None
    may_change: Callable[[], bool] = lambda: False
    _stop: anyio.Event = field(default_factory=anyio.Event)

    @property
    def readers(self) -> list[Reader]:
        return [self.first] if self.second is None else [self.first, self.second]

    async def _run(self) -> None:
        while not self._stop.is_set():
            await self._round()
            with anyio.move_on_after(PAUSE_S):
                await self._stop.wait()

    async def _round(self) -> None:
        await self.first.search()
        if self.second is not None and self.may_change():
            await self.second.search()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Search until the block is left, then every question once more."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._run)
            try:
                yield
            finally:
                self._stop.set()
        for _ in self.first.bodies[self.first.model]:
            await self._round()
