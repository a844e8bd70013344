"""Apps of LangChain, LlamaIndex and Haystack, as their tutorials write them: `apps.py FRAMEWORK CONFIG`, run by an environment of its own.

Each line of the input is a step; what it came to is printed as JSON. The snippets of the tool are imported and executed as they were given.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from qdrant_model_migration.embedders.builtin import HashingEmbedder

Raw = dict[str, Any]


class App:
    """What the three have in common: an old and a new model, a snippet that is pasted, and a query that is."""

    def __init__(self, config: Raw) -> None:
        self.config = config
        self.url, self.source = config["url"], config["collection"]
        self.named = config["named"]
        """The alias by which it writes."""
        self.old, self.new = (HashingEmbedder(config[name]) for name in ("old", "new"))

    def embed(self, model: HashingEmbedder, texts: list[str]) -> list[list[float]]:
        return [[float(x) for x in model._embed_one(text)] for text in texts]

    def client(self) -> QdrantClient:
        return QdrantClient(url=self.url, check_compatibility=False)

    def pasted(self) -> Any:
        """The dual-write snippet, as a module of the app's own."""
        spec = importlib.util.spec_from_file_location("dual_writes", self.config["snippet"])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def queried(self, text: str, names: Raw) -> Any:
        """What the query snippet leaves as `hits`."""
        scope = {"text": text, "url": self.url, **names}
        exec(Path(self.config["query"]).read_text(), scope)  # noqa: S102 - the tool's own answer
        return scope["hits"]

    def seed(self, texts: list[str]) -> Raw:
        raise NotImplementedError

    def write(self, number: int) -> Raw:
        """Add, replace and delete, by every method of the store that does; the texts of what is there afterwards, and of what is not."""
        raise NotImplementedError

    def query(self, text: str) -> str:
        """The text that is found first."""
        raise NotImplementedError


class LangChain(App):
    def _embeddings(self, model: HashingEmbedder) -> Any:
        from langchain_core.embeddings import Embeddings

        app = self

        class Hashing(Embeddings):  # type: ignore[misc]  # no types here
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return app.embed(model, texts)

            def embed_query(self, text: str) -> list[float]:
                return app.embed(model, [text])[0]

        return Hashing()

    def seed(self, texts: list[str]) -> Raw:
        from langchain_core.documents import Document
        from langchain_qdrant import QdrantVectorStore

        documents = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate(texts)]
        QdrantVectorStore.from_documents(documents, self._embeddings(self.old), url=self.url, collection_name=self.source)
        return {}

    def write(self, number: int) -> Raw:
        from langchain_core.documents import Document
        from langchain_qdrant import QdrantVectorStore

        client = self.pasted().DualWriteClient(
            url=self.url, check_compatibility=False, embed_documents=self._embeddings(self.new).embed_documents
        )
        store = QdrantVectorStore(client=client, collection_name=self.named, embedding=self._embeddings(self.old))
        kept = f"chain kept {number}"
        # Ids of its own are without hyphens.
        added = store.add_texts([f"chain added {number} {n}" for n in range(70)])
        replaced = str(uuid.UUID(int=number + 1))
        store.add_documents([Document(page_content=f"chain before {number}")], ids=[replaced])
        store.add_documents([Document(page_content=f"chain after {number}")], ids=[replaced])
        asyncio.run(store.aadd_texts([kept]))
        client.set_payload(self.named, {"metadata": {"seen": number}}, added[:10])
        store.delete(added[:2])
        asyncio.run(store.adelete(added[2:4]))
        there = [f"chain added {number} {n}" for n in range(4, 70)] + [f"chain after {number}", kept]
        return {"there": there, "gone": [f"chain added {number} {n}" for n in range(4)] + [f"chain before {number}"]}

    def query(self, text: str) -> str:
        from langchain_qdrant import QdrantVectorStore

        hits = self.queried(
            text, {"QdrantVectorStore": QdrantVectorStore, "client": self.client(), "embedding": self._embeddings(self.new)}
        )
        return str(hits[0].page_content)


