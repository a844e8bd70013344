"""What does a host need to start this server? Its configuration block, with the absolute paths of this installation and without keys."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from qdrant_model_migration.settings import Settings

NAME = "qdrant-model-migration"
PLACEHOLDER_URL = "http://localhost:6333"
PLACEHOLDER_PYTHON = "/absolute/path/to/.venv/bin/python"

_CARRIED = (
    "QDRANT_PREFER_GRPC",
    "QDRANT_GRPC_PORT",
    "QDRANT_MIGRATION_CONNECTIONS",
    "QDRANT_MIGRATION_MODELS",
    "QDRANT_MIGRATION_LEDGER",
    "QDRANT_MIGRATION_READ_ONLY",
    "QDRANT_MIGRATION_ALLOWED_COLLECTIONS",
    "QDRANT_MIGRATION_ALLOWED_DIRECTORIES",
    "FASTEMBED_CACHE_PATH",
    "HF_HUB_OFFLINE",
)
"""Settings that hold no secret and belong into the block when they are set: hosts start servers with hardly any environment."""


class Host(StrEnum):
    CLAUDE_DESKTOP = "claude-desktop"
    VSCODE = "vscode"
    CURSOR = "cursor"
    CLAUDE_CODE = "claude-code"
    JETBRAINS = "jetbrains"


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the server is started."""

    command: str
    args: tuple[str, ...]


def this_installation() -> Start:
    """The interpreter that runs now; absolute, because hosts start servers with a bare PATH."""
    return Start(command=sys.executable, args=("-m", "qdrant_model_migration"))


def by_uvx() -> Start:
    """From the package index, in an environment of its own."""
    return Start(command=shutil.which("uvx") or "uvx", args=(NAME,))


PLACEHOLDER_START = Start(command=PLACEHOLDER_PYTHON, args=("-m", "qdrant_model_migration"))

_KEYS = {
    Host.CLAUDE_DESKTOP: "",
    Host.VSCODE: "${input:qdrant-api-key}",
    Host.CURSOR: "${env:QDRANT_API_KEY}",
    Host.CLAUDE_CODE: "${QDRANT_API_KEY:-}",
    Host.JETBRAINS: "",
}
"""How each host is told the key without its standing in the block. An empty value means no key."""

_KEY_NOTES = {
    Host.CLAUDE_DESKTOP: "Put the key into QDRANT_API_KEY; leave it empty for a Qdrant without one.",
    Host.VSCODE: "VS Code asks for the key when it starts the server and keeps it encrypted; leave it empty for a Qdrant without one.",
    Host.CURSOR: "Cursor takes the key from its own environment variable QDRANT_API_KEY; remove the line for a Qdrant without one.",
    Host.CLAUDE_CODE: "Claude Code takes the key from its own environment variable QDRANT_API_KEY; unset means no key.",
    Host.JETBRAINS: "Put the key into QDRANT_API_KEY; leave it empty for a Qdrant without one.",
}

_USER_FILES = {
    Host.CLAUDE_DESKTOP: {
        "darwin": "~/Library/Application Support/Claude/claude_desktop_config.json",
        "win32": r"%APPDATA%\Claude\claude_desktop_config.json",
        "linux": "~/.config/Claude/claude_desktop_config.json",
    },
    Host.VSCODE: {
        "darwin": "~/Library/Application Support/Code/User/mcp.json",
        "win32": r"%APPDATA%\Code\User\mcp.json",
        "linux": "~/.config/Code/User/mcp.json",
    },
    Host.CURSOR: {"darwin": "~/.cursor/mcp.json", "win32": r"%USERPROFILE%\.cursor\mcp.json", "linux": "~/.cursor/mcp.json"},
}
_OWN_COMMAND = {Host.CLAUDE_CODE: "~/.claude.json"}
"""Written by a command of the host, not by hand."""
_PROJECT_FILES = {Host.VSCODE: ".vscode/mcp.json", Host.CURSOR: ".cursor/mcp.json", Host.CLAUDE_CODE: ".mcp.json"}
"""In a project's folder, where others may see them."""
_BY_HAND = {Host.JETBRAINS: "Settings | Tools | AI Assistant | Model Context Protocol (MCP) | Add, as JSON"}


def files_of(host: Host, home: Path, project: Path, platform: str = sys.platform) -> list[tuple[Path, bool]]:
    """Where a host's configuration may lie: the person's own, and the project's, which is shared (true)."""
    found: list[tuple[Path, bool]] = []
    if host in _USER_FILES and platform != "win32":
        found.append((home / _user_file(host, platform).removeprefix("~/"), False))
    if host in _OWN_COMMAND:
        found.append((home / _OWN_COMMAND[host].removeprefix("~/"), False))
    if host in _PROJECT_FILES and (shared := project / _PROJECT_FILES[host]) not in [path for path, _ in found]:
        found.append((shared, True))
    return found


