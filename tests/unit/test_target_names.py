"""Are names of targets free, legal and short enough for a server and a file system?"""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.target import name_problem, target_name


def test_a_target_is_named_for_its_source_and_model() -> None:
    assert target_name("docs", "fastembed:BAAI/bge-small-en-v1.5", set()) == "docs__bge_small_en_v1_5"
    assert target_name("docs", "builtin:hashing-64", {"docs__hashing_64", "docs__hashing_64_2"}) == "docs__hashing_64_3"


@pytest.mark.parametrize("letter", ["x", "é", "☃", "𝔘"])
def test_a_long_source_name_is_cut_to_255_bytes(letter: str) -> None:
    first = target_name(letter * 255, "builtin:hashing-64", set())
    second = target_name(letter * 255, "builtin:hashing-64", {first})
    assert first.endswith("__hashing_64")
    assert second.endswith("__hashing_64_2")
    assert 250 <= len(first.encode()) <= 255
    assert len(second.encode()) <= 255


@pytest.mark.parametrize("name", ["a/b", "..", "  ", "two\nlines", "\0", 'say "x"', "a\u202eb", "é" * 128])
def test_names_that_no_collection_can_have_are_told(name: str) -> None:
    assert name_problem(name) is not None


@pytest.mark.parametrize("name", ["docs", "it's {docs} ☃", "x" * 255, "..a", "Ü-1.2"])
def test_legal_names_are_taken(name: str) -> None:
    assert name_problem(name) is None
