"""What are the operations called on the command line? Command for tool, and the command line that makes the same call as a tool's arguments."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

PROGRAM = "qdrant-model-migration"
COMMANDS: dict[str, str] = {
    "inspect": "inspect_collection",
    "recommend": "recommend_strategy",
    "create-target": "create_target",
    "backfill": "start_backfill",
    "status": "migration_status",
    "control": "control_backfill",
    "verify": "verify_target",
    "repair": "repair_target",
    "compare": "compare_models",
    "swap": "swap_alias",
    "finish": "finish_migration",
    "guidance": "read_guidance",
}
"""Command -> tool, in the order of a migration."""
RUN, RUN_TITLE = "run", "Carry a whole migration through, up to the gates that are stated"
"""All of them in one."""
TITLES: dict[str, str] = {
    "inspect": "Inspect a Qdrant collection",
    "recommend": "Recommend a migration strategy",
    "create-target": "Create the target of a migration",
    "backfill": "Start or resume the backfill",
    "status": "Where a migration stands",
    "control": "Pause, resume or pace a backfill",
    "verify": "Verify the target",
    "repair": "Repair the target",
    "compare": "Compare embedding models on this data",
    "swap": "Swap the alias, or roll back",
    "finish": "Finish or discard a migration",
    "guidance": "Read the migration guidance",
}
"""Command -> title of its tool: the list of commands is shown without importing a tool."""

_POSITIONAL: dict[str, tuple[str, ...]] = {
    "inspect": ("collection",),
    "recommend": ("collection",),
    "create-target": ("collection",),
    "control": ("migration_id", "action"),
    "finish": ("migration_id", "action"),
    "guidance": ("topic",),
}


def positional(command: str) -> tuple[str, ...]:
    """The arguments that stand without a name; the migration's id where nothing else is said."""
    return _POSITIONAL.get(command, ("migration_id",))


def option(name: str) -> str:
    """The option of an argument."""
    return "--" + name.replace("_", "-")


def command_line(tool: str, arguments: Mapping[str, Any]) -> str:
    """The command that makes the same call."""
    command = next(c for c, t in COMMANDS.items() if t == tool)
    words = [PROGRAM, command, *(str(arguments[name]) for name in positional(command) if arguments.get(name) is not None)]
    for name, value in arguments.items():
        if name in positional(command) or value is None:
            continue
        flag = option(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list):
            words += [word for item in value for word in (flag, item if isinstance(item, str) else json.dumps(item))]
        else:
            words += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return shlex.join(words)


def in_commands(text: str) -> str:
    """A text that names tools, for a person who types commands."""
    for command, tool in COMMANDS.items():
        text = re.sub(rf"\b{tool}\b", command, text)
    text = re.sub(r"\bfinish(?: with action=|\(action=)'(\w+)'\)?", rf"`{PROGRAM} finish MIGRATION \1`", text)
    text = re.sub(r"\bswap(?: with direction=|\(direction=)'back'\)?", f"`{PROGRAM} swap MIGRATION --direction back`", text)
    return re.sub(r"\b(repair|verify|backfill)\(migration_id='([^']+)'\)", rf"`{PROGRAM} \1 \2`", text)
