"""Can an assistant tell from the descriptions which tool comes first? docs/first-calls.md says which; a retrieval model judges."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from mcp import types

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.embedders.catalogue import Catalogue
from qdrant_model_migration.environment import read_settings
from tests.mcp.hosts import hosted

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "first-calls.md"
ROW = re.compile(r"^\| (?P<said>.+?) \| `(?P<tool>\w+)` \| `(?P<arguments>\{.*\})` \|$", re.MULTILINE)
TOLD = re.compile(r"(\d+) of (\d+) sentences lie nearest to their own tool,\s+(\d+) have it among the nearest two")


@dataclass(frozen=True)
class Row:
    said: str
    tool: str
    arguments: dict[str, Any]


def rows() -> list[Row]:
    return [Row(r["said"], r["tool"], json.loads(r["arguments"])) for r in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


async def listed() -> dict[str, types.Tool]:
    async with hosted({}) as host:
        return {tool.name: tool for tool in (await host.client.list_tools()).tools}


async def test_each_tool_takes_the_arguments_of_its_rows_and_none_is_without_one() -> None:
    tools = await listed()
    found = rows()
    assert {row.tool for row in found} == set(tools)
    for row in found:
        jsonschema.validate(row.arguments, tools[row.tool].input_schema)
        assert row.arguments.keys() <= tools[row.tool].input_schema["properties"].keys(), row


def test_the_skill_names_each_tool_where_it_says_what_comes_when() -> None:
    skill = (ROOT / "skill" / "SKILL.md").read_text(encoding="utf-8")
    steps = skill.partition("## The conversation, step by step")[2].partition("\n## ")[0]
    assert [row.tool for row in rows() if f"`{row.tool}`" not in steps] == []


async def test_the_descriptions_alone_lead_to_the_tool_as_often_as_the_page_says(
    asset_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page gives the counts."""
    monkeypatch.setenv("QDRANT_MIGRATION_MODELS", asset_models)
    model = await Catalogue(read_settings()).load("minilm")
    tools, found = await listed(), rows()
    names = list(tools)
    described = await model.embed([f"{tools[name].title}. {tools[name].description}" for name in names], Side.DOCUMENT)
    said = await model.embed([row.said for row in found], Side.QUERY)
    ranks = [
        1 + int(np.argsort(-(described @ vector)).tolist().index(names.index(row.tool))) for row, vector in zip(found, said, strict=True)
    ]
    for row, rank in zip(found, ranks, strict=True):
        print(rank, row.tool, row.said)
    first, second = sum(r == 1 for r in ranks), sum(r <= 2 for r in ranks)
    told = TOLD.search(PAGE.read_text(encoding="utf-8"))
    assert told is not None
    # One may lie between two tools, and fall to the other on another processor.
    assert first >= 15
    assert second >= 19
    assert len(ranks) == int(told[2])
    assert abs(first - int(told[1])) <= 1
    assert abs(second - int(told[3])) <= 1
