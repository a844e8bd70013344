"""Are the points of a real collection found in a texts file, and do texts from it serve where those of payloads do?"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest

from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.texts import TextSource
from qdrant_model_migration.domain.texts_file import coverage
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.queries import sampled
from qdrant_model_migration.operations.sampling import sample_points
from qdrant_model_migration.operations.source_match import source_match
from tests.conftest import Backend
from tests.qdrant.seeds import OLD, opened, seed, text

POINTS = 40


def identifier(n: int) -> PointId:
    """Both kinds of id, up to the largest."""
    return 2**64 - 1 - n if n % 2 else str(uuid.UUID(int=n + 2**120 * 0xF3))


def write(folder: Path, numbers: Sequence[int]) -> str:
    """Ids as applications write them: bare integers, UUIDs in capitals without hyphens."""
    rows = [{"id": i if isinstance(i := identifier(n), int) else uuid.UUID(i).hex.upper(), "text": text(n)} for n in numbers]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "texts.jsonl"


async def seeded(context: OperationContext, name: str) -> None:
    """Vectors of texts that the payloads do not hold."""
    await seed(context, name, points=POINTS, identifier=identifier, payload=lambda n: {"n": n, "note": "no text of the document"})


async def test_every_point_is_found_by_its_id_and_half_a_file_covers_half(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=str(tmp_path)) as context:
        await seeded(context, name)
        gateway = await context.gateway()
        points = await sample_points(gateway, await gateway.describe(name), 100)
        texts = await context.texts_file(write(tmp_path, range(POINTS)))
        seen = coverage(texts, points)
        assert (seen.sampled, seen.found, seen.remark(texts.recorded, name)) == (POINTS, POINTS, None)
        assert {p.id: texts.of(p) for p in points} == {identifier(n): text(n) for n in range(POINTS)}
        half = await context.texts_file(write(tmp_path, range(POINTS // 2)))
        assert coverage(half, points).share == 0.5


async def test_texts_of_a_file_prove_the_current_model_and_make_documents(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the payload holds none: with another text the same check fails."""
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_ALLOWED_DIRECTORIES=str(tmp_path)) as context:
        await seeded(context, name)
        gateway = await context.gateway()
        collection = await gateway.describe(name)
        texts = await context.texts_file(write(tmp_path, range(POINTS)))
        match = await source_match(context, gateway, collection, collection.field_to_replace(None), texts, OLD)
        assert (match.is_match, match.sampled, match.text_field) == (True, 32, "text of file texts.jsonl")
        other = await source_match(context, gateway, collection, collection.field_to_replace(None), TextSource.parse("note"), OLD)
        assert not other.is_match
        documents, notes = await sampled(gateway, collection, texts, 20, 7)
        assert notes == []
        assert all(document.text in {text(n) for n in range(POINTS)} for document in documents)
