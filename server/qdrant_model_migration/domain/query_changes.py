"""How does the app query afterwards? Python for its client or framework, one snippet a kind of change; tests run them."""

from __future__ import annotations

from qdrant_model_migration.domain.framework_writes import framework_query
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind, ModelSpec

_DENSE = """\
# {model}, query side{prefix}
hits = client.query_points({collection!r}, query=embed_query(text){using}, limit=10)
"""

_HYBRID = """\
# Hybrid search: the dense query as before, beside {model}; fused by reciprocal ranks
hits = client.query_points(
    {collection!r},
    prefetch=[
        models.Prefetch(query=embed_dense_query(text){dense}, limit=50),
        models.Prefetch(query={sparse}, using={field!r}, limit=50),
    ],
    query=models.FusionQuery(fusion=models.Fusion.RRF),
    limit=10,
)
"""

_RERANK = """\
# Reranking: the dense query as before finds 100 points, the token vectors of {model} order them
hits = client.query_points(
    {collection!r},
    prefetch=models.Prefetch(query=embed_dense_query(text){dense}, limit=100),
    query=embed_query_tokens(text),  # one row a token, query side
    using={field!r},
    limit=10,
)
"""


def query_snippet(migration: Migration) -> str:
    """The query that a reader makes once it has changed; empty where queries stay as they are."""
    if migration.made is None:
        return ""
    model, made = migration.spec, migration.making
    # Through the alias where one moves: the app knows its own name for it.
    collection = migration.alias or (migration.source.collection if migration.is_in_place else migration.target.collection)
    dense = f", using={migration.dense_field!r}" if migration.dense_field else ""
    match model.kind:
        case ModelKind.SPARSE:
            return _HYBRID.format(model=model.name, collection=collection, dense=dense, field=made.field, sparse=_sparse_query(model))
        case ModelKind.MULTIVECTOR:
            return _RERANK.format(model=model.name, collection=collection, dense=dense, field=made.field)
        case _:
            if told := framework_query(migration, collection):
                return told
            using = f", using={made.field!r}" if made.field else ""
            prefix = f", prefixed {model.query_prefix!r}" if model.query_prefix else ""
            return _DENSE.format(model=model.name, collection=collection, using=using, prefix=prefix)


def _sparse_query(model: ModelSpec) -> str:
    if not model.is_server_side:
        return "embed_sparse_query(text)"
    name = model.name.partition(":")[2]
    options = f", options={dict(model.options)!r}" if model.options else ""
    return f"models.Document(text=text, model={f'qdrant/{name}' if '/' not in name else name!r}{options})"
