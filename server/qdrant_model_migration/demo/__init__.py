"""What does a whole migration look like? One command shows it on shipped documents, through a real MCP client, and leaves nothing behind."""

from __future__ import annotations

from functools import partial

import anyio
from rich.console import Console

from qdrant_model_migration.demo.run import run_demo

__all__ = ["demo", "run_demo"]


def demo(console: Console | None = None, *, keep: bool = False) -> int:
    """Run the demonstration to its end; the exit code of the command."""
    code = 1
    try:
        code = anyio.run(partial(run_demo, console, keep=keep))
    except* SystemExit:
        # The console's, when nobody reads the output any more (`demo | head`); what was made is removed by then.
        pass
    return code