def _user_file(host: Host, platform: str) -> str:
    return _USER_FILES[host].get(platform, _USER_FILES[host]["linux"])


def _where(host: Host, platform: str) -> str:
    if host in _BY_HAND:
        return _BY_HAND[host]
    shared = f"{_PROJECT_FILES[host]} in the project's folder" if host in _PROJECT_FILES else ""
    if platform == "win32":
        shared = shared.replace("/", "\\")
    return ", or ".join(filter(None, (_user_file(host, platform) if host in _USER_FILES else "", shared)))


def environment_of(settings: Settings, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the block, as it is set now: never a key."""
    from qdrant_model_migration.environment import child_environment

    variables = child_environment() if variables is None else variables
    default = settings.connection(None)
    if default.url is not None:
        where = {"QDRANT_URL": default.url}
    elif settings.is_default_location:
        where = {"QDRANT_URL": PLACEHOLDER_URL}
    else:
        where = {"QDRANT_PATH": str(default.path)}
    # A private endpoint's address may hold a password; such a value is left for the person to copy.
    carried = {name: variables[name] for name in _CARRIED if variables.get(name) and "@" not in _addresses(variables[name])}
    return where | carried


def _addresses(value: str) -> str:
    """What stands behind `://`, where a password might."""
    return " ".join(part.split("/")[0] for part in value.split("://")[1:])


def block(host: Host, start: Start, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the host's configuration file holds for this server alone."""
    env = dict(environment)
    if "QDRANT_URL" in env:
        url = env.pop("QDRANT_URL")
        env = {"QDRANT_URL": url, "QDRANT_API_KEY": _KEYS[host], **env}
    server: dict[str, Any] = {"command": start.command, "args": list(start.args), "env": env}
    if host is not Host.VSCODE:
        return {"mcpServers": {NAME: server}}
    inputs = [{"type": "promptString", "id": "qdrant-api-key", "description": "API key of Qdrant (empty for none)", "password": True}]
    asked = {"inputs": inputs} if "QDRANT_API_KEY" in env else {}
    return {**asked, "servers": {NAME: {"type": "stdio", **server}}}


def block_text(host: Host, start: Start, environment: Mapping[str, str]) -> str:
    """The block as it stands in a file."""
    return json.dumps(block(host, start, environment), indent=2) + "\n"


def notes(host: Host, start: Start, environment: Mapping[str, str], platform: str = sys.platform) -> list[str]:
    """Where the block belongs, and what is still to be done."""
    found = [f"Where it belongs: {_where(host, platform)}. Merge it with what the file holds, then restart the host."]
    if "QDRANT_URL" in environment:
        found.append(_KEY_NOTES[host])
    if host is Host.CLAUDE_CODE:
        found.append(f"Or in one line: {add_command(start, environment)}")
    if (link := install_link(host, start, environment)) is not None:
        found.append(f"Or open this link, which asks before it adds anything: {link}")
    return found


def install_link(host: Host, start: Start, environment: Mapping[str, str]) -> str | None:
    """The address by which a host offers to add the server; None for hosts that have none."""
    made = block(host, start, environment)
    if host is Host.VSCODE:
        asked = {"inputs": made["inputs"]} if "inputs" in made else {}
        return "vscode:mcp/install?" + quote(json.dumps({"name": NAME, **made["servers"][NAME], **asked}, separators=(",", ":")), safe="")
    if host is Host.CURSOR:
        server = json.dumps(made["mcpServers"][NAME], separators=(",", ":"))
        return f"cursor://anysphere.cursor-deeplink/mcp/install?name={NAME}&config={quote(b64encode(server.encode()).decode(), safe='')}"
    return None


def add_command(start: Start, environment: Mapping[str, str]) -> str:
    """`claude mcp add`; --transport stands last because --env takes every word up to the next option."""
    words = ["claude", "mcp", "add"]
    for name, value in environment.items():
        words += ["--env", shlex.quote(f"{name}={value}")]
    if "QDRANT_URL" in environment:
        words += ["--env", '"QDRANT_API_KEY=$QDRANT_API_KEY"']
    words += ["--transport", "stdio", NAME, "--", shlex.quote(start.command), *map(shlex.quote, start.args)]
    return " ".join(words)
