"""Do the pinned requirements of the container agree with those of the tests? What is shipped is what was tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def pinned(name: str) -> dict[str, str]:
    return dict(PINNED.findall((ROOT / name).read_text()))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_the_versions_are_those_that_are_tested(name: str) -> None:
    tested = pinned("requirements-dev.txt")
    assert {package: version for package, version in pinned(name).items() if tested.get(package) != version} == {}


def test_every_requirement_is_pinned_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = pinned("requirements.txt")
    assert {re.split(r"[<>=\[]", wanted)[0] for wanted in project["dependencies"]} <= set(found)
    text = (ROOT / "requirements.txt").read_text()
    assert len(re.findall(r"^\S+==.*(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+", text, re.MULTILINE)) == len(PINNED.findall(text))
