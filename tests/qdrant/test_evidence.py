"""Does a comparison on a sample leave what 'truncate' asks for, and nothing where it must not?"""

from __future__ import annotations

from functools import partial

import pytest

from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.errors import NotFound, Refused
from qdrant_model_migration.operations.compare_sample import compare_on_sample
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.truncating import check_truncation
from qdrant_model_migration.results import Comparison
from tests.conftest import Backend, NewServer
from tests.qdrant.test_compare import TEXT, corpus, filled, judged_queries, opened

pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

WHOLE, CUT = "builtin:hashing-256", "builtin:hashing-256@128"


async def compared(
    context: OperationContext, collection: str, *, margin: float = 0.01, models: tuple[str, ...] = (WHOLE, CUT)
) -> Comparison:
    return await compare_on_sample(
        context, collection=collection, models=models, text_field=TEXT, queries=judged_queries(corpus(120), 40), margin=margin
    )


async def test_a_comparison_with_cut_vectors_decides_whether_they_may_be_cut(
    any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through an alias and by names in short, since it is kept under those that the loaded models have."""
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_docs", WHOLE, corpus(120))
        gateway, ledger = await context.gateway(), await context.ledger()
        await gateway.point_alias(f"{name}_alias", f"{name}_docs")
        source = await gateway.describe(f"{name}_docs")
        spec = (await context.model(CUT)).spec
        cut = partial(check_truncation, context, "default", source, source.dense[0], spec, match=None)
        with pytest.raises(Refused, match=r"No comparison of the two was made"):
            await cut(current=WHOLE)
        assert not await ledger.exists()

        await compared(context, f"{name}_docs", models=(WHOLE, "builtin:hashing-512"))
        assert not await ledger.exists()

        strict = await compared(context, f"{name}_alias", margin=0, models=("hashing-256", "hashing-512", "hashing-256@128"))
        assert strict.verdicts[CUT] != "equivalent"
        assert set(strict.verdicts) == {"builtin:hashing-512", CUT}
        kept = await ledger.evidence(f"{name}_docs", WHOLE, CUT)
        assert kept is not None
        assert kept.verdict == strict.verdicts[CUT]
        (share,) = [m for m in strict.metrics if m.metric == "overlap@10" and m.model == CUT]
        assert f"overlap@10 {share.value:.3f} ({share.ci_low:.3f} to {share.ci_high:.3f}) on 40 queries (40 given queries)" in kept.text
        assert any(f"Kept as evidence for strategy 'truncate' in '{context.settings.ledger}': '{CUT}'." in note for note in strict.notes)
        assert await ledger.evidence(f"{name}_docs", WHOLE, "builtin:hashing-512") is None
        with pytest.raises(Refused, match=rf"was {kept.verdict}: ndcg@10 .*margin 0\)"):
            await cut(current="hashing-256")

        await compared(context, f"{name}_alias", margin=0.9)
        await cut(current="hashing-256")
        await cut(current=WHOLE)


async def test_read_only_mode_keeps_no_evidence(any_qdrant: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_docs", WHOLE, corpus(120))
    async with opened(any_qdrant, monkeypatch, QDRANT_MIGRATION_READ_ONLY="true") as context:
        found = await compared(context, f"{name}_docs")
        assert CUT in found.verdicts
        assert not await (await context.ledger()).exists()
        assert not any("evidence" in note or "could not be kept" in note for note in found.notes)


async def test_a_key_that_may_only_read_leads_to_a_note(new_server: NewServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = new_server("1.17.0", api_key="writes", read_only_key="reads")
    backend = Backend(name="1.17.0", environment=server.environment, version="1.17.0")
    async with opened(backend, monkeypatch) as context:
        await filled(context, "docs", WHOLE, corpus(120))
    monkeypatch.setenv("QDRANT_API_KEY", "reads")
    async with OperationContext(read_settings()) as context:
        found = await compared(context, "docs")
        assert len(found.metrics) == 7
        assert any(f"found about '{CUT}' could not be kept for strategy 'truncate': The key lacks a right" in note for note in found.notes)
        assert await (await context.gateway()).collections() == ["docs"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("qdrant:bm25", r"'qdrant:bm25' is a sparse model.*strategy='add_sparse', model='qdrant:bm25'.*compare_models\(migration_id="),
        ("fastembed:colbert-ir/colbertv2.0", r"is a multivector model.*strategy='add_multivector'"),
    ],
)
async def test_models_that_are_not_dense_are_refused_with_the_way(
    any_qdrant: Backend, name: str, model: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(any_qdrant, monkeypatch) as context:
        await filled(context, f"{name}_docs", WHOLE, corpus(20))
        with pytest.raises(Refused, match=message):
            await compare_on_sample(context, collection=f"{name}_docs", models=[WHOLE, model], text_field=TEXT)
        with pytest.raises(NotFound):
            await compare_on_sample(context, collection=f"{name}_docs", models=[WHOLE, "builtin:nothing"], text_field=TEXT)
