"""The console script: without arguments it serves over stdio, as hosts start it."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from qdrant_model_migration.cli import app

    app(prog_name="qdrant-model-migration")


if __name__ == "__main__":
    main()
