"""What does the guide say? The answer of read_guidance."""

from __future__ import annotations

from qdrant_model_migration.results.common import Result, Wire


class Section(Wire):
    title: str
    text: str


class GuidanceResult(Result):
    sections: list[Section]
