"""Does what is published hold what a user needs: the package, its types, the skill and the command?"""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from qdrant_model_migration import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the sdist and the wheel that was built from it, both made without a network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.mark.timeout(240)
def test_the_wheel_holds_the_package_the_skill_and_the_command(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        metadata = email.message_from_bytes(wheel.read(f"qdrant_model_migration-{__version__}.dist-info/METADATA"))
        commands = wheel.read(f"qdrant_model_migration-{__version__}.dist-info/entry_points.txt").decode()
    assert {"qdrant_model_migration/__init__.py", "qdrant_model_migration/py.typed", "qdrant_model_migration/skill/SKILL.md"} <= set(names)
    assert {f"qdrant_model_migration/tools/dashboard/{part}" for part in ("page.html", "style.css", "script.js")} <= set(names)
    assert {name.split("/")[0] for name in names} == {"qdrant_model_migration", f"qdrant_model_migration-{__version__}.dist-info"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "qdrant-model-migration = qdrant_model_migration.__main__:main" in commands


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "skill/SKILL.md",
        "server/qdrant_model_migration/__init__.py",
        "tests/conftest.py",
    } <= names
