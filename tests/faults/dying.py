"""A worker that ends itself with SIGKILL at a named place: `python dying.py "operations.swap:sweep before" m-123456`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any


def arm(place: str) -> None:
    """Replace the function by one that dies before, or after, doing its work."""
    where, when = place.split()
    module_name, _, path = where.partition(":")
    owner: Any = importlib.import_module(f"qdrant_model_migration.{module_name}")
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, last)

    async def dies(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            await original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, last, dies)


if __name__ == "__main__":
    arm(sys.argv[1])
    from qdrant_model_migration.cli import app

    app(["worker", sys.argv[2]])
