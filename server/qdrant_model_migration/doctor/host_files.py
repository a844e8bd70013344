"""Are the MCP hosts of this machine told how to start this server? Their configuration files are found and read; nothing in them is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qdrant_model_migration.doctor.check import Check
from qdrant_model_migration.environment import check_spelling
from qdrant_model_migration.errors import SettingsError
from qdrant_model_migration.hosts import Host, files_of

_OURS = re.compile(r"qdrant[-_]model[-_]migration")
_ASKED = re.compile(r"^\$\{.+\}$")
"""A value that the host fills in: an input, or a variable of its own."""
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
"""What else stands there is no variable, and nothing to be printed."""
_KEY = re.compile(r"(KEY|TOKEN)$")
_TELLS_WHERE = ("QDRANT_URL", "QDRANT_PATH", "QDRANT_MIGRATION_CONNECTIONS")
MOST_BYTES = 4 * 1024 * 1024


def host_checks(home: Path, project: Path, platform: str = sys.platform) -> list[Check]:
    """One line for each configuration file of a host that is there, with what is wrong with our entry in it."""
    return [
        _file_check(host, path, project, is_shared=is_shared)
        for host in Host
        for path, is_shared in files_of(host, home, project, platform)
        if path.is_file()
    ]


def _file_check(host: Host, path: Path, project: Path, *, is_shared: bool) -> Check:
    name = f"host {host.value}"
    again = f"Print the block anew with `qdrant-model-migration config {host.value}`, and restart the host."
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is larger than a configuration")
        entries = list(_entries(json.loads(path.read_text(encoding="utf-8")), project))
    except (OSError, ValueError, RecursionError) as error:
        kind = "it is not plain JSON, as with comments" if isinstance(error, json.JSONDecodeError) else type(error).__name__
        return Check(
            name=name,
            state="warn",
            text=f"{path} was not understood ({kind})",
            remedy="Look for a comma or a bracket too many. With comments it may be right for the host.",
        )
    if not entries:
        return Check(name=name, state="skip", text=f"{path} does not name this server")
    problems = [problem for entry in entries for problem in _problems(entry, is_shared=is_shared)]
    if problems:
        return Check(name=name, state="warn", text=f"{path}: {'; '.join(problems)}", remedy=again)
    return Check(name=name, state="ok", text=f"{path} names this server")


def _entries(configuration: Any, project: Path) -> Iterator[Mapping[str, Any]]:
    """What of it starts this server: by our name, or by our command. Claude Code keeps those of a project under its path."""
    if not isinstance(configuration, Mapping):
        return
    projects = configuration.get("projects")
    if isinstance(projects, Mapping):
        yield from _entries(projects.get(str(project)), project)
    for key in ("mcpServers", "servers"):
        listed = configuration.get(key)
        for name, entry in (listed if isinstance(listed, Mapping) else {}).items():
            words = [name, *_words(entry)]
            if isinstance(entry, Mapping) and any(_OURS.search(word) for word in words):
                yield entry


def _words(entry: Any) -> list[str]:
    if not isinstance(entry, Mapping):
        return []
    arguments = entry.get("args")
    return [w for w in (entry.get("command"), *(arguments if isinstance(arguments, list) else ())) if isinstance(w, str)]


def _problems(entry: Mapping[str, Any], *, is_shared: bool) -> Iterator[str]:
    if isinstance(entry.get("url"), str):
        # Over HTTP: that server has its settings itself.
        return
    command = entry.get("command")
    if not isinstance(command, str) or not command:
        yield "its entry has no command"
    elif "${" in command:
        # The host fills it in.
        pass
    elif os.sep not in command:
        if shutil.which(command) is None:
            yield "its command is not found"
        else:
            yield "its command is found by this shell's PATH, which hosts do not have: state it absolutely"
    elif not os.access(Path(command).expanduser(), os.X_OK):
        yield "its command is not there, or may not be run"
    given = entry.get("env")
    variables = {k: v for k, v in given.items() if isinstance(v, str) and _VARIABLE.match(k)} if isinstance(given, Mapping) else {}
    if not any(variables.get(name) for name in _TELLS_WHERE):
        yield "it states no QDRANT_URL, so an embedded database would serve"
    try:
        check_spelling(variables)
    except SettingsError as error:
        yield str(error)
    if is_shared:
        for name in sorted(n for n, v in variables.items() if _KEY.search(n) and v and not _ASKED.match(v)):
            yield f"it holds {name} in a file of the project, which may be shared: let the host ask for it"
