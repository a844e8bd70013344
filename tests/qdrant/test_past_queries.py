"""Are past queries found where the app keeps them, and taken only from collections that may be read?"""

from __future__ import annotations

import pytest

from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.errors import NotFound, Refused
from qdrant_model_migration.operations.compare import compare_migration
from qdrant_model_migration.operations.compare_sample import compare_on_sample
from tests.conftest import Backend
from tests.qdrant.test_compare import NEW, OLD, TEXT, corpus, filled, matched, migration_of, opened

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")


async def test_past_queries_come_from_the_documents_or_from_a_log(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = corpus(60)
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_ALLOWED_COLLECTIONS=f"{name}_old,{name}_new,{name}_log") as context:
        await filled(context, f"{name}_old", OLD, payloads)
        spec = await filled(context, f"{name}_new", NEW, payloads, field="dense")
        gateway = await context.gateway()
        await gateway.points.write(
            f"{name}_old",
            [Point(id=100, payload={"title": "t", "body": "wing flutter", "asked": ["heat of a plate", "wing"]}, vectors={"": [0.1] * 64})],
        )
        for log in ("log", "secret"):
            await gateway.create_collection(f"{name}_{log}", {"vectors": {}})
            await gateway.points.write(
                f"{name}_{log}", [Point(id=i, payload={"q": {"text": f"{log} of jets number{i % 20}"}}) for i in range(1, 41)]
            )
        migration = migration_of(name, spec, match=matched(OLD))
        own = await compare_migration(context, migration, queries_field="asked")
        assert (own.queries, own.is_judged, own.verdict) == (2, False, "inconclusive")
        assert f"payload field 'asked' of '{name}_old'" in own.query_source
        logged = await compare_migration(context, migration, queries_field=f"{name}_log/q.text")
        assert (logged.queries, logged.counts.judged) == (20, 0)
        sample = await compare_on_sample(
            context, collection=f"{name}_old", models=[OLD, NEW], text_field=TEXT, queries_field=f"{name}_log/q.text", sample_size=20
        )
        assert (sample.queries, sample.verdict) == (20, "inconclusive")
        for field, error, why in (
            (f"{name}_secret/q.text", Refused, "ALLOWED_COLLECTIONS"),
            (f"{name}_gone/q", NotFound, "no collection"),
            ("nowhere", Refused, "holds no text that could be a query"),
            (f"{name}_log/", Refused, "names no payload field"),
        ):
            with pytest.raises(error, match=why):
                await compare_migration(context, migration, queries_field=field)
        with pytest.raises(Refused, match="not two of them"):
            await compare_migration(context, migration, queries=["a"], queries_field="asked")
