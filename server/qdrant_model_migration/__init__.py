"""Migrate a Qdrant collection to another embedding model, without downtime and without losing a point."""

__version__ = "0.1.0"
