"""Is the bundle for Claude Desktop one that its own tools accept, with every key marked as one, and does it hold a server that starts?"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distribution.bundle import stage
from qdrant_model_migration import __version__
from tests.clients.installed import run

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).resolve().parents[2]


def test_the_bundle_is_valid_and_packs_what_it_needs(tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    stage(staged)
    checked = run("mcpb", "validate", str(staged / "manifest.json"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    packed = run("mcpb", "pack", str(staged), str(tmp_path / "made.mcpb"))
    assert packed.returncode == 0, packed.stdout + packed.stderr
    with zipfile.ZipFile(tmp_path / "made.mcpb") as bundle:
        names = set(bundle.namelist())
        bundle.extractall(tmp_path / "unpacked")
    assert {"manifest.json", "icon.png", "pyproject.toml", "skill/SKILL.md", "server/qdrant_model_migration/__main__.py"} <= names
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]
    # What it holds is a whole package: another interpreter's path, its own files.
    done = subprocess.run(
        [sys.executable, "-c", "import qdrant_model_migration as p; print(p.__file__, p.__version__)"],
        env={"PYTHONPATH": str(tmp_path / "unpacked" / "server")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "unpacked" / "server" / "qdrant_model_migration" / "__init__.py"), __version__]


def test_keys_are_asked_for_as_secrets_and_every_setting_is_used() -> None:
    manifest = json.loads((ROOT / "distribution" / "mcpb" / "manifest.json").read_text())
    asked, given = manifest["user_config"], manifest["server"]["mcp_config"]["env"]
    assert {f"${{user_config.{name}}}" for name in asked} == set(given.values())
    assert {name for name, of in asked.items() if of.get("sensitive")} == {name for name in asked if name.endswith("_key")}


def test_the_registry_is_told_the_same_package() -> None:
    told = json.loads((ROOT / "server.json").read_text())
    [package] = told["packages"]
    assert told["version"] == package["version"] == __version__
    assert len(told["description"]) <= 100
    secrets = {v["name"] for v in package["environmentVariables"] if v.get("isSecret")}
    assert secrets == {v["name"] for v in package["environmentVariables"] if v["name"].endswith("_KEY")}
