"""How does a person begin? A prompt for each goal, which hosts offer in a menu."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from qdrant_model_migration.tools.support import App


def add_prompts(server: MCPServer[App]) -> None:
    """Offer one for each goal that a person may have."""

    @server.prompt(name="replace_model", title="Replace the embedding model", description="Move a collection to another embedding model")
    def replace_model(collection: str, model: str = "") -> str:
        wanted = f"to {model}" if model else "to a better embedding model; help me choose one"
        return f"Move my Qdrant collection {collection!r} {wanted}. Begin with inspect_collection, show me the decision card before creating anything, and ask me before the swap."

    @server.prompt(
        name="compare_models", title="Compare embedding models", description="Find out whether another model searches better on my data"
    )
    def compare(collection: str, models: str) -> str:
        return f"Compare these embedding models on my Qdrant collection {collection!r}: {models}. Nothing may be written. Ask me for real queries first."

    @server.prompt(name="add_hybrid_search", title="Add sparse vectors", description="From dense to hybrid search")
    def add_sparse(collection: str) -> str:
        return f"I want hybrid search on my Qdrant collection {collection!r}. Inspect it, then tell me with recommend_strategy (goal add_sparse) what is possible."

    @server.prompt(name="add_reranking", title="Add multivectors", description="Late-interaction reranking")
    def add_multivector(collection: str) -> str:
        return f"I want late-interaction reranking on my Qdrant collection {collection!r}. Inspect it, then use recommend_strategy with goal add_multivector."

    @server.prompt(name="shrink_vectors", title="Make vectors smaller", description="Less RAM and disk without losing quality unseen")
    def shrink(collection: str) -> str:
        return f"The vectors of my Qdrant collection {collection!r} take too much memory. Use recommend_strategy with goals shrink_vectors and change_quantization and explain the trade-offs."

    @server.prompt(name="resume_migration", title="Take up a migration", description="Find the open migration and go on with it")
    def resume(migration_id: str = "") -> str:
        which = f"migration {migration_id}" if migration_id else "the open migration"
        return f"Look with migration_status at {which}, tell me where it stands, and propose how to go on."