class LlamaIndex(App):
    def _model(self, model: HashingEmbedder) -> Any:
        from llama_index.core.embeddings import BaseEmbedding

        app = self

        class Hashing(BaseEmbedding):  # type: ignore[misc]  # no types here
            def _get_text_embedding(self, text: str) -> list[float]:
                return app.embed(model, [text])[0]

            _get_query_embedding = _get_text_embedding

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_text_embedding(query)

        return Hashing(model_name="hashing")

    def _nodes(self, texts: list[str], of: str) -> list[Any]:
        """Nodes of one document, embedded by the old model."""
        from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode

        document = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=of)}
        vectors = self.embed(self.old, texts)
        return [TextNode(text=t, relationships=document, embedding=v) for t, v in zip(texts, vectors, strict=True)]

    def seed(self, texts: list[str]) -> Raw:
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        QdrantVectorStore(self.source, client=self.client()).add(self._nodes(texts, "first"))
        return {}

    def write(self, number: int) -> Raw:
        from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        module = self.pasted()
        client = module.DualWriteClient(
            url=self.url, check_compatibility=False, embed_documents=self._model(self.new).get_text_embedding_batch
        )
        aclient = module.DualWriteAsyncClient(url=self.url, check_compatibility=False, client=client)
        store = QdrantVectorStore(self.named, client=client, aclient=aclient)
        nodes = self._nodes([f"index added {number} {n}" for n in range(70)], f"document {number}")
        store.add(nodes)
        nodes[0].text = f"index after {number}"
        store.add(nodes[:1])
        store.add(self._nodes([f"index whole {number} {n}" for n in range(3)], f"whole {number}"))
        store.delete(f"whole {number}")
        store.delete_nodes([node.node_id for node in nodes[1:3]])
        named = MetadataFilter(key="doc_id", value=f"filtered {number}", operator=FilterOperator.EQ)
        store.add(self._nodes([f"index filtered {number}"], f"filtered {number}"))
        store.delete_nodes(filters=MetadataFilters(filters=[named]))
        asyncio.run(self._awaited(store, number))
        there = [f"index added {number} {n}" for n in range(3, 70)] + [f"index after {number}", f"index awaited {number}"]
        gone = [f"index added {number} {n}" for n in range(3)] + [f"index whole {number} {n}" for n in range(3)]
        return {"there": there, "gone": [*gone, f"index filtered {number}", f"index left {number}"]}

    async def _awaited(self, store: Any, number: int) -> None:
        await store.async_add(self._nodes([f"index awaited {number}"], f"awaited {number}"))
        await store.async_add(self._nodes([f"index left {number}"], f"left {number}"))
        await store.adelete(f"left {number}")

    def query(self, text: str) -> str:
        from llama_index.core import VectorStoreIndex
        from llama_index.vector_stores.qdrant import QdrantVectorStore

        names = {"QdrantVectorStore": QdrantVectorStore, "VectorStoreIndex": VectorStoreIndex, "client": self.client()}
        return str(self.queried(text, {**names, "embed_model": self._model(self.new)})[0].node.get_content())


class Haystack(App):
    def _documents(self, texts: list[str], **meta: Any) -> list[Any]:
        from haystack import Document

        vectors = self.embed(self.old, texts)
        return [Document(content=t, embedding=v, meta=meta) for t, v in zip(texts, vectors, strict=True)]

    def seed(self, texts: list[str]) -> Raw:
        from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

        store = QdrantDocumentStore(url=self.url, index=self.source, embedding_dim=self.config["old_size"], similarity="cosine")
        store.write_documents(self._documents(texts, batch=-1))
        return {}

    def write(self, number: int) -> Raw:
        from dataclasses import replace

        from haystack.document_stores.types import DuplicatePolicy

        def embed_documents(texts: list[str]) -> list[list[float]]:
            return self.embed(self.new, texts)

        store = self.pasted().DualWriteDocumentStore(
            url=self.url, index=self.named, embedding_dim=self.config["old_size"], embed_documents=embed_documents
        )
        documents = self._documents([f"stack added {number} {n}" for n in range(70)], batch=number)
        store.write_documents(documents)
        store.write_documents([replace(documents[0], content=f"stack after {number}")], policy=DuplicatePolicy.OVERWRITE)
        store.delete_documents([d.id for d in documents[1:3]])
        store.write_documents(self._documents([f"stack filtered {number}"], batch=f"filtered {number}"))
        store.delete_by_filter({"field": "meta.batch", "operator": "==", "value": f"filtered {number}"})
        store.close()
        store.update_by_filter({"field": "meta.batch", "operator": "==", "value": number}, {"seen": True})
        asyncio.run(self._awaited(store, number))
        there = [f"stack added {number} {n}" for n in range(3, 70)] + [f"stack after {number}", f"stack awaited {number}"]
        gone = [f"stack added {number} {n}" for n in range(3)]
        return {"there": there, "gone": [*gone, f"stack filtered {number}", f"stack left {number}"]}

    async def _awaited(self, store: Any, number: int) -> None:
        await store.write_documents_async(self._documents([f"stack awaited {number}"]))
        left = self._documents([f"stack left {number}"])
        await store.write_documents_async(left)
        await store.delete_documents_async([left[0].id])

    def query(self, text: str) -> str:
        from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
        from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

        app = self

        class Embedder:
            def run(self, text: str) -> Raw:
                return {"embedding": app.embed(app.new, [text])[0]}

        names = {"QdrantDocumentStore": QdrantDocumentStore, "QdrantEmbeddingRetriever": QdrantEmbeddingRetriever, "embedder": Embedder()}
        return str(self.queried(text, names)[0].content)


APPS: dict[str, type[App]] = {"langchain": LangChain, "llama_index": LlamaIndex, "haystack": Haystack}


def main() -> None:
    app = APPS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    for line in sys.stdin:
        step, argument = json.loads(line)
        print(json.dumps(getattr(app, step)(argument)), flush=True)


if __name__ == "__main__":
    main()
