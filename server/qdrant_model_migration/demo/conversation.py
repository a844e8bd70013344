"""How does a host talk to the server? A tool at a time, following `next_step`, and adding only what a person must choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import anyio
from mcp import Client
from mcp.types import TextContent

from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.results import NextStep, Result

R = TypeVar("R", bound=Result)
MOST_CALLS = 100
SOON_S = 0.5


class Watcher(Protocol):
    """Is shown what goes on."""

    def called(self, tool: str, arguments: dict[str, Any]) -> None: ...

    def progressed(self, done: float, total: float | None, stage: str) -> None: ...


@dataclass(frozen=True)
class Chosen:
    """A call that a person decides upon: no next step of the server carries a plan's code."""

    tool: str
    arguments: dict[str, Any]


class Conversation:
    """The calls of one host."""

    def __init__(self, client: Client, watcher: Watcher) -> None:
        self._client = client
        self._watcher = watcher
        self._calls = 0

    async def call(self, step: NextStep | Chosen, kind: type[R], **choices: Any) -> R:
        """Make the call that is due, and again while its work goes on.

        Raises:
            MigrationError: what the tool answered instead of a result.
        """
        arguments = {**step.arguments, **choices}
        self._watcher.called(step.tool, arguments)
        while True:
            answer = await self._once(step.tool, arguments)
            if answer.get("state") != "running":
                return kind.model_validate(answer)
            following = answer.get("next_step") or {}
            if following.get("tool") == step.tool:
                arguments = following["arguments"]
            else:
                # A plan's code is never in a next step: the same call, with the code that the person agreed to, attaches again.
                await anyio.sleep(SOON_S)

    async def _once(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self._calls += 1
        if self._calls > MOST_CALLS:
            raise MigrationError(f"The demonstration did not get to its end within {MOST_CALLS} calls; the last was {tool}.")
        answer = await self._client.call_tool(tool, arguments, progress_callback=self._progressed)
        if answer.is_error or answer.structured_content is None:
            text = " ".join(block.text for block in answer.content if isinstance(block, TextContent))
            raise MigrationError(f"{tool} answered with an error: {text or 'no result'}")
        found: dict[str, Any] = answer.structured_content
        return found

    async def _progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self._watcher.progressed(progress, total, message or "")
