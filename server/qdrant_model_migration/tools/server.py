"""What becomes of a call before a tool sees it? Arguments that no tool has, or that are out of bounds, are refused in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    InputRequiredResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from pydantic import ValidationError

from qdrant_model_migration.domain.untrusted import visible
from qdrant_model_migration.tools.completions import completion
from qdrant_model_migration.tools.server_log import ServerLog
from qdrant_model_migration.tools.support import App
from qdrant_model_migration.tools.updates import Updates

MOST_TOLD = 3
UNFORESEEN = "failed in a way that was not foreseen"
"""What is said of a fault of ours. Its reason may hold anything, so it is only in the server's log."""


class ToolServer(MCPServer[App]):
    """The server, whose refusals of arguments say the fact and the next step as those of the tools do."""

    def take_requests(self, updates: Updates, log: ServerLog) -> None:
        """Serve what the SDK leaves to its users: suggestions, the log, and `resources/subscribe`; `subscriptions/listen` goes by the bus."""
        add = self._lowlevel_server.add_request_handler
        add("completion/complete", CompleteRequestParams, _complete)
        add("logging/setLevel", SetLevelRequestParams, log.on_set_level)
        add("resources/subscribe", SubscribeRequestParams, updates.on_subscribe)
        add("resources/unsubscribe", UnsubscribeRequestParams, updates.on_unsubscribe)

    async def get_prompt(self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None) -> Any:
        """A prompt with its arguments filled in.

        Raises:
            MCPError: there is no such prompt, or an argument is missing; without this a client is told of an internal error.
        """
        known = {prompt.name: prompt for prompt in self._prompt_manager.list_prompts()}
        if name not in known:
            told = f"There is no prompt {name[:80]!r}. There are: {', '.join(known)}."
            raise MCPError(code=INVALID_PARAMS, message=visible(told, one_line=True))
        missing = [a.name for a in known[name].arguments or [] if a.required and a.name not in (arguments or {})]
        if missing:
            raise MCPError(code=INVALID_PARAMS, message=f"Prompt {name!r} needs {', '.join(map(repr, missing))}.")
        return await super().get_prompt(name, arguments, context)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool.

        Raises:
            ToolError: there is no such tool, the arguments do not fit, or the tool refuses.
        """
        tools = {tool.name: tool.parameters.get("properties", {}) for tool in self._tool_manager.list_tools()}
        if name not in tools:
            raise ToolError(visible(f"Nothing was done: no tool {name[:80]!r} is offered. There are: {', '.join(tools)}.", one_line=True))
        unknown = [argument for argument in arguments if argument not in tools[name]]
        if unknown:
            raise ToolError(f"Error executing tool {name}: {_unknown(unknown, tools[name])}")
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            raise UnexpectedToolError(
                f"Error executing tool {name}: it {UNFORESEEN}; the reason is in the server's log. Look with migration_status or inspect_collection where things stand "
                "before you call again."
            ) from error.__cause__
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(f"Error executing tool {name}: {_misfits(error.__cause__)}") from error.__cause__
            raise


async def _complete(ctx: ServerRequestContext[App], params: CompleteRequestParams) -> CompleteResult:
    app = ctx.lifespan_context
    return CompleteResult(completion=await completion(app.context, params.argument.name, params.argument.value))


def _unknown(unknown: Iterable[str], known: Mapping[str, Any]) -> str:
    """A misspelt `dry_run` must not be ignored: the call would do what was to be tried out first."""
    name = next(iter(unknown))
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    meant = f"Did you mean {near[0]!r}?" if near else f"Its arguments: {', '.join(known)}."
    return visible(
        f"Nothing was done: it has no argument {name[:80]!r}. {meant} Leave it out or correct it, and call again.", one_line=True
    )


def _misfits(error: ValidationError) -> str:
    """Which arguments do not fit and what they must be; of a union every branch objects, so each argument is told once."""
    told: dict[str, str] = {}
    for found in error.errors(include_url=False, include_context=False):
        places = [part for number, part in enumerate(found["loc"]) if number == 0 or isinstance(part, int) or part in _FIELDS]
        place = ".".join(map(str, places)) or "the arguments"
        is_missing = found["type"] == "missing"
        value = "" if is_missing else f" (it is {_short(found['input'])})"
        message = "is missing" if is_missing else found["msg"].removeprefix("Input ").removeprefix("Value ")
        told.setdefault(place, f"{place!r} {_sentence(message)}{value}")
    listed = list(told.values())
    more = f"; and {len(listed) - MOST_TOLD} more" if len(listed) > MOST_TOLD else ""
    return visible(f"Nothing was done: {'; '.join(listed[:MOST_TOLD])}{more}. Correct it and call again.", one_line=True)


_FIELDS = frozenset({"text", "relevant_ids", "metric", "margin"})
"""Of the objects that arguments may be; other parts of a place are names of types."""


def _sentence(message: str) -> str:
    return message if message.startswith(("should", "is ", "must")) else f"does not fit: {message}"


def _short(value: object) -> str:
    if isinstance(value, str):
        return repr(value[:40]) + (f"…, {len(value):,} characters" if len(value) > 40 else "")
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value):,}"
    return repr(value)[:40]
