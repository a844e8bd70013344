"""Which text is embedded: fields, dotted paths, JSON in strings, templates; and which fields hold text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qdrant_model_migration.domain.findings import field_name_is_usable
from qdrant_model_migration.domain.texts import MAX_DEPTH, TextSource, framework_of, text_statistics
from qdrant_model_migration.errors import Refused

LONG = "a text that is long enough to be one"


@pytest.mark.parametrize(
    ("expression", "payload", "expected"),
    [
        ("text", {"text": "hello"}, "hello"),
        ("text", {"text": "  "}, None),
        ("text", {"text": 5}, None),
        ("text", {"text": None}, None),
        ("text", {"text": ["hello"]}, None),
        ("text", {}, None),
        ("a.b.c", {"a": {"b": {"c": "deep"}}}, "deep"),
        ("a.b", {"a.b": "its own name", "a": {"b": "nested"}}, "its own name"),
        ("a.b.c", {"a": {"b": "flat"}}, None),
        ("_node_content.text", {"_node_content": json.dumps({"text": "node"})}, "node"),
        ("_node_content.text", {"_node_content": "{broken"}, None),
        ("{title}\n{body}", {"title": "T", "body": "B"}, "T\nB"),
        ("{title}\n{body}", {"title": "T"}, "T"),
        ("{title}: {meta.year}", {"title": "T", "meta": {"year": 1957}}, "T: 1957"),
        ("{title} and {body}", {"other": 1}, None),
        ("{title}", {"title": True}, None),
        ("{{literal}} {title}", {"title": "T"}, "{literal} T"),
        ("text", {"text": "kept as it is \n"}, "kept as it is \n"),
    ],
)
def test_the_text_of_a_point(expression: str, payload: dict[str, Any], expected: str | None) -> None:
    assert TextSource.parse(expression).extract(payload) == expected


@pytest.mark.parametrize("expression", ["", "  ", "x" * 501, "{title} {", "{title!r}", "{n:>10}", "{ } {a}"])
def test_what_is_no_text_field_is_refused(expression: str) -> None:
    with pytest.raises(Refused, match="text_field"):
        TextSource.parse(expression)


def test_fields_of_a_template() -> None:
    assert TextSource.parse("{title}\n{meta.body}").fields == ["title", "meta.body"]
    assert TextSource.parse("text").fields == ["text"]


@pytest.mark.parametrize(
    ("payload", "framework", "field"),
    [
        ({"page_content": LONG, "metadata": {"source": "a"}}, "langchain", "page_content"),
        ({"_node_content": json.dumps({"text": LONG, "id_": "1"}), "doc_id": "1"}, "llama_index", "_node_content.text"),
        ({"content": LONG, "meta": {}, "id": "1"}, "haystack", "content"),
        ({"document": LONG, "metadata": None}, "mcp-server-qdrant", "document"),
        ({"text": LONG}, None, "text"),
    ],
)
def test_frameworks_and_their_text_are_recognised(payload: dict[str, Any], framework: str | None, field: str) -> None:
    assert framework_of([payload] * 3) == framework
    assert text_statistics([payload] * 3)[0].field == field


def test_a_framework_needs_most_of_the_points() -> None:
    assert framework_of([{"page_content": "x", "metadata": {}}, {}, {}]) is None
    assert framework_of([]) is None


def test_coverage_and_lengths_are_those_of_the_sample() -> None:
    payloads: list[dict[str, Any]] = [{"text": "x" * 100}] * 3 + [{"text": ""}]
    (found,) = text_statistics(payloads)
    assert (found.coverage, found.mean_chars, found.p95_chars) == (0.75, 100.0, 100)


def test_a_known_name_comes_before_a_longer_text_unless_it_is_rare() -> None:
    often = [{"text": LONG, "notes": LONG * 20}] * 4
    rare: list[dict[str, Any]] = [{"text": LONG, "notes": LONG * 20}] + [{"notes": LONG * 20}] * 3
    assert [f.field for f in text_statistics(often)] == ["text", "notes"]
    assert [f.field for f in text_statistics(rare)] == ["notes", "text"]


def test_short_codes_are_no_text_and_depth_is_bounded() -> None:
    nested: dict[str, Any] = {"leaf": LONG}
    for _ in range(MAX_DEPTH + 2):
        nested = {"in": nested}
    assert text_statistics([{"id": "abc-1", "lang": "en", **nested}]) == []


@pytest.mark.parametrize(
    ("name", "expected"), [("text", True), ("größe", True), ("a.b c", True), ("a\nb", False), ("{a}", False), ("x" * 121, False)]
)
def test_field_names_that_can_be_passed_on(name: str, expected: bool) -> None:
    assert field_name_is_usable(name) is expected
