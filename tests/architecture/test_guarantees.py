"""Does docs/guarantees.md promise only what a test shows? Every row names its tests, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guarantees.md"
SECTIONS = ("Live writes", "Faults", "Property tests", "Security")
COLUMNS = 3
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def functions_of(path: str) -> frozenset[str]:
    """Names of the test functions and methods in a file; none when there is no such file."""
    if not (ROOT / path).is_file():
        return frozenset()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(f.name for f in functions if f.name.startswith("test_"))


def rows(text: str) -> list[tuple[str, list[str]]]:
    """(section, cells) of every table row but the heads."""
    found: list[tuple[str, list[str]]] = []
    section = ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("|") and not line.startswith(("| ---", "| what happens")):
            found.append((section, [cell.strip() for cell in line.strip().strip("|").split(" | ")]))
    return found


def problems(text: str) -> list[str]:
    """What is wrong with the page."""
    sections = [line[3:].strip() for line in text.splitlines() if line.startswith("## ")]
    filled = {section for section, _ in rows(text)}
    found = [f"no section {name!r}" for name in SECTIONS if name not in sections]
    found += [f"{name}: no rows" for name in sections if name not in filled]
    for section, cells in rows(text):
        where = f"{section}: {cells[0][:60]}"
        if len(cells) != COLUMNS or not all(cells):
            found.append(f"{where}: {len(cells)} cells")
            continue
        named = NAMED.findall(cells[-1])
        if not named:
            found.append(f"{where}: names no test")
        found += [f"{where}: there is no {path}::{name}" for path, name in named if name not in functions_of(path)]
        if NAMED.sub("", cells[-1]).strip(" ,") != "":
            found.append(f"{where}: holds something else than tests: {NAMED.sub('', cells[-1]).strip(' ,')!r}")
    return found


def test_every_guarantee_names_tests_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert problems(text) == []
    assert len([1 for section, _ in rows(text) if section == "Faults"]) > 20


@pytest.mark.parametrize("section", [*SECTIONS, "A section of its own"])
def test_a_section_without_rows_is_found(section: str) -> None:
    """A head of a table alone promises nothing."""
    head = "| what happens | what is guaranteed | shown by |\n| --- | --- | --- |\n"
    row = "| a | b | `tests/architecture/test_guarantees.py::test_every_guarantee_names_tests_that_exist` |\n"
    names = dict.fromkeys([*SECTIONS, section])
    assert problems("\n" + "\n".join(f"## {name}\n\n{head}{row}" for name in names)) == []
    assert problems("\n" + "\n".join(f"## {name}\n\n{head}{row if name != section else ''}" for name in names)) == [f"{section}: no rows"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("| a | b | `tests/architecture/test_guarantees.py::test_gone` |", "there is no"),
        ("| a | b | `tests/gone.py::test_a` |", "there is no"),
        ("| a | b | somewhere |", "names no test"),
        ("| a | `tests/architecture/test_guarantees.py::test_every_guarantee_names_tests_that_exist` |", "2 cells"),
    ],
)
def test_a_row_that_promises_what_no_test_shows_is_found(row: str, problem: str) -> None:
    page = "\n".join(
        ["", *(f"## {name}\n" for name in SECTIONS), "| what happens | what is guaranteed | shown by |", "| --- | --- | --- |", row]
    )
    assert any(problem in found for found in problems(page)), problems(page)
