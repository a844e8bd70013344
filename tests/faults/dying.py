"""A worker that sends itself a signal at a named place: `python dying.py "operations.swap:sweep before" SIGKILL m-123456`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any


def arm(place: str, number: signal.Signals) -> None:
    """Replace the function by one that sends the signal before, or after, doing its work the first time."""
    where, when = place.split()
    module_name, _, path = where.partition(":")
    owner: Any = importlib.import_module(f"qdrant_model_migration.{module_name}")
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original = getattr(owner, last)
    is_sent = False

    async def dies(*arguments: Any, **options: Any) -> Any:
        nonlocal is_sent
        answer = await original(*arguments, **options) if when == "after" else None
        if not is_sent:
            is_sent = True
            os.kill(os.getpid(), number)
        return answer if when == "after" else await original(*arguments, **options)

    setattr(owner, last, dies)


if __name__ == "__main__":
    arm(sys.argv[1], signal.Signals[sys.argv[2]])
    from qdrant_model_migration.cli import app

    app(["worker", sys.argv[3]])
