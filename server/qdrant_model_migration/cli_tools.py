"""How does a tool become a command? From its JSON schema: what it takes, what it means."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Optional

import typer
from mcp.server.mcpserver.tools import Tool

from qdrant_model_migration.cli_names import COMMANDS, in_commands, option, positional
from qdrant_model_migration.tools import TOOLS
from qdrant_model_migration.tools.support import ToolSpec

Json = dict[str, Any]

WAITING = frozenset({"verify", "repair", "compare", "swap", "finish"})
"""Commands that wait by default until what they asked for is done."""

EXIT_CODES = (
    "Exit codes: 0 done; 1 error (also: the migration is stopped by one); 2 wrong usage; 3 still running; 4 the answer is a no: not complete, "
    "a gate that failed, a worse model, a plan that no longer fits."
)
_WAIT_HELP = {
    "backfill": "stay until it is backfilled; otherwise the worker goes on alone. Always so with the embedded database",
    **dict.fromkeys(WAITING, "repeat the call until it is done; otherwise it answers within 40 s, with exit code 3 while it goes on"),
}
_SINGULAR = {"models": ["--model"], "queries": ["--query"]}
"""A repeated option reads better in the singular: --model a --model b."""
_YES_HELP = "make the plan, print it, and carry it out at once; a plan that overrides a gate is only printed"


def spec_of(command: str) -> ToolSpec:
    """The tool behind a command."""
    return spec_of_tool(COMMANDS[command])


def spec_of_tool(tool: str) -> ToolSpec:
    return next(spec for spec in TOOLS if spec.name == tool)


def schema_of(spec: ToolSpec) -> Json:
    """The JSON schema of a tool's arguments, as hosts see it."""
    return Tool.from_function(spec.fn, structured_output=False).parameters


def tool_command(command: str) -> tuple[Callable[..., None], str]:
    """A function that typer understands, and its help."""
    spec = spec_of(command)
    parameters = [*parameters_of(command, spec), *_own_options(command)]

    def call(**given: Any) -> None:
        from qdrant_model_migration.cli_calls import Call, run

        own = {name: given.pop(name, None) for name in ("as_json", "wait", "watch", "yes")}
        arguments = values_of(spec, given)
        if own["yes"] and arguments.get("plan"):
            raise typer.BadParameter("--yes makes a plan of its own; leave out --plan.")
        run(
            Call(
                command=command,
                spec=spec,
                arguments=arguments,
                as_json=bool(own["as_json"]),
                is_waiting=bool(own["wait"]),
                is_watching=bool(own["watch"]),
                is_agreed=bool(own["yes"]),
            )
        )

    call.__name__ = command.replace("-", "_")
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call, f"{spec.title}.\n\n{in_commands(spec.description)}"


def parameters_of(command: str, spec: ToolSpec) -> list[inspect.Parameter]:
    """A tool's arguments as typer takes them: those that stand without a name first, in the order in which they are written."""
    schema = schema_of(spec)
    required = set(schema.get("required", ()))
    found = [_parameter(command, name, part, is_required=name in required) for name, part in _properties(schema).items()]
    order = {name: place for place, name in enumerate(positional(command))}
    return sorted(found, key=lambda p: order.get(p.name, len(order)))


def values_of(spec: ToolSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed, as the tool takes it; what was not typed is left out.

    Raises:
        BadParameter: it begins like JSON and is none.
    """
    properties = _properties(schema_of(spec))
    return {name: _value(name, value, properties[name]) for name, value in given.items() if value not in (None, [])}


def _properties(schema: Json) -> dict[str, Json]:
    return {name: _plain(part, schema) for name, part in schema["properties"].items()}


def _plain(part: Json, schema: Json) -> Json:
    """A property without `null` and references."""
    choices = [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]
    merged = {**part, **choices[0]} if len(choices) == 1 else dict(part)
    if "$ref" in merged:
        merged = {**schema["$defs"][merged["$ref"].rpartition("/")[2]], **{k: v for k, v in part.items() if k == "description"}}
    return merged


def _parameter(command: str, name: str, part: Json, *, is_required: bool) -> inspect.Parameter:
    kind = _type(part)
    shown = part.get("default")
    text = in_commands(part.get("description", ""))
    if shown is not None and kind is not bool:
        text += f" [default: {shown}]"
    options: Json = {"help": text, "show_default": False}
    for limit, key in (("minimum", "min"), ("maximum", "max")):
        if kind in (int, float) and limit in part:
            options[key] = part[limit]
    info: Any
    if name in positional(command):
        info = typer.Argument(**options)
    else:
        flag = option(name)
        names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag, *_SINGULAR.get(name, ())]
        if part.get("type") == "object":
            options["help"] += f"; JSON: {_example(part)}"
        if kind == list[str]:
            options["help"] += "; repeat it, or give one JSON list"
        info = typer.Option(*names, **options)
    annotation = Annotated[kind, info] if is_required else Annotated[Optional[kind], info]  # noqa: UP045 - built at run time
    default = inspect.Parameter.empty if is_required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _own_options(command: str) -> list[inspect.Parameter]:
    """What the command line adds to a tool."""
    flags: list[tuple[str, str, str, bool]] = [("as_json", "--json", "print the structured result", False)]
    if command in _WAIT_HELP:
        flags.append(("wait", "--wait/--no-wait", _WAIT_HELP[command], command in WAITING))
    if command == "status":
        flags.append(("watch", "--watch", "follow it with a progress bar until it stands still", False))
    if command in ("swap", "finish"):
        flags.append(("yes", "--yes", _YES_HELP, False))
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[bool, typer.Option(flag, help=text)])
        for name, flag, text, default in flags
    ]


def _type(part: Json) -> Any:
    if "enum" in part:
        return Literal[tuple(part["enum"])]
    return {"integer": int, "number": float, "boolean": bool, "array": list[str]}.get(part.get("type", ""), str)


def _example(part: Json) -> str:
    return json.dumps({name: inner.get("default", "…") for name, inner in part["properties"].items()}, ensure_ascii=False)


def _value(name: str, value: Any, part: Json) -> Any:
    """What was typed, as the tool takes it.

    Raises:
        BadParameter: it begins like JSON and is none.
    """
    if part.get("type") == "object":
        return _json(name, value)
    if part.get("type") != "array":
        return value
    if len(value) == 1 and value[0].lstrip().startswith("["):
        return _json(name, value[0])
    return [_json(name, item) if item.lstrip().startswith("{") else item for item in value]


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option(name)} is not JSON: {error}") from None
