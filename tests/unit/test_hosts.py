"""Is what `config` prints what each host reads, with this installation's paths and without a key?"""

from __future__ import annotations

import json
import os
import shlex
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.hosts import (
    NAME,
    PLACEHOLDER_START,
    PLACEHOLDER_URL,
    Host,
    Start,
    add_command,
    block,
    block_text,
    by_uvx,
    environment_of,
    install_link,
    notes,
    this_installation,
)

ROOT = Path(__file__).resolve().parents[2]
KEY = "s3cret-of-the-person"
START = Start(command="/opt/my python/bin/python", args=("-m", "qdrant_model_migration"))


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, str]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return environment_of(read_settings())


def server_of(host: Host, made: dict[str, Any]) -> dict[str, Any]:
    found = made["servers" if host is Host.VSCODE else "mcpServers"][NAME]
    assert isinstance(found, dict)
    return found


def test_the_example_is_what_the_generator_makes_of_placeholders() -> None:
    example = (ROOT / "claude_desktop_config.example.json").read_text()
    assert example == block_text(Host.CLAUDE_DESKTOP, PLACEHOLDER_START, {"QDRANT_URL": PLACEHOLDER_URL})


@pytest.mark.parametrize("host", Host)
def test_a_block_names_the_address_and_never_the_key(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    env = environment(monkeypatch, QDRANT_URL="https://q.example:6333", QDRANT_API_KEY=KEY, QDRANT_MIGRATION_HTTP_TOKEN=KEY)
    text = block_text(host, START, env) + "\n".join(notes(host, START, env))
    assert KEY not in text
    server = server_of(host, block(host, START, env))
    assert server["command"] == START.command
    assert server["args"] == list(START.args)
    assert server["env"]["QDRANT_URL"] == "https://q.example:6333"
    assert all(isinstance(value, str) for value in server["env"].values())


def test_vs_code_asks_for_the_key_as_a_password() -> None:
    made = block(Host.VSCODE, START, {"QDRANT_URL": PLACEHOLDER_URL})
    [asked] = made["inputs"]
    assert asked["type"] == "promptString"
    assert asked["password"] is True
    server = server_of(Host.VSCODE, made)
    assert server["type"] == "stdio"
    assert server["env"]["QDRANT_API_KEY"] == f"${{input:{asked['id']}}}"


def test_a_link_holds_what_the_block_holds() -> None:
    environment = {"QDRANT_URL": PLACEHOLDER_URL, "QDRANT_MIGRATION_READ_ONLY": "true"}
    code, cursor = (install_link(host, START, environment) for host in (Host.VSCODE, Host.CURSOR))
    assert code is not None
    scheme, _, query = code.partition("?")
    assert scheme == "vscode:mcp/install"
    told = json.loads(unquote(query))
    made = block(Host.VSCODE, START, environment)
    assert told == {"name": NAME, **made["servers"][NAME], "inputs": made["inputs"]}
    assert cursor is not None
    parts = urlsplit(cursor)
    assert (parts.scheme, parts.netloc, parts.path) == ("cursor", "anysphere.cursor-deeplink", "/mcp/install")
    given = parse_qs(parts.query, strict_parsing=True)
    assert given["name"] == [NAME]
    assert json.loads(b64decode(given["config"][0])) == server_of(Host.CURSOR, block(Host.CURSOR, START, environment))
    assert {install_link(host, START, environment) for host in (Host.CLAUDE_DESKTOP, Host.CLAUDE_CODE, Host.JETBRAINS)} == {None}


@pytest.mark.parametrize("host", Host)
def test_a_folder_needs_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: Host) -> None:
    env = environment(monkeypatch, QDRANT_PATH=str(tmp_path))
    made = block(host, START, env)
    assert server_of(host, made)["env"] == {"QDRANT_PATH": str(tmp_path)}
    assert "inputs" not in made


def test_without_settings_a_placeholder_stands_for_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment(monkeypatch) == {"QDRANT_URL": PLACEHOLDER_URL}


def test_settings_without_secrets_are_carried_over(monkeypatch: pytest.MonkeyPatch) -> None:
    models = '{"mine": {"path": "/models/mine"}}'
    env = environment(monkeypatch, QDRANT_MIGRATION_MODELS=models, QDRANT_MIGRATION_READ_ONLY="true")
    assert env["QDRANT_MIGRATION_MODELS"] == models
    assert env["QDRANT_MIGRATION_READ_ONLY"] == "true"


def test_an_endpoint_with_a_password_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    models = json.dumps({"mine": {"provider": "openai", "base_url": f"https://me:{KEY}@host/v1"}})
    env = environment(monkeypatch, QDRANT_MIGRATION_MODELS=models, QDRANT_MIGRATION_LEDGER="mine")
    assert "QDRANT_MIGRATION_MODELS" not in env
    assert env["QDRANT_MIGRATION_LEDGER"] == "mine"


def test_this_installation_is_named_by_an_absolute_path() -> None:
    start = this_installation()
    assert start.command == sys.executable
    assert os.path.isabs(start.command)
    assert by_uvx().args == (NAME,)


def test_the_line_for_claude_code_is_one_that_a_shell_reads() -> None:
    """--env takes every word up to the next option, so the name must not follow it."""
    words = shlex.split(add_command(START, {"QDRANT_URL": "http://h:6333", "QDRANT_MIGRATION_MODELS": '{"m": {}}'}))
    assert words[:3] == ["claude", "mcp", "add"]
    assert words[words.index(NAME) - 2 : words.index(NAME)] == ["--transport", "stdio"]
    assert words[words.index("--") + 1 :] == [START.command, *START.args]
    assert 'QDRANT_MIGRATION_MODELS={"m": {}}' in words
    assert "QDRANT_API_KEY=$QDRANT_API_KEY" in words


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("host", Host)
def test_the_place_of_the_file_is_told_for_each_system(host: Host, platform: str) -> None:
    place = "Settings | Tools" if host is Host.JETBRAINS else ".json"
    assert place in notes(host, START, {"QDRANT_URL": PLACEHOLDER_URL}, platform)[0]
