"""What does a driver refuse to work with?"""

from __future__ import annotations

from typing import Any

import pytest

from qdrant_model_migration.errors import ModelNotUsable
from tests.conftest import Backend
from tests.qdrant.seeds import opened, seed
from tests.qdrant.works import work_on


@pytest.mark.parametrize(
    "planned", [{"document_prefix": "passage: "}, {"options": {"language": "german"}}, {"fingerprint": "0" * 16}, {"max_tokens": 7}]
)
async def test_a_model_that_was_configured_otherwise_since_is_refused(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch, planned: dict[str, Any]
) -> None:
    """BM25 has no file to tell it by: its language is all that changes. A prefix changes the vectors of any model."""
    async with opened(any_qdrant, monkeypatch) as context:
        await seed(context, name, points=3)
        work = await work_on(context, name)
        await work.embedder()
        work.migration = work.migration.model_copy(update={"model": work.migration.spec.model_copy(update=planned)})
        with pytest.raises(ModelNotUsable, match=f"{next(iter(planned))} .* instead of .*must not be mixed"):
            await work.embedder()
