"""How does an app of LangChain, LlamaIndex or Haystack write to both collections, and query afterwards? By a client that its store is given.

A store of these frameworks writes by a Qdrant client, so a client that mirrors what it writes leaves every other line of the app as it is.
Tests run the code with the frameworks against real servers.
"""

from __future__ import annotations

from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.model import ModelKind

_CLIENT = '''

# --- for {title}

import asyncio
import inspect

from qdrant_client import AsyncQdrantClient

# Method -> its argument that says which points. By any other (upload_collection, batch_update_points) only the source is written, and the catch-up follows.
MIRRORED = {{
    "upsert": "points",
    "upload_points": "points",
    "delete": "points_selector",
    "set_payload": "points",
    "overwrite_payload": "points",
    "delete_payload": "points",
    "clear_payload": "points_selector",
    "update_vectors": "points",
    "delete_vectors": "points",
}}


class DualWriteClient(QdrantClient):
    """A client as any other, with its arguments and `embed_documents` (see DualWriter): what it writes to SOURCE, or to an alias of it, reaches TARGET too."""

    def __init__(self, *arguments, embed_documents, **options):
        super().__init__(*arguments, **options)
        self.dual = DualWriter(self, embed_documents)

    def leads_to_source(self, name: str) -> bool:
        if name in (SOURCE, TARGET):
            return name == SOURCE
        try:
            return name in [a.alias_name for a in self.get_collection_aliases(SOURCE).aliases]
        except Exception:  # a key that may not list aliases, for example
            logging.getLogger("dual_write").warning("target not updated; the catch-up will", exc_info=True)
            return False


class DualWriteAsyncClient(AsyncQdrantClient):
    """The same for what the app awaits; `client` is its DualWriteClient."""

    def __init__(self, *arguments, client: DualWriteClient, **options):
        super().__init__(*arguments, **options)
        self.client = client


def prepared(client: DualWriteClient, call: inspect.BoundArguments, argument: str):
    """The ids of what is about to be written; None where that is not the source."""
    if not client.leads_to_source(call.arguments["collection_name"]):
        return None
    if hasattr(call.arguments[argument], "__next__"):
        call.arguments[argument] = list(call.arguments[argument])  # an iterator can be read once
    call.arguments["wait"] = True  # what is mirrored is read from the source
    return client.dual.concerned(call.arguments[argument])


def mirrored(name: str, argument: str):
    original = getattr(QdrantClient, name)

    def write(self, *arguments, **options):
        call = inspect.signature(original).bind(self, *arguments, **options)
        ids = prepared(self, call, argument)
        try:
            return original(*call.args, **call.kwargs)
        finally:
            if ids:
                self.dual.mirror(ids)

    return write


def mirrored_async(name: str, argument: str):
    original = getattr(AsyncQdrantClient, name)

    async def write(self, *arguments, **options):
        call = inspect.signature(original).bind(self, *arguments, **options)
        ids = await asyncio.to_thread(prepared, self.client, call, argument)
        try:
            return await original(*call.args, **call.kwargs)
        finally:
            if ids:
                await asyncio.to_thread(self.client.dual.mirror, ids)

    return write


for name, argument in MIRRORED.items():
    setattr(DualWriteClient, name, mirrored(name, argument))
    if inspect.iscoroutinefunction(getattr(AsyncQdrantClient, name, None)):
        setattr(DualWriteAsyncClient, name, mirrored_async(name, argument))
'''

_TITLES = {"langchain": "LangChain", "llama_index": "LlamaIndex", "haystack": "Haystack"}

