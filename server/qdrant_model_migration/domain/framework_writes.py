"""How does an app of LangChain, LlamaIndex or Haystack write to both collections, and query afterwards? By a client that its store is given.

A store of these frameworks writes by a Qdrant client, by `upsert`, `upload_points` and `delete` alone. A client that mirrors what these
three write leaves every other line of the app as it is. Tests run the code with the frameworks against real servers.
"""

from __future__ import annotations

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind

_CLIENT = '''

# --- for {title}

import asyncio

from qdrant_client import AsyncQdrantClient


def written_ids(points) -> list:
    """The ids of what `upsert` and `upload_points` take."""
    return list(points.ids) if isinstance(points, models.Batch) else [p.id for p in points]


class DualWriteClient(QdrantClient):
    """A client as any other, with its arguments and `embed_documents` (see DualWriter): what it writes to SOURCE reaches TARGET too."""

    def __init__(self, *arguments, embed_documents, **options):
        super().__init__(*arguments, **options)
        self.dual = DualWriter(self, embed_documents)

    def upsert(self, collection_name, points, **options):
        return self._both(collection_name, written_ids(points), super().upsert, collection_name, points, **options)

    def upload_points(self, collection_name, points, **options):
        points = list(points)  # it may be an iterator, which can be read once
        return self._both(collection_name, written_ids(points), super().upload_points, collection_name, points, **options)

    def delete(self, collection_name, points_selector, **options):
        if collection_name == SOURCE:
            points_selector = self.dual.selected(points_selector)  # before they are gone
        return self._both(collection_name, points_selector, super().delete, collection_name, points_selector, **options)

    def _both(self, collection_name, ids, write, *arguments, **options):
        try:
            return write(*arguments, **options)
        finally:
            if collection_name == SOURCE:
                self.dual.mirror(ids)


class DualWriteAsyncClient(AsyncQdrantClient):
    """The same for what the app awaits; `dual` is that of its DualWriteClient."""

    def __init__(self, *arguments, dual, **options):
        super().__init__(*arguments, **options)
        self.dual = dual

    async def upsert(self, collection_name, points, **options):
        return await self._both(collection_name, written_ids(points), super().upsert(collection_name, points, **options))

    async def delete(self, collection_name, points_selector, **options):
        if collection_name == SOURCE:
            points_selector = await asyncio.to_thread(self.dual.selected, points_selector)
        return await self._both(collection_name, points_selector, super().delete(collection_name, points_selector, **options))

    async def _both(self, collection_name, ids, write):
        try:
            return await write
        finally:
            if collection_name == SOURCE:
                await asyncio.to_thread(self.dual.mirror, ids)
'''

_TITLES = {"langchain": "LangChain", "llama_index": "LlamaIndex", "haystack": "Haystack"}

_HANDED = {
    "langchain": """

# LangChain: the store as before, and this client. `new_embeddings` is the Embeddings of {model}.
#     client = DualWriteClient(url=..., embed_documents=new_embeddings.embed_documents)
#     store = QdrantVectorStore(client=client, collection_name=SOURCE, embedding=old_embeddings)
""",
    "llama_index": """

# LlamaIndex: the store as before, and these clients. `new_embed_model` is the embedding of {model}. It is given the text at {text!r} alone;
# an index embeds a node's metadata with it (MetadataMode.EMBED) unless they are excluded.
#     client = DualWriteClient(url=..., embed_documents=new_embed_model.get_text_embedding_batch)
#     store = QdrantVectorStore(SOURCE, client=client, aclient=DualWriteAsyncClient(url=..., dual=client.dual))
""",
    "haystack": '''

# Haystack: the store as before, with `embed_documents`. A document embedder of {model} is asked through it:
#     embed_documents = lambda texts: [d.embedding for d in embedder.run([Document(content=t) for t in texts])["documents"]]
#     store = DualWriteDocumentStore(url=..., index=SOURCE, embedding_dim=..., embed_documents=embed_documents)
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore


class DualWriteDocumentStore(QdrantDocumentStore):
    """The store makes its clients itself, so it is given these."""

    def __init__(self, *arguments, embed_documents, **options):
        super().__init__(*arguments, **options)
        settings = self._prepare_client_params()
        self._client = DualWriteClient(**settings, embed_documents=embed_documents)
        self._async_client = DualWriteAsyncClient(**settings, dual=self._client.dual)
''',
}

_QUERIES = {
    "langchain": """\
# LangChain: {model}, query side{prefix}; `embedding` is its Embeddings
store = QdrantVectorStore(client=client, collection_name={collection!r}, embedding=embedding{using_langchain})
hits = store.similarity_search(text, k=10)
""",
    "llama_index": """\
# LlamaIndex: {model}, query side{prefix}; `embed_model` is its embedding
store = QdrantVectorStore({collection!r}, client=client{using_llama_index})
index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
hits = index.as_retriever(similarity_top_k=10).retrieve(text)
""",
    "haystack": """\
# Haystack: {model}, query side{prefix}; `embedder` is its text embedder
store = QdrantDocumentStore(url=url, index={collection!r}, embedding_dim={dimensions}{using_haystack})
retriever = QdrantEmbeddingRetriever(document_store=store, top_k=10)
hits = retriever.run(query_embedding=embedder.run(text)["embedding"])["documents"]
""",
}
_HAYSTACK_FIELD = "text-dense"
"""What the store names its dense vector beside a sparse one."""


def framework_writes(migration: Migration) -> str:
    """What follows the dual-write snippet for an app of the framework that wrote the source; empty for the plain client, and across two servers."""
    if migration.framework not in _HANDED or migration.is_across_servers or migration.texts is not None:
        return ""
    handed = _HANDED[migration.framework].format(model=migration.spec.name, text=migration.text_field)
    return _CLIENT.format(title=_TITLES[migration.framework]) + handed


def framework_query(migration: Migration, collection: str) -> str:
    """The query of a dense field in the framework's words; empty where the plain client's has to do."""
    made = migration.making
    if migration.framework not in _QUERIES or migration.spec.kind is not ModelKind.DENSE:
        return ""
    if migration.framework == "haystack" and made.field not in ("", _HAYSTACK_FIELD):
        # Its store reads these two names alone.
        return ""
    return _QUERIES[migration.framework].format(
        model=migration.spec.name,
        collection=collection,
        dimensions=migration.spec.dimensions,
        prefix=f", prefixed {migration.spec.query_prefix!r}" if migration.spec.query_prefix else "",
        using_langchain=f", vector_name={made.field!r}" if made.field else "",
        using_llama_index=f", dense_vector_name={made.field!r}" if made.field else "",
        using_haystack=", use_sparse_embeddings=True" if made.field else "",
    )
