"""Does the doctor find the configuration files of hosts, and what is wrong with our entry in them?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from qdrant_model_migration.doctor.check import Check
from qdrant_model_migration.doctor.host_files import host_checks
from qdrant_model_migration.hosts import Host, block, by_uvx, files_of, this_installation

ENVIRONMENT = {"QDRANT_URL": "http://localhost:6333"}


def checked(tmp_path: Path, host: Host, text: str, *, place: int = 0, platform: str = "linux") -> Check:
    path, _ = files_of(host, tmp_path / "home", tmp_path / "project", platform)[place]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    [check] = host_checks(tmp_path / "home", tmp_path / "project", platform)
    assert str(path) in check.text
    assert check.remedy or check.state in ("ok", "skip")
    return check


def entry(**changes: Any) -> str:
    server = {"command": sys.executable, "args": ["-m", "qdrant_model_migration"], "env": ENVIRONMENT, **changes}
    return json.dumps({"mcpServers": {"another": {"command": "x"}, "vectors": {k: v for k, v in server.items() if v is not None}}})


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("host", [Host.CLAUDE_DESKTOP, Host.VSCODE, Host.CURSOR, Host.CLAUDE_CODE])
def test_the_block_that_config_prints_passes_wherever_it_belongs(tmp_path: Path, host: Host, platform: str) -> None:
    for place in range(len(files_of(host, tmp_path, tmp_path, platform))):
        text = json.dumps(block(host, this_installation(), ENVIRONMENT))
        check = checked(tmp_path / str(place), host, text, place=place, platform=platform)
        assert (check.name, check.state) == (f"host {host.value}", "ok"), check


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"command": "/no/such/python"}, "its command is not there"),
        ({"command": "no-such-program"}, "its command is not found"),
        ({"command": "sh"}, "state it absolutely"),
        ({"command": None}, "no command"),
        ({"env": {}}, "no QDRANT_URL"),
        ({"env": None}, "no QDRANT_URL"),
        ({"env": "QDRANT_URL"}, "no QDRANT_URL"),
        ({"env": {**ENVIRONMENT, "QDRANT_MIGRATION_READONLY": "true"}}, "Did you mean QDRANT_MIGRATION_READ_ONLY?"),
    ],
)
def test_what_keeps_a_host_from_starting_it_as_meant_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    check = checked(tmp_path, Host.CLAUDE_DESKTOP, entry(**changes))
    assert check.state == "warn"
    assert told in check.text
    assert "config claude-desktop" in (check.remedy or "")


def test_a_key_in_a_file_of_the_project_is_told_and_not_repeated(tmp_path: Path) -> None:
    held = {"env": {**ENVIRONMENT, "QDRANT_API_KEY": "a-key-of-somebody"}}
    shared = checked(tmp_path / "a", Host.CLAUDE_CODE, entry(**held), place=1)
    assert shared.state == "warn"
    assert "QDRANT_API_KEY" in shared.text
    assert "a-key-of-somebody" not in str(shared)
    # Claude Desktop has no other place for it.
    assert checked(tmp_path / "b", Host.CLAUDE_DESKTOP, entry(**held)).state == "ok"


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("{", "warn"),
        ("", "warn"),
        ('{"mcpServers": {} // none\n}', "warn"),
        ("[" * 100_000, "warn"),
        ("\x00", "warn"),
        ("[]", "skip"),
        ("{}", "skip"),
        ('{"mcpServers": [1]}', "skip"),
        ('{"mcpServers": {"other": {"command": 7, "args": "x"}, "third": null}}', "skip"),
        ('{"mcpServers": {"qdrant-model-migration": {"type": "http", "url": "http://localhost:8765/mcp"}}}', "ok"),
    ],
)
def test_a_file_of_any_kind_is_one_line(tmp_path: Path, text: str, state: str) -> None:
    assert checked(tmp_path, Host.CURSOR, text).state == state


def test_what_claude_mcp_add_wrote_is_found_under_the_project(tmp_path: Path) -> None:
    known = {"projects": {"/elsewhere": {"mcpServers": {}}, str(tmp_path / "project"): json.loads(entry(command="/no/such/python"))}}
    assert "its command is not there" in checked(tmp_path, Host.CLAUDE_CODE, json.dumps(known)).text


def test_a_project_that_is_the_home_has_no_shared_file(tmp_path: Path) -> None:
    assert [is_shared for _, is_shared in files_of(Host.CURSOR, tmp_path, tmp_path)] == [False]


def test_what_the_host_fills_in_is_not_missed(tmp_path: Path) -> None:
    assert checked(tmp_path, Host.VSCODE, entry(command="${workspaceFolder}/.venv/bin/python")).state == "ok"


def test_where_no_host_is_there_nothing_is_said(tmp_path: Path) -> None:
    assert host_checks(tmp_path, tmp_path) == []


def test_uvx_by_its_path_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvx").write_text("#!/bin/sh\n")
    (tmp_path / "uvx").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = json.dumps(block(Host.CURSOR, by_uvx(), ENVIRONMENT))
    assert checked(tmp_path, Host.CURSOR, text).state == "ok"