_HANDED = {
    "langchain": """

# LangChain: the store as before, and this client. `new_embeddings` is the Embeddings of {model}.
#     client = DualWriteClient(url=..., embed_documents=new_embeddings.embed_documents)
#     store = QdrantVectorStore(client=client, collection_name=..., embedding=old_embeddings)  # SOURCE or its alias, as before
""",
    "llama_index": """

# LlamaIndex: the store as before, and these clients. `new_embed_model` is the embedding of {model}. It is given the text at {text!r} alone;
# an index embeds a node's metadata with it (MetadataMode.EMBED) unless they are excluded.
#     client = DualWriteClient(url=..., embed_documents=new_embed_model.get_text_embedding_batch)
#     store = QdrantVectorStore(..., client=client, aclient=DualWriteAsyncClient(url=..., client=client))  # SOURCE or its alias, as before
""",
    "haystack": '''

# Haystack: the store as before, with `embed_documents`. A document embedder of {model} is asked through it:
#     embed_documents = lambda texts: [d.embedding for d in embedder.run([Document(content=t) for t in texts])["documents"]]
#     store = DualWriteDocumentStore(url=..., index=..., embedding_dim=..., embed_documents=embed_documents)  # index: SOURCE or its alias, as before
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore


class DualWriteDocumentStore(QdrantDocumentStore):
    """The store makes its clients itself: they are replaced when it has."""

    def __init__(self, *arguments, embed_documents, **options):
        super().__init__(*arguments, **options)
        self.embed_documents = embed_documents

    def _initialize_client(self):
        super()._initialize_client()
        if not isinstance(self._client, DualWriteClient):
            self._client.close()
            self._client = DualWriteClient(**self._prepare_client_params(), embed_documents=self.embed_documents)

    async def _initialize_async_client(self):
        await asyncio.to_thread(self._initialize_client)
        await super()._initialize_async_client()
        if not isinstance(self._async_client, DualWriteAsyncClient):
            await self._async_client.close()
            self._async_client = DualWriteAsyncClient(**self._prepare_client_params(), client=self._client)
''',
}

_QUERIES = {
    "langchain": """\
# LangChain: {model}, query side{prefix}; `embedding` is its Embeddings
store = QdrantVectorStore(client=client, collection_name={collection!r}, embedding=embedding{using_langchain}{distance_langchain})
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
store = QdrantDocumentStore(url=url, index={collection!r}, embedding_dim={dimensions}{using_haystack}{distance_haystack})
retriever = QdrantEmbeddingRetriever(document_store=store, top_k=10)
hits = retriever.run(query_embedding=embedder.run(text)["embedding"])["documents"]
""",
}
_SIMILARITIES = {"Dot": "dot_product", "Euclid": "l2"}
"""Haystack's words for what is not cosine, which is its default as it is LangChain's."""
_HAYSTACK_FIELD = "text-dense"
"""What the store names its dense vector beside a sparse one."""


def framework_writes(migration: Migration) -> str:
    """What follows the dual-write snippet for an app of the framework that wrote the source; empty for the plain client, for other than dense vectors, and across servers."""
    is_dense = migration.model is not None and migration.spec.kind is ModelKind.DENSE
    if migration.framework not in _HANDED or not is_dense or migration.is_across_servers or migration.texts is not None:
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
    distance = _distance(migration)
    return _QUERIES[migration.framework].format(
        model=migration.spec.name,
        collection=collection,
        dimensions=migration.spec.dimensions,
        prefix=f", prefixed {migration.spec.query_prefix!r}" if migration.spec.query_prefix else "",
        using_langchain=f", vector_name={made.field!r}" if made.field else "",
        using_llama_index=f", dense_vector_name={made.field!r}" if made.field else "",
        using_haystack=", use_sparse_embeddings=True" if made.field else "",
        distance_langchain=f", distance=models.Distance.{distance.upper()}" if distance != "Cosine" else "",
        distance_haystack=f", similarity={_SIMILARITIES[distance]!r}" if distance in _SIMILARITIES else "",
    )


def _distance(migration: Migration) -> str:
    """Of the made field, as the target was created."""
    vectors = migration.create.get("vectors") or {}
    field = vectors if "size" in vectors else vectors.get(migration.making.field) or {}
    return str(field.get("distance") or "Cosine")
