"""What do all tools share? The process's state, the one place where our errors become tool errors, and the question to the person."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.redaction import known_secrets, redacted
from qdrant_model_migration.results import NextStep, Progress, Recommendation, RecommendResult, Result, Section

if TYPE_CHECKING:
    from mcp.server.connection import Connection as ClientConnection

    from qdrant_model_migration.domain.migration import Migration
    from qdrant_model_migration.domain.records import Operation
    from qdrant_model_migration.operations.context import OperationContext
    from qdrant_model_migration.operations.requests import LocalOperations, Report
    from qdrant_model_migration.worker.detach import Drivers

LOG = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

MigrationId = Annotated[str, Field(description="the id that create_target returned, for example 'm-7f3a21'", max_length=64)]
Connection = Annotated[
    str | None, Field(description="a connection named in the configuration; leave out for the default one", max_length=100)
]


@dataclass(frozen=True, kw_only=True)
class App:
    """The state of one server process."""

    context: OperationContext
    drivers: Drivers
    local: LocalOperations


@dataclass(frozen=True, kw_only=True)
class ToolSpec:
    """A tool as it is registered."""

    fn: Callable[..., Awaitable[BaseModel]]
    title: str
    description: str
    annotations: ToolAnnotations
    is_shown: bool = False
    """Hosts that render MCP Apps show the dashboard beside the answers."""

    @property
    def name(self) -> str:
        return self.fn.__name__

    @property
    def is_writing(self) -> bool:
        return not self.annotations.read_only_hint


def read_only() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True)


def writing(*, destructive: bool = False, idempotent: bool = True) -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=destructive, idempotent_hint=idempotent, open_world_hint=True)


def connection_of(ctx: Any) -> ClientConnection:
    """What a client is known by from one request to the next; its `exit_stack` is closed with it."""
    # A session is made anew for each request, and the SDK tells what it belongs to in no other way.
    connection: ClientConnection = ctx.session._connection
    return connection


def app_of(ctx: Context[Any, Any]) -> App:
    """The process's state."""
    app: App = ctx.request_context.lifespan_context
    return app


def answering(fn: Callable[P, Awaitable[R]], offered: frozenset[str]) -> Callable[P, Awaitable[R]]:
    """Let the text of our own exceptions out. Anything else stays opaque to the host, which keeps secrets in, and is logged.

    `offered` are the registered tools: no next step names another.
    """

    @functools.wraps(fn)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            answer = await fn(*args, **kwargs)
        except MigrationError as error:
            raise ToolError(redacted(visible(str(error), one_line=True))) from None
        _keep_to(answer, offered)
        return cast(R, told(answer, secrets=known_secrets()))

    return call


MULTI_LINE = frozenset({"dual_write_snippet", "query_snippet", "text_field", "queries"})
"""Fields that may have several lines: code, templates and a caller's own words. Elsewhere a name with a line break would seem to say something of ours."""


def told(value: Any, field: str = "", *, secrets: tuple[str, ...] = ()) -> Any:
    """An answer in which nothing is hidden, and no key is shown: names of collections, aliases, fields and models are written by others."""
    if isinstance(value, StrEnum) or value is None:
        return value
    if isinstance(value, str):
        return redacted(visible(value, one_line=field not in MULTI_LINE), secrets)
    if isinstance(value, BaseModel):
        parts = {name: getattr(value, name) for name in type(value).model_fields}
        found = {name: told(part, name, secrets=secrets) for name, part in parts.items()}
        if isinstance(value, Section):
            # The guidance is ours. Other texts, those of events for example, quote names.
            found["text"] = redacted(visible(value.text), secrets)
        changed = {name: part for name, part in found.items() if part is not parts[name] and part != parts[name]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, Mapping):
        return {
            told(key, secrets=secrets): told(part, field if field in MULTI_LINE else str(key), secrets=secrets)
            for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(told(part, field, secrets=secrets) for part in value)
    return value


def _keep_to(answer: object, offered: frozenset[str]) -> None:
    """Drop next steps that read-only mode left unregistered, and say so."""
    if not isinstance(answer, Result):
        return
    holders: list[Result | Recommendation] = [answer]
    if isinstance(answer, RecommendResult):
        holders += answer.recommendations
    dropped: set[str] = set()
    for holder in holders:
        if holder.next_step is not None and holder.next_step.tool not in offered:
            dropped.add(holder.next_step.tool)
            holder.next_step = None
    if dropped:
        answer.warnings.append(f"What would follow, {', '.join(sorted(dropped))}, is not offered: QDRANT_MIGRATION_READ_ONLY is set.")


def reporter(ctx: Context[Any, Any]) -> Report:
    """Progress notifications to the host."""

    async def report(done: float, total: float | None, message: str) -> None:
        await ctx.report_progress(done, total, message)

    return report


def again(tool: str, arguments: dict[str, Any]) -> NextStep:
    """The same call, which attaches to the operation that goes on."""
    return NextStep(tool=tool, arguments=arguments, why="it goes on in the background; the same call attaches to it")


def progress_of(operation: Operation) -> Progress:
    return operation.progress or Progress(stage="waiting for the worker")


def running_summary(app: App, migration: Migration, what: str, progress: Progress) -> str:
    """One line for an operation that is not over."""
    share = f" ({progress.read:,} of {progress.total:,})" if progress.total and progress.read else ""
    return f"{app.context.notice(migration.target.connection)}The {what} of migration {migration.id} goes on: {progress.stage}{share}."


def without_none(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None}
